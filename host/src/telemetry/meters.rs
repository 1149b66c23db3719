//! Measurements added up since the gateway started.
//!
//! OTLP's cumulative temporality: what Prometheus understands, and what survives a lost export.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric,
    number_data_point,
};
use ultra_store::{MetricDelta, MetricValue};

use super::semconv;

/// Streams per instrument: OpenTelemetry's default cardinality limit. The rest shares one stream.
const STREAMS_MAX: usize = 2_000;

/// Instruments: all that the gateway's plugins may have (32 each), several times over.
const INSTRUMENTS_MAX: usize = 256;

/// Everything measured, by instrument.
pub(super) struct Meters {
    start_unix_ns: u64,
    instruments: BTreeMap<Arc<str>, Instrument>,
}

struct Instrument {
    unit: Arc<str>,
    start_unix_ns: u64,
    streams: Streams,
}

enum Streams {
    Counter(BTreeMap<Key, u64>),
    Histogram { bounds: Arc<[f64]>, streams: BTreeMap<Key, Samples> },
}

#[derive(Default)]
struct Samples {
    count: u64,
    sum: f64,
    buckets: Vec<u64>,
}

/// What tells streams of an instrument apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Of { operation: &'static str, upstream: Option<Arc<str>>, name: Option<Arc<str>> },
    Overflow,
}

impl Meters {
    /// Starts counting.
    pub(super) fn new(start_unix_ns: u64) -> Self {
        Self { start_unix_ns, instruments: BTreeMap::new() }
    }

    /// Adds a delta.
    ///
    /// An instrument that changed its shape, as after new settings of a plugin, starts anew.
    pub(super) fn add(&mut self, delta: &MetricDelta) {
        if !self.instruments.contains_key(&delta.instrument)
            && self.instruments.len() >= INSTRUMENTS_MAX
        {
            return;
        }
        let instrument =
            self.instruments.entry(delta.instrument.clone()).or_insert_with(|| Instrument {
                unit: delta.unit.clone(),
                start_unix_ns: self.start_unix_ns,
                streams: Streams::of(&delta.value),
            });
        if !instrument.streams.takes(&delta.value) {
            instrument.streams = Streams::of(&delta.value);
            instrument.start_unix_ns = semconv::unix_ns();
        }
        match (&mut instrument.streams, &delta.value) {
            (Streams::Counter(streams), MetricValue::Counter(value)) => {
                *stream(streams, delta) += value;
            }
            (
                Streams::Histogram { streams, .. },
                MetricValue::Histogram { count, sum, buckets, .. },
            ) => {
                let samples = stream(streams, delta);
                samples.count += count;
                samples.sum += sum;
                samples.buckets.resize(buckets.len(), 0);
                samples.buckets.iter_mut().zip(buckets).for_each(|(total, more)| *total += more);
            }
            // `takes` has just seen to it that they match.
            (Streams::Counter(_), MetricValue::Histogram { .. })
            | (Streams::Histogram { .. }, MetricValue::Counter(_)) => {}
        }
    }

    /// Returns everything measured up to now.
    pub(super) fn collect(&self, now_unix_ns: u64) -> Vec<Metric> {
        let metrics = self.instruments.iter().map(|(name, instrument)| {
            let (name, description) = semconv::instrument(name);
            Metric {
                name: name.to_owned(),
                description: description.to_owned(),
                unit: instrument.unit.to_string(),
                data: Some(instrument.data(now_unix_ns)),
                ..Metric::default()
            }
        });
        metrics.collect()
    }
}

impl Instrument {
    fn data(&self, now_unix_ns: u64) -> metric::Data {
        match &self.streams {
            Streams::Counter(streams) => {
                let points = streams.iter().map(|(key, value)| NumberDataPoint {
                    attributes: key.attributes(),
                    start_time_unix_nano: self.start_unix_ns,
                    time_unix_nano: now_unix_ns,
                    value: Some(number_data_point::Value::AsInt(
                        i64::try_from(*value).unwrap_or(i64::MAX),
                    )),
                    ..NumberDataPoint::default()
                });
                metric::Data::Sum(Sum {
                    data_points: points.collect(),
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                    is_monotonic: true,
                })
            }
            Streams::Histogram { bounds, streams } => {
                let points = streams.iter().map(|(key, samples)| HistogramDataPoint {
                    attributes: key.attributes(),
                    start_time_unix_nano: self.start_unix_ns,
                    time_unix_nano: now_unix_ns,
                    count: samples.count,
                    sum: Some(samples.sum),
                    bucket_counts: samples.buckets.clone(),
                    explicit_bounds: bounds.to_vec(),
                    ..HistogramDataPoint::default()
                });
                metric::Data::Histogram(Histogram {
                    data_points: points.collect(),
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                })
            }
        }
    }
}

impl Streams {
    fn of(value: &MetricValue) -> Self {
        match value {
            MetricValue::Counter(_) => Self::Counter(BTreeMap::new()),
            MetricValue::Histogram { bounds, .. } => {
                Self::Histogram { bounds: bounds.clone(), streams: BTreeMap::new() }
            }
        }
    }

    fn takes(&self, value: &MetricValue) -> bool {
        match (self, value) {
            (Self::Counter(_), MetricValue::Counter(_)) => true,
            (Self::Histogram { bounds, .. }, MetricValue::Histogram { bounds: theirs, .. }) => {
                bounds == theirs
            }
            (Self::Counter(_), MetricValue::Histogram { .. })
            | (Self::Histogram { .. }, MetricValue::Counter(_)) => false,
        }
    }
}

impl Key {
    fn attributes(&self) -> Vec<KeyValue> {
        match self {
            Self::Of { operation, upstream, name } => {
                semconv::measurement(operation, upstream.as_deref(), name.as_deref())
            }
            Self::Overflow => semconv::overflow(),
        }
    }
}

/// Returns the stream a delta belongs to.
fn stream<'a, T: Default>(streams: &'a mut BTreeMap<Key, T>, delta: &MetricDelta) -> &'a mut T {
    let key = Key::Of {
        operation: delta.operation,
        upstream: delta.upstream.clone(),
        name: delta.name.clone().filter(|_| semconv::measured_by_name(delta.operation)),
    };
    if streams.len() >= STREAMS_MAX && !streams.contains_key(&key) {
        return streams.entry(Key::Overflow).or_default();
    }
    streams.entry(key).or_default()
}
