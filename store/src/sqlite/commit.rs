//! What a commit writes: the statements of one transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::code;
use super::queue::CatalogUse;
use crate::filter::Mark;
use crate::memory::CATALOGS_PER_UPSTREAM;
use crate::metrics::{Figure, Figures, Key};
use crate::record::{AuditEvent, MetricValue, Trace, UpstreamStatus};
use crate::stored::{AuditText, Keeping, TraceText, now_unix_ns};

/// A record with its texts as they are stored.
pub(super) enum Prepared<'a> {
    Trace(&'a Trace, TraceText<'a>),
    Audit(&'a AuditEvent, AuditText<'a>),
    Catalog(&'a CatalogUse),
    Hold(Option<Mark>),
    RenewId,
}

/// The upstreams of this gateway, by name and process id.
pub(super) type Upstreams = BTreeMap<(String, u32), Upstream>;

/// The last known state of an upstream.
pub(super) struct Upstream {
    pub(super) status: UpstreamStatus,
    pub(super) written: bool,
}

/// Writes records, figures and states in one transaction, durably or not at all.
pub(super) fn write(
    connection: &mut Connection,
    prepared: &[Prepared<'_>],
    figures: &Figures,
    upstreams: &Upstreams,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    // Dropping a transaction rolls it back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for record in prepared {
        match record {
            Prepared::Trace(trace, text) => insert_trace(&transaction, trace, text)?,
            Prepared::Audit(event, text) => insert_audit(&transaction, event, text)?,
            Prepared::Catalog(catalog) => write_catalog(&transaction, catalog)?,
            Prepared::Hold(from) => hold(&transaction, *from)?,
            Prepared::RenewId => renew_id(&transaction)?,
        }
    }
    for ((minute, key), figure) in figures {
        add_figure(&transaction, *minute, key, figure, keeping)?;
    }
    for Upstream { status, written } in upstreams.values() {
        if !written {
            write_upstream(&transaction, status, keeping)?;
        }
    }
    transaction.commit()
}

fn bytes_of(payload: Option<&bytes::Bytes>) -> i64 {
    payload.map_or(0, |payload| i64::try_from(payload.len()).unwrap_or(i64::MAX))
}

fn insert_trace(
    transaction: &Transaction<'_>,
    trace: &Trace,
    text: &TraceText<'_>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO traces (id, trace_id, span_id, parent_span_id, started, duration, status,
             operation, method, upstream, name, principal, session_id, request_bytes, response_bytes,
             error, metadata)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        trace.id.as_bytes(),
        trace.trace_id.to_be_bytes(),
        trace.span_id.cast_signed(),
        trace.parent_span_id.map(u64::cast_signed),
        trace.started_unix_ns,
        trace.duration_ns.cast_signed(),
        code::status_code(trace.status),
        trace.operation,
        &*trace.method,
        trace.upstream.as_deref(),
        text.name.as_deref(),
        &*trace.principal,
        &*trace.session_id,
        bytes_of(trace.request.as_ref()),
        bytes_of(trace.response.as_ref()),
        text.error.as_deref(),
        &*text.metadata,
    ])?;
    if text.request.is_none() && text.response.is_none() {
        return Ok(());
    }
    transaction
        .prepare_cached("INSERT INTO trace_payloads (seq, request, response) VALUES (?, ?, ?)")?
        .execute(params![
            transaction.last_insert_rowid(),
            text.request.as_deref(),
            text.response.as_deref()
        ])?;
    Ok(())
}

fn insert_audit(
    transaction: &Transaction<'_>,
    event: &AuditEvent,
    text: &AuditText<'_>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO audit_events (id, trace_id, at, event_type, severity, outcome, upstream, action,
             principal, session_id, reason, details)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        event.id.as_bytes(),
        event.trace_id.map(u128::to_be_bytes),
        event.unix_ns,
        event.event_type,
        code::severity_code(event.severity),
        code::outcome_code(event.outcome),
        event.upstream.as_deref(),
        text.action.as_deref(),
        &*event.principal,
        event.session_id.as_deref(),
        text.reason.as_deref(),
        &*text.details,
    ])?;
    Ok(())
}

/// Adds a figure to that of all gateways.
fn add_figure(
    transaction: &Transaction<'_>,
    minute: i64,
    key: &Key,
    figure: &Figure,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    let upstream = key.upstream.as_deref().unwrap_or_default();
    let name = keeping.text(key.name.as_deref()).unwrap_or_default();
    let known = transaction
        .prepare_cached(
            "SELECT value FROM metrics
             WHERE minute = ? AND instrument = ? AND operation = ? AND upstream = ? AND name = ?",
        )?
        .query_row(params![minute, &*key.instrument, &*key.operation, upstream, name], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    let mut value = figure.value.clone();
    // What another version wrote in another shape makes room.
    if let Some(mut sum) = known.and_then(|json| serde_json::from_str::<MetricValue>(&json).ok())
        && sum.add(&figure.value)
    {
        value = sum;
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO metrics
                 (minute, instrument, operation, upstream, name, unit, value)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            minute,
            &*key.instrument,
            &*key.operation,
            upstream,
            name,
            &*figure.unit,
            json(&value)?,
        ])?;
    Ok(())
}

fn write_upstream(
    transaction: &Transaction<'_>,
    status: &UpstreamStatus,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    let text = |text: &Option<String>| keeping.text(text.as_deref()).map(Into::into);
    let stored = UpstreamStatus {
        error: text(&status.error),
        stderr: text(&status.stderr),
        ..status.clone()
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO upstreams (upstream, gateway_pid, at, seen, status)
             VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            stored.upstream,
            stored.gateway_pid,
            stored.unix_ns,
            now_unix_ns(),
            json(&stored)?,
        ])?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn write_catalog(transaction: &Transaction<'_>, entry: &CatalogUse) -> rusqlite::Result<()> {
    let CatalogUse { upstream, fingerprint, catalog } = entry;
    let now = now_unix_ns();
    let Some(catalog) = catalog else {
        transaction
            .prepare_cached(
                "UPDATE catalogs SET used_at = ? WHERE upstream = ? AND fingerprint = ?",
            )?
            .execute(params![now, upstream, fingerprint])?;
        return Ok(());
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO catalogs (upstream, fingerprint, used_at, catalog)
             VALUES (?, ?, ?, ?)",
        )?
        .execute(params![upstream, fingerprint, now, catalog.as_ref()])?;
    transaction
        .prepare_cached(
            "DELETE FROM catalogs WHERE upstream = ?1 AND fingerprint NOT IN
                 (SELECT fingerprint FROM catalogs WHERE upstream = ?1
                  ORDER BY used_at DESC, rowid DESC LIMIT ?2)",
        )?
        .execute(params![upstream, CATALOGS_PER_UPSTREAM as i64])?;
    Ok(())
}

fn hold(transaction: &Transaction<'_>, from: Option<Mark>) -> rusqlite::Result<()> {
    let numbers = [from.map(|from| from.trace), from.map(|from| from.audit_event)];
    transaction
        .prepare_cached("UPDATE sending SET unsent_trace = ?, unsent_audit_event = ?")?
        .execute(numbers)
        .map(drop)
}

fn renew_id(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("UPDATE sending SET database_id = lower(hex(randomblob(16)))", []).map(drop)
}
