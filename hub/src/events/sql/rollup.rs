//! What a batch adds to the tables that pages sum up from: series, and usage by hour.
//!
//! Rows come out in the order of their keys: transactions that touch the same ones then wait for each other,
//! and not in a circle.

use std::collections::BTreeMap;

use crate::db::{Value, values};
use crate::events::labels::Labels;
use crate::events::lines::{Body, Record};
use crate::events::{Origin, sql::series::Place};

const HOUR_NS: i64 = 3600 * 1_000_000_000;

/// Operation of the calls that tools are counted by.
const TOOL_CALL: &str = "tool_call";

/// What is added, by key.
#[derive(Debug, Default)]
pub(super) struct Rollup<'a> {
    series: BTreeMap<i64, SeriesUse<'a>>,
    tools: BTreeMap<(&'a str, i64, &'a str), Added>,
    gateways: BTreeMap<(&'a str, i64), Added>,
}

#[derive(Debug)]
struct SeriesUse<'a> {
    labels: &'a Labels,
    named: bool,
    transport: Option<&'a str>,
    calls: i64,
    duration_ns: i64,
    first_ns: i64,
    last_ns: i64,
}

#[derive(Debug)]
struct Added {
    calls: i64,
    errors: i64,
    duration_ns: i64,
    last_ns: i64,
}

/// Returns the hour since 1970 that a time is in.
pub(super) fn hour(at_ns: i64) -> i64 {
    at_ns.div_euclid(HOUR_NS)
}

impl<'a> Rollup<'a> {
    /// Counts a record that is new.
    pub(super) fn add(&mut self, record: &'a Record, place: Place) {
        let (duration_ns, transport, is_call) = match &record.body {
            Body::Trace(call) => (call.duration_ns, call.transport.as_deref(), true),
            Body::Audit { .. } => (0, None, false),
        };
        let (labels, at_ns) = (&record.labels, record.at_ns);
        let series = self.series.entry(place.series).or_insert_with(|| SeriesUse {
            labels,
            named: place.named,
            transport,
            calls: 0,
            duration_ns: 0,
            first_ns: at_ns,
            last_ns: at_ns,
        });
        series.calls += 1;
        series.duration_ns += duration_ns;
        series.first_ns = series.first_ns.min(at_ns);
        if at_ns >= series.last_ns {
            (series.last_ns, series.transport) = (at_ns, transport);
        }
        let Some(upstream) = labels.upstream.as_deref().filter(|_| is_call) else { return };
        let is_tool = place.named && labels.operation == TOOL_CALL;
        let tool = labels.name.as_deref().filter(|_| is_tool).unwrap_or_default();
        let error = i64::from(labels.outcome != "success");
        let tool = self.tools.entry((upstream, hour(at_ns), tool)).or_insert(Added::none(at_ns));
        tool.add(error, duration_ns, at_ns);
        let gateway = self.gateways.entry((upstream, hour(at_ns))).or_insert(Added::none(at_ns));
        gateway.add(error, duration_ns, at_ns);
    }

    pub(super) fn series_rows(&self, origin: Origin) -> Vec<Vec<Value>> {
        let row = |(id, series): (&i64, &SeriesUse<'_>)| {
            let labels = series.labels;
            values![
                origin.workspace,
                *id,
                labels.kind.as_str(),
                origin.gateway,
                &labels.operation,
                &labels.method,
                &labels.severity,
                &labels.outcome,
                labels.upstream.as_ref(),
                labels.name.as_ref().filter(|_| series.named),
                &labels.client,
                series.named,
                series.transport,
                series.calls,
                series.duration_ns,
                series.first_ns,
                series.last_ns,
            ]
            .into()
        };
        self.series.iter().map(row).collect()
    }

    pub(super) fn tool_rows(&self, origin: Origin) -> Vec<Vec<Value>> {
        let row = |((upstream, hour, name), added): (&(&str, i64, &str), &Added)| {
            let key = values![origin.workspace, *upstream, *hour, *name];
            added.row(key)
        };
        self.tools.iter().map(row).collect()
    }

    pub(super) fn gateway_rows(&self, origin: Origin) -> Vec<Vec<Value>> {
        let row = |((upstream, hour), added): (&(&str, i64), &Added)| {
            let key = values![origin.workspace, *upstream, *hour, origin.gateway];
            added.row(key)
        };
        self.gateways.iter().map(row).collect()
    }
}

impl Added {
    fn none(at_ns: i64) -> Self {
        Self { calls: 0, errors: 0, duration_ns: 0, last_ns: at_ns }
    }

    fn add(&mut self, error: i64, duration_ns: i64, at_ns: i64) {
        self.calls += 1;
        self.errors += error;
        self.duration_ns += duration_ns;
        self.last_ns = self.last_ns.max(at_ns);
    }

    fn row(&self, key: [Value; 4]) -> Vec<Value> {
        let sums = values![self.calls, self.errors, self.duration_ns, self.last_ns];
        key.into_iter().chain(sums).collect()
    }
}
