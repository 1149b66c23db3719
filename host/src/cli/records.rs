//! What `ultra traces` and `ultra audit` have in common: filters, tables, following.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use ultra_store::{Reader, StoreError};

use super::table::{Cell, Column, Layout, Paint, Table};
use super::text::Moment;
use super::{CliError, CliResult, Output};

/// How often the store is asked for what is new.
const FOLLOW_PERIOD: Duration = Duration::from_millis(500);

/// More new rows than a gateway stores in a period.
const FOLLOW_ROWS_MAX: usize = 1_000_000;

/// So many rows are shown unless more are asked for.
const LIMIT: usize = 50;

/// Which records.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Select {
    /// Only of this upstream
    #[arg(long, value_name = "NAME")]
    pub(super) upstream: Option<String>,
    /// Only of this tool, prompt or resource URI, as the upstream calls it
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Only from then on: 10m (ago), 2026-11-20 or 2026-11-20T10:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Only before then, likewise
    #[arg(long, value_name = "WHEN", value_parser = Moment::parse)]
    until: Option<Moment>,
}

impl Select {
    pub(super) fn since_unix_ns(&self) -> Option<i64> {
        Some(self.since?.unix_ns(Timestamp::now()))
    }

    pub(super) fn until_unix_ns(&self) -> Option<i64> {
        Some(self.until?.unix_ns(Timestamp::now()))
    }
}

/// How records are shown.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// At most so many, the newest
    #[arg(short = 'n', long, value_name = "ROWS", default_value_t = LIMIT)]
    pub(super) limit: usize,
    /// Print JSON: one document, or with --follow one line per record
    #[arg(long)]
    pub(super) json: bool,
    /// Go on with what is recorded from now on, until Ctrl-C
    #[arg(short, long)]
    pub(super) follow: bool,
}

impl Default for Show {
    fn default() -> Self {
        Self { limit: LIMIT, json: false, follow: false }
    }
}

/// A record as a row.
pub(super) trait Row: Serialize {
    /// What many of them are called.
    const PLURAL: &'static str;
    const COLUMNS: &'static [Column];

    fn seq(&self) -> i64;
    fn cells(&self) -> Vec<Cell>;

    /// Why it ended as it did, on a line of its own below the row.
    fn note(&self) -> Option<&str>;
}

/// Shows the records that `read` returns, newest first, or as they come.
///
/// `read` gets the sequence number after which rows are wanted, and how many at most. `open` returns
/// nothing as long as there is no store.
pub(super) async fn show<R: Row>(
    show: &Show,
    open: impl FnMut() -> Result<Option<Box<dyn Reader>>, CliError>,
    read: impl Fn(&dyn Reader, Option<i64>, usize) -> Result<Vec<R>, StoreError>,
    out: &mut Output,
) -> CliResult {
    if show.follow { follow(show, open, read, out).await } else { list(show, open, read, out) }
}

fn list<R: Row>(
    show: &Show,
    mut open: impl FnMut() -> Result<Option<Box<dyn Reader>>, CliError>,
    read: impl Fn(&dyn Reader, Option<i64>, usize) -> Result<Vec<R>, StoreError>,
    out: &mut Output,
) -> CliResult {
    let store = open()?;
    let rows = match &store {
        Some(store) => read(store.as_ref(), None, show.limit)?,
        None => Vec::new(),
    };
    if show.json {
        return out.json(&rows);
    }
    if rows.is_empty() {
        return none(R::PLURAL, store.is_some(), out);
    }
    let table = table(&rows);
    let layout = table.layout(out.width());
    out.table_head(&table, &layout)?;
    rows.iter().try_for_each(|row| line(row, &layout, out))
}

/// Says that there is nothing to show, and why.
pub(super) fn none(plural: &str, is_store: bool, out: &mut Output) -> CliResult {
    if is_store {
        return out.done(&format!("No {plural} like that"));
    }
    out.done(&format!("No {plural} yet"))?;
    out.hint("`ultra start` records them while a client uses it")
}

async fn follow<R: Row>(
    show: &Show,
    mut open: impl FnMut() -> Result<Option<Box<dyn Reader>>, CliError>,
    read: impl Fn(&dyn Reader, Option<i64>, usize) -> Result<Vec<R>, StoreError>,
    out: &mut Output,
) -> CliResult {
    let mut store = None;
    let mut after = None;
    let mut layout: Option<Layout> = None;
    loop {
        if store.is_none() {
            store = open()?;
        }
        if let Some(store) = &store {
            let limit = if after.is_some() { FOLLOW_ROWS_MAX } else { show.limit };
            let mut rows = read(store.as_ref(), after, limit)?;
            rows.sort_by_key(Row::seq);
            after = rows.last().map(Row::seq).or(after).or(Some(0));
            if show.json {
                rows.iter().try_for_each(|row| out.json_line(row))?;
            } else {
                follow_table(&rows, &mut layout, out)?;
            }
        }
        out.flush()?;
        if interrupted(FOLLOW_PERIOD).await {
            return Ok(());
        }
    }
}

/// Adds rows to a table whose widths are those of the first rows.
fn follow_table<R: Row>(rows: &[R], layout: &mut Option<Layout>, out: &mut Output) -> CliResult {
    let layout = match layout {
        Some(layout) => layout,
        None => {
            let table = table(rows);
            let first = layout.insert(table.layout_to_grow(out.width()));
            out.table_head(&table, first)?;
            first
        }
    };
    rows.iter().try_for_each(|row| line(row, layout, out))
}

fn table<R: Row>(rows: &[R]) -> Table {
    let mut table = Table::new(R::COLUMNS);
    table.rows = rows.iter().map(Row::cells).collect();
    table
}

fn line<R: Row>(row: &R, layout: &Layout, out: &mut Output) -> CliResult {
    out.table_row(&row.cells(), layout)?;
    row.note().map_or(Ok(()), |note| out.table_note(&Cell::new(note).paint(Paint::Dim), layout))
}

/// Waits for a period. Returns whether Ctrl-C ended it early.
pub(super) async fn interrupted(period: Duration) -> bool {
    tokio::time::timeout(period, tokio::signal::ctrl_c()).await.is_ok()
}

#[cfg(test)]
pub(super) mod tests;
