//! `ultra metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use ultra_store::{MetricFilter, MetricRow, MetricValue, Status};

use super::records::{Select, interrupted, none};
use super::store::open_reader;
use super::table::{Cell, Column, Paint, Table};
use super::text::took;
use super::traces::status;
use super::{CliResult, Output};
use crate::config::Config;

/// Instruments of the built-in metrics component.
const CALLS: &str = "mcp.calls";
const ERRORS: &str = "mcp.errors";
const DURATION: &str = "mcp.call.duration";

/// How often the figures are read again; gateways hand them in no more often than every second.
const FOLLOW_PERIOD: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Show how often tools were called, how many calls failed and how long they took
///
/// Quantiles are estimated from the histograms, linearly within a bucket.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    select: Select,
    /// Only tools of which a call ended so
    #[arg(long, value_parser = status())]
    status: Option<Status>,
    /// Print the figures of every instrument as JSON: one array, or with --follow one per line
    #[arg(long)]
    json: bool,
    /// Show the figures again whenever they change, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(args: &Args, config: &Config, out: &mut Output) -> CliResult {
    let mut store = open_reader(config)?;
    let mut shown = None;
    loop {
        let filter = MetricFilter {
            instrument: None,
            upstream: args.select.upstream.clone(),
            name: args.select.name.clone(),
            since_unix_ns: args.select.since_unix_ns(),
            until_unix_ns: args.select.until_unix_ns(),
        };
        if store.is_none() {
            store = open_reader(config)?;
        }
        let rows = match &store {
            Some(store) => ended(store.metric_rows(&filter)?, args.status),
            None => Vec::new(),
        };
        if !args.follow {
            return once(&rows, args.json, store.is_some(), out);
        }
        let text = serde_json::to_string(&rows).unwrap_or_default();
        if shown.as_ref() != Some(&text) {
            again(&rows, args.json, shown.is_some(), out)?;
            shown = Some(text);
        }
        if interrupted(FOLLOW_PERIOD).await {
            return Ok(());
        }
    }
}

/// Returns the rows of those tools of which a call ended like this.
fn ended(mut rows: Vec<MetricRow>, status: Option<Status>) -> Vec<MetricRow> {
    let Some(status) = status else { return rows };
    let mut tools: BTreeMap<Tool, Figures> = BTreeMap::new();
    for row in &rows {
        tools.entry(Tool::of(row)).or_default().add(&row.instrument, &row.value);
    }
    rows.retain(|row| {
        let figures = &tools[&Tool::of(row)];
        match status {
            Status::Error => figures.errors > 0,
            Status::Success => figures.calls > figures.errors,
        }
    });
    rows
}

fn once(rows: &[MetricRow], json: bool, is_store: bool, out: &mut Output) -> CliResult {
    match rows {
        rows if json => out.json(&rows),
        [] => none("measurements", is_store, out),
        rows => out.table(&table(rows)),
    }
}

fn again(rows: &[MetricRow], json: bool, is_second: bool, out: &mut Output) -> CliResult {
    if json {
        out.json_line(&rows)?;
    } else {
        if out.width().is_some() {
            out.piece(CLEAR)?;
        } else if is_second {
            out.line("")?;
        }
        out.table(&table(rows))?;
    }
    Ok(out.flush()?)
}

/// What figures stand for: upstream, operation, name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tool(String, String, String);

impl Tool {
    fn of(row: &MetricRow) -> Self {
        let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        Self(or_dash(&row.upstream), row.operation.clone(), or_dash(&row.name))
    }
}

/// What is known of the calls of one tool.
#[derive(Debug, Default)]
struct Figures {
    calls: u64,
    errors: u64,
    durations: Option<Histogram>,
}

/// A distribution of seconds.
#[derive(Debug, Clone)]
struct Histogram {
    count: u64,
    sum: f64,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
}

/// An estimate from a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Estimate {
    About(f64),
    /// Beyond the last bound.
    Above(f64),
}

impl Figures {
    fn add(&mut self, instrument: &str, value: &MetricValue) {
        match (instrument, value) {
            (CALLS, MetricValue::Counter(calls)) => self.calls += calls,
            (ERRORS, MetricValue::Counter(errors)) => self.errors += errors,
            (DURATION, MetricValue::Histogram { count, sum, bounds, buckets }) => {
                let more = Histogram {
                    count: *count,
                    sum: *sum,
                    bounds: bounds.to_vec(),
                    buckets: buckets.clone(),
                };
                match &mut self.durations {
                    Some(durations) => durations.add(&more),
                    None => self.durations = Some(more),
                }
            }
            _ => {}
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let share =
            if self.calls == 0 { 0.0 } else { 100.0 * self.errors as f64 / self.calls as f64 };
        let errors = if self.errors == 0 { Paint::Plain } else { Paint::Red };
        let durations = self.durations.as_ref().filter(|durations| durations.count > 0);
        let mean = durations.map(|durations| took(durations.sum / durations.count as f64));
        let mut cells = vec![
            Cell::new(self.calls.to_string()),
            Cell::new(self.errors.to_string()).paint(errors),
            Cell::new(format!("{share:.1} %")).paint(errors),
            Cell::or_dash(mean.as_deref()),
        ];
        for quantile in [0.5, 0.95, 0.99] {
            let text =
                durations.and_then(|durations| durations.quantile(quantile)).map(|it| match it {
                    Estimate::About(seconds) => took(seconds),
                    Estimate::Above(seconds) => format!("> {}", took(seconds)),
                });
            cells.push(Cell::or_dash(text.as_deref()));
        }
        cells
    }
}

impl Histogram {
    /// Adds another one. One with other bounds, of another version of the component, is left out.
    fn add(&mut self, more: &Self) {
        if self.bounds != more.bounds || self.buckets.len() != more.buckets.len() {
            return;
        }
        self.count += more.count;
        self.sum += more.sum;
        self.buckets.iter_mut().zip(&more.buckets).for_each(|(to, from)| *to += from);
    }

    fn quantile(&self, quantile: f64) -> Option<Estimate> {
        let rank = quantile * self.count as f64;
        let mut below = 0.0;
        for (index, &samples) in self.buckets.iter().enumerate() {
            let here = samples as f64;
            if samples > 0 && below + here >= rank {
                let lower = index.checked_sub(1).and_then(|index| self.bounds.get(index)).copied();
                let lower = lower.unwrap_or(0.0);
                return Some(match self.bounds.get(index) {
                    Some(upper) => Estimate::About(lower + (upper - lower) * (rank - below) / here),
                    None => Estimate::Above(lower),
                });
            }
            below += here;
        }
        None
    }
}

fn table(rows: &[MetricRow]) -> Table {
    let mut tools: BTreeMap<Tool, Figures> = BTreeMap::new();
    let mut total = Figures::default();
    for row in
        rows.iter().filter(|row| [CALLS, ERRORS, DURATION].contains(&row.instrument.as_str()))
    {
        tools.entry(Tool::of(row)).or_default().add(&row.instrument, &row.value);
        total.add(&row.instrument, &row.value);
    }
    let mut table = Table::new(&[
        Column::new("UPSTREAM").cut(),
        Column::new("OPERATION"),
        Column::new("NAME").cut(),
        Column::new("CALLS").right(),
        Column::new("ERRORS").right(),
        Column::new("RATE").right(),
        Column::new("MEAN").right(),
        Column::new("P50").right(),
        Column::new("P95").right(),
        Column::new("P99").right(),
    ]);
    let line = |names: [&str; 3], figures: &Figures| {
        names.into_iter().map(Cell::new).chain(figures.cells()).collect::<Vec<_>>()
    };
    for (Tool(upstream, operation, name), figures) in &tools {
        table.rows.push(line([upstream, operation, name], figures));
    }
    if tools.len() > 1 {
        let bold = |cell: Cell| cell.paint(Paint::Bold);
        table.rows.push(line(["total", "", ""], &total).into_iter().map(bold).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Captured;
    use crate::cli::records::tests::metric;

    fn histogram(buckets: [u64; 4]) -> MetricValue {
        let count = buckets.iter().sum();
        MetricValue::Histogram {
            count,
            sum: count as f64 * 0.004,
            bounds: [0.001, 0.01, 0.1].into(),
            buckets: buckets.into(),
        }
    }

    #[test]
    fn figures_stand_per_upstream_and_tool() {
        let rows = [
            metric(CALLS, "echo", MetricValue::Counter(1_000)),
            metric(ERRORS, "echo", MetricValue::Counter(25)),
            metric(DURATION, "echo", histogram([500, 450, 40, 10])),
            metric(CALLS, "add", MetricValue::Counter(3)),
            metric(DURATION, "add", histogram([0, 3, 0, 0])),
            MetricRow {
                upstream: None,
                name: None,
                operation: "tool_list".into(),
                ..metric(CALLS, "", MetricValue::Counter(2))
            },
            metric("mcp.request.bytes", "echo", histogram([1, 0, 0, 0])),
        ];
        let written = Captured::default();

        once(&rows, false, true, &mut written.output(Some(100))).unwrap();

        insta::assert_snapshot!(written.text(), @r"
        UPSTREAM    OPERATION  NAME  CALLS  ERRORS   RATE     MEAN      P50      P95      P99
        -           tool_list  -         2       0  0.0 %        -        -        -        -
        everything  tool_call  add       3       0  0.0 %  4.00 ms  5.50 ms  9.55 ms  9.91 ms
        everything  tool_call  echo   1000      25  2.5 %  4.00 ms  1.00 ms  10.0 ms   100 ms
        total                         1005      25  2.5 %  4.00 ms  1.03 ms  10.0 ms  99.9 ms
        ");
    }

    #[test]
    fn tools_are_chosen_by_how_their_calls_ended() {
        let rows = vec![
            metric(CALLS, "good", MetricValue::Counter(2)),
            metric(CALLS, "mixed", MetricValue::Counter(3)),
            metric(ERRORS, "mixed", MetricValue::Counter(1)),
            metric(CALLS, "bad", MetricValue::Counter(4)),
            metric(ERRORS, "bad", MetricValue::Counter(4)),
        ];
        let names = |status| {
            let rows = ended(rows.clone(), status);
            let mut names: Vec<_> = rows.into_iter().filter_map(|row| row.name).collect();
            names.dedup();
            names
        };

        assert_eq!(names(None), ["good", "mixed", "bad"]);
        assert_eq!(names(Some(Status::Success)), ["good", "mixed"]);
        assert_eq!(names(Some(Status::Error)), ["mixed", "bad"]);
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let histogram = |buckets: [u64; 4]| Histogram {
            count: buckets.iter().sum(),
            sum: 0.0,
            bounds: vec![1.0, 10.0, 100.0],
            buckets: buckets.to_vec(),
        };

        assert_eq!(histogram([10, 0, 0, 0]).quantile(0.5), Some(Estimate::About(0.5)));
        assert_eq!(histogram([0, 10, 0, 0]).quantile(0.5), Some(Estimate::About(5.5)));
        assert_eq!(histogram([5, 0, 5, 0]).quantile(0.5), Some(Estimate::About(1.0)));
        assert_eq!(histogram([5, 0, 5, 0]).quantile(0.95), Some(Estimate::About(91.0)));
        assert_eq!(histogram([0, 0, 0, 1]).quantile(0.5), Some(Estimate::Above(100.0)));
        assert_eq!(histogram([0, 0, 0, 0]).quantile(0.5), None);
    }

    #[test]
    fn json_is_the_rows_of_the_store() {
        let written = Captured::default();

        once(
            &[metric(CALLS, "echo", MetricValue::Counter(1))],
            true,
            true,
            &mut written.output(None),
        )
        .unwrap();

        insta::assert_snapshot!(written.text(), @r#"
        [
          {
            "instrument": "mcp.calls",
            "unit": "{call}",
            "operation": "tool_call",
            "upstream": "everything",
            "name": "echo",
            "counter": 1
          }
        ]
        "#);
    }
}
