//! How measurements add up.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::MetricRow;
use crate::record::{MetricDelta, MetricValue};

/// Nanoseconds of a bucket of time.
const MINUTE_NS: i64 = 60_000_000_000;

/// Returns the minute of a time, since 1970 UTC.
pub(crate) fn minute(unix_ns: i64) -> i64 {
    unix_ns.div_euclid(MINUTE_NS)
}

/// Which figures add up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) instrument: Arc<str>,
    pub(crate) operation: Arc<str>,
    pub(crate) upstream: Option<Arc<str>>,
    pub(crate) name: Option<Arc<str>>,
}

/// Figures of one minute.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) unit: Arc<str>,
    pub(crate) value: MetricValue,
}

/// Figures per minute and key.
pub(crate) type Figures = BTreeMap<(i64, Key), Figure>;

/// Adds measurements to those of a minute.
pub(crate) fn gather(figures: &mut Figures, minute: i64, deltas: Vec<MetricDelta>) {
    for MetricDelta { instrument, unit, operation, upstream, name, value } in deltas {
        let key = Key { instrument, operation: operation.into(), upstream, name };
        merge(figures, (minute, key), Figure { unit, value });
    }
}

/// Adds a figure. One of another shape, which comes from another version, takes the place.
pub(crate) fn merge(figures: &mut Figures, key: (i64, Key), figure: Figure) {
    match figures.entry(key) {
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(figure);
        }
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            if !entry.get_mut().value.add(&figure.value) {
                entry.insert(figure);
            }
        }
    }
}

/// Adds figures up over their minutes, by key.
pub(crate) fn sum(figures: impl IntoIterator<Item = (Key, Figure)>) -> Vec<MetricRow> {
    let mut sums = Figures::new();
    for (key, figure) in figures {
        merge(&mut sums, (0, key), figure);
    }
    let row = |((_, key), figure): ((i64, Key), Figure)| MetricRow {
        instrument: key.instrument.to_string(),
        unit: figure.unit.to_string(),
        operation: key.operation.to_string(),
        upstream: key.upstream.as_deref().map(str::to_owned),
        name: key.name.as_deref().map(str::to_owned),
        value: figure.value,
    };
    sums.into_iter().map(row).collect()
}

impl MetricValue {
    /// Adds another value of the same shape. Returns false, and adds nothing, if it has another.
    pub fn add(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(total), Self::Counter(more)) => {
                *total = total.saturating_add(*more);
                true
            }
            (
                Self::Histogram { count, sum, bounds, buckets },
                Self::Histogram {
                    count: more_count,
                    sum: more_sum,
                    bounds: same_bounds,
                    buckets: more_buckets,
                },
            ) if bounds == same_bounds && buckets.len() == more_buckets.len() => {
                *count = count.saturating_add(*more_count);
                *sum += more_sum;
                for (bucket, more) in buckets.iter_mut().zip(more_buckets) {
                    *bucket = bucket.saturating_add(*more);
                }
                true
            }
            (Self::Counter(_) | Self::Histogram { .. }, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(bounds: &[f64], buckets: &[u64]) -> MetricValue {
        let count = buckets.iter().sum();
        MetricValue::Histogram { count, sum: 1.5, bounds: bounds.into(), buckets: buckets.into() }
    }

    #[test]
    fn values_of_one_shape_add_up() {
        let mut counter = MetricValue::Counter(2);
        let mut histogram_sum = histogram(&[1.0], &[1, 2]);

        assert!(counter.add(&MetricValue::Counter(3)));
        assert!(histogram_sum.add(&histogram(&[1.0], &[3, 4])));

        assert_eq!(counter, MetricValue::Counter(5));
        let MetricValue::Histogram { count, sum, buckets, .. } = histogram_sum else { panic!() };
        assert_eq!((count, sum, buckets), (10, 3.0, vec![4, 6]));
    }

    #[test]
    fn values_of_different_shapes_do_not() {
        let mut value = histogram(&[1.0], &[1, 2]);

        assert!(!value.add(&histogram(&[2.0], &[1, 2])));
        assert!(!value.add(&MetricValue::Counter(1)));
        assert_eq!(value, histogram(&[1.0], &[1, 2]));
    }

    #[test]
    fn minutes_before_1970_round_down() {
        assert_eq!((minute(-1), minute(59_999_999_999), minute(60_000_000_000)), (-1, 0, 1));
    }
}
