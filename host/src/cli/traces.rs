//! `ultra traces`.

use std::collections::BTreeSet;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::value::RawValue;
use ultra_store::{Reader, Status, TraceFilter, TraceRow};

use super::records::{Row, Select, Show, none, show};
use super::store::open_reader;
use super::table::{Cell, Column, Paint};
use super::text::{clean, clean_lines, seconds, size, took};
use super::{CliError, CliResult, Output};
use crate::config::Config;

/// As long as is needed to tell one trace from another.
pub(super) const ID_CHARS: usize = 8;

/// Traces among which a shortened id is looked up, and records shown of one trace.
const LOOK_UP_ROWS: usize = 1_000;

/// Operations by their names in records.
const OPERATIONS: [&str; 7] = [
    "tool_call",
    "resource_read",
    "prompt_get",
    "tool_list",
    "resource_list",
    "prompt_list",
    "other",
];

/// Show what calls did, newest first
///
/// With an id: one trace whole, with what was asked and answered.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// A trace id or record id, or its beginning
    #[arg(conflicts_with = "follow")]
    id: Option<String>,
    /// Only those that ended so
    #[arg(long, value_parser = status())]
    status: Option<Status>,
    /// Only of this operation
    #[arg(long, value_parser = OPERATIONS)]
    operation: Option<String>,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    show: Show,
}

pub(super) fn status() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(["success", "error"]).map(|name| match name.as_str() {
        "success" => Status::Success,
        _ => Status::Error,
    })
}

pub(super) async fn run(args: &Args, config: &Config, out: &mut Output) -> CliResult {
    if let Some(id) = &args.id {
        return one(id, args.show.json, open_reader(config)?.as_deref(), out);
    }
    let filter = TraceFilter {
        upstream: args.select.upstream.clone(),
        name: args.select.name.clone(),
        operation: args.operation.clone(),
        status: args.status,
        since_unix_ns: args.select.since_unix_ns(),
        until_unix_ns: args.select.until_unix_ns(),
        ..TraceFilter::default()
    };
    let read = |store: &dyn Reader, after_seq, limit| {
        store.traces(&TraceFilter { after_seq, limit, ..filter.clone() })
    };
    show(&args.show, || open_reader(config), read, out).await
}

impl Row for TraceRow {
    const PLURAL: &'static str = "traces";
    const COLUMNS: &'static [Column] = &[
        Column::new("TIME").usual(20),
        Column::new("STATUS").usual(7),
        Column::new("OPERATION").usual(9),
        Column::new("UPSTREAM").cut().usual(10),
        Column::new("NAME").cut().usual(16),
        Column::new("TOOK").right().usual(8),
        Column::new("TRACE").usual(ID_CHARS),
    ];

    fn seq(&self) -> i64 {
        self.seq
    }

    fn cells(&self) -> Vec<Cell> {
        let status = match self.status {
            Status::Success => Cell::new("success").paint(Paint::Green),
            Status::Error => Cell::new("error").paint(Paint::Red),
        };
        vec![
            Cell::new(seconds(&self.timestamp)).paint(Paint::Dim),
            status,
            Cell::new(&self.operation),
            Cell::or_dash(self.upstream.as_deref()),
            Cell::or_dash(self.name.as_deref()),
            Cell::new(took(self.duration as f64 / 1e9)),
            Cell::new(self.trace_id.get(..ID_CHARS).unwrap_or(&self.trace_id)).paint(Paint::Dim),
        ]
    }

    fn note(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// Shows all records of one trace.
fn one(id: &str, json: bool, store: Option<&dyn Reader>, out: &mut Output) -> CliResult {
    let Some(store) = store else { return none(TraceRow::PLURAL, false, out) };
    let mut rows = find(&id.to_ascii_lowercase(), store)?;
    rows.sort_by_key(Row::seq);
    if json {
        return out.json(&rows);
    }
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.line("")?;
        }
        detail(row, out)?;
    }
    Ok(())
}

/// Finds the records of a trace by an id, or among the newest by the beginning of one.
fn find(id: &str, store: &dyn Reader) -> Result<Vec<TraceRow>, CliError> {
    let exact =
        TraceFilter { id: Some(id.to_owned()), limit: LOOK_UP_ROWS, ..TraceFilter::default() };
    let rows = store.traces(&exact)?;
    if !rows.is_empty() {
        return Ok(rows);
    }
    let mut rows = store.traces(&TraceFilter { limit: LOOK_UP_ROWS, ..TraceFilter::default() })?;
    rows.retain(|row| row.trace_id.starts_with(id) || row.id.starts_with(id));
    let traces: BTreeSet<&str> = rows.iter().map(|row| row.trace_id.as_str()).collect();
    match traces.len() {
        0 => {
            Err(CliError::user(format!("no trace `{id}`")).hint("`ultra traces` lists the newest"))
        }
        1 => Ok(rows),
        several => Err(CliError::user(format!("{several} traces begin with `{id}`"))
            .hint("write more of the id")),
    }
}

fn detail(row: &TraceRow, out: &mut Output) -> CliResult {
    let status = match row.status {
        Status::Success => out.paint(Paint::Green, "success"),
        Status::Error => out.paint(Paint::Red, "error"),
    };
    let target = [row.upstream.as_deref(), row.name.as_deref()];
    let target = target.into_iter().flatten().collect::<Vec<_>>().join(" › ");
    field("call", &format!("{}  {}", row.method, clean(&target)), out)?;
    field("status", &format!("{status} after {}", took(row.duration as f64 / 1e9)), out)?;
    if let Some(error) = &row.error {
        field("error", &clean(error), out)?;
    }
    field("time", &row.timestamp, out)?;
    field(
        "client",
        &format!("{}  session {}", clean(&row.principal), clean(&row.session_id)),
        out,
    )?;
    field("trace", &row.trace_id, out)?;
    let parent = row.parent_span_id.as_deref().map(|parent| format!("  child of {parent}"));
    field("span", &format!("{}{}", row.span_id, parent.unwrap_or_default()), out)?;
    field("record", &row.id, out)?;
    if row.metadata.get() != "{}" {
        field("metadata", &clean(row.metadata.get()), out)?;
    }
    payload("request", row.request.as_deref(), row.request_bytes, out)?;
    payload("response", row.response.as_deref(), row.response_bytes, out)
}

fn field(name: &str, value: &str, out: &mut Output) -> CliResult {
    let name = out.paint(Paint::Bold, &format!("{name:<9}"));
    out.line(&format!("{name} {value}"))
}

/// Writes a payload, indented. A JSON string is the beginning of one that was too long to keep.
fn payload(name: &str, payload: Option<&RawValue>, bytes: u64, out: &mut Output) -> CliResult {
    let Some(payload) = payload else { return Ok(()) };
    let beginning: Option<String> = serde_json::from_str(payload.get()).ok();
    let kept = if beginning.is_some() { ", of which the beginning was kept" } else { "" };
    out.line("")?;
    let name = out.paint(Paint::Bold, name);
    out.line(&format!("{name} {}{kept}", size(bytes)))?;
    match beginning {
        Some(beginning) => out.line(&format!("{}…", clean_lines(&beginning))),
        None => out.line(&clean_lines(&indented(payload.get()))),
    }
}

/// Indents JSON without reading it, so that members keep their order and numbers their digits.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut opened = false;
    let newline = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    for c in json.chars() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if c.is_ascii_whitespace() {
            continue;
        }
        if closes {
            depth = depth.saturating_sub(1);
        }
        // An empty collection stays on its line.
        if opened != closes {
            newline(&mut text, depth);
        }
        opened = matches!(c, '{' | '[');
        depth += usize::from(opened);
        in_string = c == '"';
        text.push(c);
        match c {
            ',' => newline(&mut text, depth),
            ':' => text.push(' '),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Captured;
    use crate::cli::records::tests::{Rows, raw, trace};

    fn shown(id: &str, rows: &[fn() -> TraceRow]) -> Result<String, CliError> {
        let written = Captured::default();
        let store = Rows { traces: rows.to_vec() };
        one(id, false, Some(&store), &mut written.output(None))?;
        Ok(written.text())
    }

    fn cut() -> TraceRow {
        TraceRow {
            status: Status::Error,
            error: Some("upstream `everything` gave no answer within 60 s".into()),
            parent_span_id: Some("b7ad6b7169203331".into()),
            request: Some(raw(
                r#""{\"name\":\"write\",\"arguments\":{\"text\":\"line one\\nline \u001b""#,
            )),
            request_bytes: 5 << 20,
            response: None,
            ..trace(2)
        }
    }

    #[test]
    fn one_trace_is_shown_whole() {
        insta::assert_snapshot!(shown("01F92f35", &[|| trace(1), cut]).unwrap(), @r#"
        call      tools/call  everything › echo
        status    success after 1.23 ms
        time      2026-11-20T10:00:00.123456789Z
        client    claude-code/2.1  session s-1
        trace     01f92f3577b34da6a3ce929d0e0e4736
        span      00f067aa0ba902b7
        record    01948f5e-0000-7000-8000-000000000001
        metadata  {"transport":"stdio"}

        request 44 B
        {
          "name": "echo",
          "arguments": {
            "message": "hi"
          }
        }

        response 47 B
        {
          "content": [
            {
              "type": "text",
              "text": "Echo: hi"
            }
          ]
        }
        "#);
    }

    #[test]
    fn payload_that_was_cut_is_shown_as_text() {
        insta::assert_snapshot!(shown("02f92f3577b34da6a3ce929d0e0e4736", &[|| trace(1), cut]).unwrap(), @r#"
        call      tools/call  everything › echo
        status    error after 1.23 ms
        error     upstream `everything` gave no answer within 60 s
        time      2026-11-20T10:00:00.123456789Z
        client    claude-code/2.1  session s-1
        trace     02f92f3577b34da6a3ce929d0e0e4736
        span      00f067aa0ba902b7  child of b7ad6b7169203331
        record    01948f5e-0000-7000-8000-000000000002
        metadata  {"transport":"stdio"}

        request 5.0 MiB, of which the beginning was kept
        {"name":"write","arguments":{"text":"line one\nline �…
        "#);
    }

    #[test]
    fn id_must_name_one_trace() {
        let none = shown("ffff", &[|| trace(1), cut]).unwrap_err();
        let two = shown("0", &[|| trace(1), cut]).unwrap_err();

        assert_eq!(none.causes[0].message, "no trace `ffff`");
        assert_eq!(two.causes[0].message, "2 traces begin with `0`");
        assert_eq!((none.exit_code(), two.exit_code()), (1, 1));
    }

    #[test]
    fn json_is_indented_as_it_stands() {
        let json =
            r#"{"b":1.50,"a":[],"c":[ {} , "x\"{[,:\\",12345678901234567890 ],"d":{"e":null}}"#;

        insta::assert_snapshot!(indented(json), @r#"
        {
          "b": 1.50,
          "a": [],
          "c": [
            {},
            "x\"{[,:\\",
            12345678901234567890
          ],
          "d": {
            "e": null
          }
        }
        "#);
    }
}
