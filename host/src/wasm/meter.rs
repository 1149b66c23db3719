//! The instruments of one plugin, and what they gathered since they were last drained.
//!
//! Who exports or stores the figures is not known here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ultra_store::{MetricDelta, MetricValue};

use crate::pipeline::{Exchange, Operation};

/// Instruments one plugin may have.
pub(super) const INSTRUMENTS_MAX: usize = 32;

/// Bounds one histogram may have.
const BOUNDS_MAX: usize = 64;

/// Tools, prompts and URIs told apart between two drains; the rest are counted as [`OTHER`].
const ROWS_MAX: usize = 2_000;

/// Name under which what exceeds [`ROWS_MAX`] is counted.
const OTHER: &str = "(other)";

/// The instruments of one plugin.
#[derive(Default)]
pub(super) struct Meter {
    // Held for one figure at a time, never over a call into a plugin.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    instruments: Vec<Instrument>,
    rows: Vec<Row>,
    by_key: HashMap<Key, usize>,
    /// The row that was needed last.
    last: usize,
    /// Times the rows were drained: a [`Place`] of an earlier time is worth nothing.
    drained: u64,
}

#[derive(PartialEq)]
struct Instrument {
    name: Arc<str>,
    unit: Arc<str>,
    /// None: a counter.
    bounds: Option<Arc<[f64]>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    operation: Operation,
    upstream: Option<Arc<str>>,
    name: Option<Arc<str>>,
}

impl Key {
    /// Returns whether an exchange certainly goes to this row; it may, even if not.
    fn is_of(&self, exchange: &Exchange) -> bool {
        let same = |a: &Option<Arc<str>>, b: &Option<Arc<str>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, _) | (_, None) => false,
        };
        self.operation == exchange.operation
            && same(&self.upstream, &exchange.upstream)
            && same(&self.name, &exchange.name)
    }
}

struct Row {
    key: Key,
    /// By instrument; none where nothing was measured.
    values: Vec<Option<MetricValue>>,
}

/// Where a call's figures go; spares the look-up from the second figure on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    row: usize,
    drained: u64,
}

/// Why a figure or an instrument was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeterError {
    #[error("more than {INSTRUMENTS_MAX} instruments")]
    TooMany,
    #[error("instrument `{0}` exists with another kind, unit or bounds")]
    Other(String),
    #[error("the bounds of `{0}` do not rise, or are more than {BOUNDS_MAX}")]
    Bounds(String),
    #[error("there is no such instrument")]
    Unknown,
}

impl Meter {
    /// Returns the number of a counter (`bounds` none) or histogram, made when it is new.
    pub(super) fn instrument(
        &self,
        name: &str,
        unit: &str,
        bounds: Option<&[f64]>,
    ) -> Result<u32, MeterError> {
        if bounds
            .is_some_and(|bounds| bounds.len() > BOUNDS_MAX || !bounds.is_sorted_by(|a, b| a < b))
        {
            return Err(MeterError::Bounds(name.into()));
        }
        let new =
            Instrument { name: name.into(), unit: unit.into(), bounds: bounds.map(Into::into) };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.instruments.iter().position(|old| old.name == new.name) {
            Some(index) if inner.instruments[index] == new => Ok(index as u32),
            Some(_) => Err(MeterError::Other(name.into())),
            None if inner.instruments.len() == INSTRUMENTS_MAX => Err(MeterError::TooMany),
            None => {
                inner.instruments.push(new);
                Ok(inner.instruments.len() as u32 - 1)
            }
        }
    }

    pub(super) fn add(
        &self,
        instrument: u32,
        amount: u64,
        exchange: &Exchange,
        place: &mut Option<Place>,
    ) -> Result<(), MeterError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.value(instrument, exchange, place)? {
            MetricValue::Counter(sum) => *sum = sum.saturating_add(amount),
            MetricValue::Histogram { .. } => return Err(MeterError::Unknown),
        }
        Ok(())
    }

    pub(super) fn sample(
        &self,
        instrument: u32,
        sample: f64,
        exchange: &Exchange,
        place: &mut Option<Place>,
    ) -> Result<(), MeterError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.value(instrument, exchange, place)? {
            MetricValue::Counter(_) => return Err(MeterError::Unknown),
            // No sum survives one sample that is not a number.
            MetricValue::Histogram { .. } if !sample.is_finite() => {}
            MetricValue::Histogram { count, sum, bounds, buckets } => {
                *count += 1;
                *sum += sample;
                buckets[bounds.partition_point(|&bound| bound < sample)] += 1;
            }
        }
        Ok(())
    }

    /// Takes what was gathered since the last time.
    pub(super) fn drain(&self) -> Vec<MetricDelta> {
        let (rows, instruments) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.drained += 1;
            inner.by_key.clear();
            let names: Vec<_> = inner
                .instruments
                .iter()
                .map(|i| (Arc::clone(&i.name), Arc::clone(&i.unit)))
                .collect();
            (std::mem::take(&mut inner.rows), names)
        };
        let mut deltas = Vec::new();
        for Row { key, values } in rows {
            for ((instrument, unit), value) in instruments.iter().zip(values) {
                deltas.extend(value.map(|value| MetricDelta {
                    instrument: Arc::clone(instrument),
                    unit: Arc::clone(unit),
                    operation: key.operation.as_str(),
                    upstream: key.upstream.clone(),
                    name: key.name.clone(),
                    value,
                }));
            }
        }
        deltas
    }
}

impl Inner {
    fn value(
        &mut self,
        instrument: u32,
        exchange: &Exchange,
        place: &mut Option<Place>,
    ) -> Result<&mut MetricValue, MeterError> {
        let index = instrument as usize;
        if index >= self.instruments.len() {
            return Err(MeterError::Unknown);
        }
        let row = match *place {
            Some(place) if place.drained == self.drained => place.row,
            _ => self.row(exchange),
        };
        *place = Some(Place { row, drained: self.drained });
        let values = &mut self.rows[row].values;
        if values.len() <= index {
            values.resize(index + 1, None);
        }
        let bounds = &self.instruments[index].bounds;
        Ok(values[index].get_or_insert_with(|| match bounds {
            None => MetricValue::Counter(0),
            Some(bounds) => MetricValue::Histogram {
                count: 0,
                sum: 0.0,
                bounds: Arc::clone(bounds),
                buckets: vec![0; bounds.len() + 1],
            },
        }))
    }

    fn row(&mut self, exchange: &Exchange) -> usize {
        // Calls of one tool come in runs, and its names are shared: no need to read them.
        if let Some(row) = self.rows.get(self.last)
            && row.key.is_of(exchange)
        {
            return self.last;
        }
        self.last = self.look_up(exchange);
        self.last
    }

    fn look_up(&mut self, exchange: &Exchange) -> usize {
        // A name that no upstream has is the client's text: it must not make rows.
        let name = exchange.name.clone().filter(|_| exchange.upstream.is_some());
        let mut key =
            Key { operation: exchange.operation, upstream: exchange.upstream.clone(), name };
        if let Some(&row) = self.by_key.get(&key) {
            return row;
        }
        if self.rows.len() >= ROWS_MAX {
            key.name = Some(OTHER.into());
            if let Some(&row) = self.by_key.get(&key) {
                return row;
            }
        }
        let row = self.rows.len();
        self.rows.push(Row { key: key.clone(), values: vec![None; self.instruments.len()] });
        self.by_key.insert(key, row);
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::testing::exchange;

    #[test]
    fn figures_add_up_per_tool_until_they_are_drained() {
        let meter = Meter::default();
        let calls = meter.instrument("calls", "{call}", None).unwrap();
        let time = meter.instrument("time", "s", Some(&[0.1, 1.0])).unwrap();
        let exchange = exchange("read");
        let mut place = None;

        meter.add(calls, 1, &exchange, &mut None).unwrap();
        meter.add(calls, 2, &exchange, &mut place).unwrap();
        for sample in [0.05, 0.1, 0.2, 5.0, f64::NAN] {
            meter.sample(time, sample, &exchange, &mut place).unwrap();
        }
        let deltas = meter.drain();

        assert_eq!(deltas[0].value, MetricValue::Counter(3));
        assert_eq!(
            (deltas[0].upstream.as_deref(), deltas[0].name.as_deref()),
            (Some("files"), Some("read"))
        );
        let MetricValue::Histogram { count, buckets, .. } = &deltas[1].value else {
            panic!("{deltas:?}")
        };
        assert_eq!((*count, &buckets[..]), (4, &[2, 1, 1][..]));
        assert_eq!(meter.drain(), []);
        meter.add(calls, 1, &exchange, &mut place).unwrap();
        assert_eq!(meter.drain().len(), 1);
    }

    #[test]
    fn more_names_than_the_limit_share_a_row() {
        let meter = Meter::default();
        let calls = meter.instrument("calls", "{call}", None).unwrap();

        for i in 0..ROWS_MAX + 10 {
            meter.add(calls, 1, &exchange(&format!("tool-{i}")), &mut None).unwrap();
        }
        let deltas = meter.drain();

        assert_eq!(deltas.len(), ROWS_MAX + 1);
        assert_eq!(deltas[ROWS_MAX].name.as_deref(), Some(OTHER));
        assert_eq!(deltas[ROWS_MAX].value, MetricValue::Counter(10));
    }

    #[test]
    fn names_of_no_upstream_make_no_rows() {
        let meter = Meter::default();
        let calls = meter.instrument("calls", "{call}", None).unwrap();

        for name in ["a", "b"] {
            let mut exchange = exchange(name);
            exchange.upstream = None;
            meter.add(calls, 1, &exchange, &mut None).unwrap();
        }

        assert_eq!(meter.drain().len(), 1);
    }

    #[test]
    fn an_instrument_keeps_its_kind() {
        let meter = Meter::default();
        let calls = meter.instrument("calls", "{call}", None).unwrap();

        assert_eq!(meter.instrument("calls", "{call}", None).unwrap(), calls);
        assert!(meter.instrument("calls", "s", None).is_err());
        assert!(meter.instrument("falling", "s", Some(&[2.0, 1.0])).is_err());
        assert!(meter.sample(calls, 1.0, &exchange("read"), &mut None).is_err());
        assert!(meter.add(99, 1, &exchange("read"), &mut None).is_err());
    }
}
