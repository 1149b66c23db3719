//! How servers were used: every trace of a time is looked at once, and added up.
//!
//! Whatever is asked for (servers, their tools, clients, operations) comes out of the same look, because
//! the look is what costs: nothing in the table is indexed but its order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row};

use super::code;
use super::read::{SqliteReader, known};
use crate::StoreError;
use crate::record::Status;

/// A million traces take a second; a reader waits for no more than this.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// The deadline is looked at after so many.
const ROWS_BETWEEN_LOOKS: usize = 10_000;

/// Different tools and URIs that are told apart, of all servers; the calls of further ones count for
/// their server only.
const NAMES_MAX: usize = 10_000;

/// Different clients that are told apart.
const CLIENTS_MAX: usize = 1_000;

/// Traces follow the time at which they ended, but for a clock that was set back by so much.
const CLOCK_SLACK_NS: i64 = 60 * 60 * 1_000_000_000;

/// How something was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls.
    pub calls: u64,
    /// Those that ended in an error.
    pub errors: u64,
    /// Nanoseconds of all calls together.
    pub duration_ns: u64,
    /// Start of the newest call, in nanoseconds since 1970 UTC.
    pub last_unix_ns: i64,
}

/// How everything was used.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// By operation.
    pub operations: HashMap<String, Usage>,
    /// By client, as `name/version`.
    pub clients: HashMap<String, Usage>,
    /// By server.
    pub upstreams: HashMap<String, UpstreamUsage>,
}

/// How a server was used.
#[derive(Debug, Clone, Default)]
pub struct UpstreamUsage {
    /// All of it.
    pub usage: Usage,
    /// Transport of the newest call, if that said it.
    pub transport: Option<String>,
    /// By tool, prompt or URI.
    pub names: HashMap<String, Usage>,
    /// By client, as `name/version`.
    pub clients: HashMap<String, Usage>,
}

impl SqliteReader {
    /// Adds up the traces that started at or after `since_unix_ns`, of the newest `rows_max` only.
    ///
    /// # Errors
    ///
    /// If the database cannot be read, or not in 10 seconds.
    pub fn survey(&self, since_unix_ns: i64, rows_max: usize) -> Result<Survey, StoreError> {
        self.read(|connection| survey(connection, since_unix_ns, rows_max))
    }
}

fn survey(
    connection: &Connection,
    since_unix_ns: i64,
    rows_max: usize,
) -> rusqlite::Result<Survey> {
    let deadline = Instant::now() + LOOK_MAX;
    let mut statement = connection.prepare_cached(
        "SELECT started, duration, status, operation, upstream, name, principal, seq
         FROM traces ORDER BY seq DESC",
    )?;
    let mut rows = statement.query([])?;
    let mut survey = Survey::default();
    let mut names = 0;
    for number in 1..=rows_max {
        let Some(row) = rows.next()? else { break };
        let call = Call::of(row)?;
        if call.started_unix_ns >= since_unix_ns {
            survey.add(connection, &call, row, &mut names)?;
        } else if call.ended_unix_ns().saturating_add(CLOCK_SLACK_NS) < since_unix_ns {
            break;
        }
        if number % ROWS_BETWEEN_LOOKS == 0 && Instant::now() > deadline {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
            let text = format!("not all traces were read in {} s", LOOK_MAX.as_secs());
            return Err(rusqlite::Error::SqliteFailure(code, Some(text)));
        }
    }
    Ok(survey)
}

/// The figures of a trace.
struct Call {
    started_unix_ns: i64,
    duration_ns: u64,
    status: Status,
}

impl Call {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            started_unix_ns: row.get(0)?,
            duration_ns: row.get::<_, i64>(1)?.cast_unsigned(),
            status: known(code::status(row.get(2)?), 2)?,
        })
    }

    fn ended_unix_ns(&self) -> i64 {
        self.started_unix_ns.saturating_add_unsigned(self.duration_ns)
    }
}

impl Survey {
    fn add(
        &mut self,
        connection: &Connection,
        call: &Call,
        row: &Row<'_>,
        names: &mut usize,
    ) -> rusqlite::Result<()> {
        let client = text(row, 6)?.unwrap_or_default();
        add(&mut self.operations, text(row, 3)?.unwrap_or_default(), call, NAMES_MAX);
        add(&mut self.clients, client, call, CLIENTS_MAX);
        let Some(upstream) = text(row, 4)? else { return Ok(()) };
        if !self.upstreams.contains_key(upstream) {
            let transport = transport(connection, row.get(7)?)?;
            let newest = UpstreamUsage { transport, ..UpstreamUsage::default() };
            self.upstreams.insert(upstream.to_owned(), newest);
        }
        let of = self.upstreams.get_mut(upstream).expect("it was just inserted if it was missing");
        of.usage.add(call);
        add(&mut of.clients, client, call, CLIENTS_MAX);
        if let Some(name) = text(row, 5)? {
            let names_max = of.names.len() + NAMES_MAX - *names;
            *names += usize::from(add(&mut of.names, name, call, names_max));
        }
        Ok(())
    }
}

fn text<'a>(row: &'a Row<'_>, index: usize) -> rusqlite::Result<Option<&'a str>> {
    let text = row.get_ref(index)?.as_str_or_null();
    text.map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(index, kind, Box::new(error))
    })
}

impl Usage {
    fn add(&mut self, call: &Call) {
        self.calls += 1;
        self.errors += u64::from(call.status == Status::Error);
        self.duration_ns = self.duration_ns.saturating_add(call.duration_ns);
        self.last_unix_ns = self.last_unix_ns.max(call.started_unix_ns);
    }
}

/// Adds a call to what is known by this key; a new key only while there are fewer than `keys_max`.
/// Returns whether it is new.
fn add(usages: &mut HashMap<String, Usage>, key: &str, call: &Call, keys_max: usize) -> bool {
    if let Some(usage) = usages.get_mut(key) {
        usage.add(call);
        return false;
    }
    let fits = usages.len() < keys_max;
    if fits {
        usages.entry(key.to_owned()).or_default().add(call);
    }
    fits
}

/// Returns what a trace's metadata say of the transport. Asked once per upstream: reading them with every
/// row would take a third longer.
fn transport(connection: &Connection, seq: i64) -> rusqlite::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        transport: Option<String>,
    }
    let mut statement = connection.prepare_cached("SELECT metadata FROM traces WHERE seq = ?")?;
    let metadata: String = statement.query_row([seq], |row| row.get(0))?;
    Ok(serde_json::from_str::<Metadata>(&metadata).ok().and_then(|metadata| metadata.transport))
}

#[cfg(test)]
mod tests {
    use super::super::{SqliteOptions, SqliteStore};
    use super::*;
    use crate::Store as _;
    use crate::contract::{NOON_NS, flush, trace};
    use crate::record::{Record, Trace};

    fn survey_of(traces: Vec<Trace>, since_unix_ns: i64, rows_max: usize) -> Survey {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ultra.db");
        let store = SqliteStore::open(SqliteOptions::new(&path)).unwrap();
        for trace in traces {
            store.record(Record::Trace(Box::new(trace)));
        }
        flush(&store);
        SqliteReader::open(&path).unwrap().survey(since_unix_ns, rows_max).unwrap()
    }

    #[test]
    fn calls_are_added_up_by_what_they_were_of() {
        let traces = vec![
            Trace { transport: Some("http"), ..trace(1, "read") },
            Trace { status: Status::Error, transport: Some("stdio"), ..trace(2, "read") },
            Trace { principal: "editor/2".into(), ..trace(3, "write") },
            Trace { upstream: None, operation: "other", ..trace(4, "ping") },
        ];

        let survey = survey_of(traces, NOON_NS, usize::MAX);

        let files = &survey.upstreams["files"];
        assert_eq!(survey.upstreams.len(), 1);
        assert_eq!((files.usage.calls, files.usage.errors), (3, 1));
        assert_eq!((files.usage.duration_ns, files.usage.last_unix_ns), (3_000, NOON_NS + 3));
        assert_eq!(files.transport, None, "the newest call did not say");
        assert_eq!(files.names["read"].calls, 2);
        assert_eq!(files.clients["editor/2"].calls, 1);
        assert_eq!(survey.operations["other"].calls, 1);
        assert_eq!(survey.clients["client/1.0"].calls, 3);
    }

    #[test]
    fn what_is_older_does_not_count() {
        let day_ns = 24 * 60 * 60 * 1_000_000_000;
        let traces = vec![
            Trace { started_unix_ns: NOON_NS - 2 * day_ns, ..trace(1, "read") },
            // Ended after the one before it, and so is not the end.
            Trace { started_unix_ns: NOON_NS - 1, ..trace(2, "read") },
            trace(3, "read"),
            Trace { started_unix_ns: NOON_NS - 5, ..trace(4, "read") },
            trace(5, "read"),
        ];

        let survey = survey_of(traces, NOON_NS, usize::MAX);

        assert_eq!(survey.upstreams["files"].usage.calls, 2);
    }

    #[test]
    fn only_the_newest_count_if_there_are_too_many() {
        let traces = (1..=5).map(|number| trace(number, &format!("name{number}"))).collect();

        let survey = survey_of(traces, NOON_NS, 2);

        let mut names: Vec<_> = survey.upstreams["files"].names.keys().collect();
        names.sort();
        assert_eq!(names, ["name4", "name5"]);
    }

    #[test]
    fn different_names_are_told_apart_up_to_a_limit() {
        let traces = (0..12_000).map(|number| trace(number, &format!("name{number}"))).collect();

        let files = &survey_of(traces, NOON_NS, usize::MAX).upstreams["files"];

        assert_eq!(files.names.len(), NAMES_MAX);
        assert_eq!(files.usage.calls, 12_000);
    }
}
