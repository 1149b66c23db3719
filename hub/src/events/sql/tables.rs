//! Where rows are inserted.

use crate::db::{Table, Type};

/// A record that is there stays as it is.
const KEPT: &str = "ON CONFLICT DO NOTHING";

/// Where the unique key of records is, in their tables' columns.
pub(super) const RECORD_KEY: [usize; 3] = [0, 1, 2];

pub(super) const TRACES: Table = Table {
    name: "traces",
    columns: &[
        ("workspace", Type::Int),
        ("at_ns", Type::Int),
        ("id", Type::Bytes),
        ("series", Type::Int),
        ("session_key", Type::Int),
        ("session", Type::Text),
        ("name", Type::Text),
        ("trace_id", Type::Bytes),
        ("error", Type::Text),
        ("duration_ns", Type::Int),
        ("request_bytes", Type::Int),
        ("response_bytes", Type::Int),
        ("received_ms", Type::Int),
    ],
    conflict: KEPT,
};

pub(super) const TRACE_DETAILS: Table = Table {
    name: "trace_details",
    columns: &[
        ("workspace", Type::Int),
        ("id", Type::Bytes),
        ("at_ns", Type::Int),
        ("span_id", Type::Int),
        ("parent_span_id", Type::Int),
        ("payload", Type::Bytes),
    ],
    conflict: KEPT,
};

pub(super) const AUDIT_EVENTS: Table = Table {
    name: "audit_events",
    columns: &[
        ("workspace", Type::Int),
        ("at_ns", Type::Int),
        ("id", Type::Bytes),
        ("series", Type::Int),
        ("session_key", Type::Int),
        ("session", Type::Text),
        ("name", Type::Text),
        ("trace_id", Type::Bytes),
        ("reason", Type::Text),
        ("details", Type::Text),
        ("received_ms", Type::Int),
    ],
    conflict: KEPT,
};

/// Durations stop adding up at 52 days per row, so that sums of rows do not overflow.
pub(super) const SERIES: Table = Table {
    name: "series",
    columns: &[
        ("workspace", Type::Int),
        ("id", Type::Int),
        ("kind", Type::Text),
        ("gateway", Type::Int),
        ("operation", Type::Text),
        ("method", Type::Text),
        ("severity", Type::Text),
        ("outcome", Type::Text),
        ("upstream", Type::Text),
        ("name", Type::Text),
        ("client", Type::Text),
        ("named", Type::Int),
        ("transport", Type::Text),
        ("calls", Type::Int),
        ("duration_ns", Type::Int),
        ("first_ns", Type::Int),
        ("last_ns", Type::Int),
    ],
    conflict: "ON CONFLICT (workspace, id) DO UPDATE SET
        transport = CASE WHEN excluded.last_ns >= series.last_ns
            THEN excluded.transport ELSE series.transport END,
        calls = series.calls + excluded.calls,
        duration_ns = CASE WHEN series.duration_ns > 4503599627370496
            THEN series.duration_ns ELSE series.duration_ns + excluded.duration_ns END,
        first_ns = CASE WHEN excluded.first_ns < series.first_ns
            THEN excluded.first_ns ELSE series.first_ns END,
        last_ns = CASE WHEN excluded.last_ns > series.last_ns
            THEN excluded.last_ns ELSE series.last_ns END",
};

pub(super) const TOOL_USAGE: Table = Table {
    name: "tool_usage",
    columns: &[
        ("workspace", Type::Int),
        ("upstream", Type::Text),
        ("hour", Type::Int),
        ("name", Type::Text),
        ("calls", Type::Int),
        ("errors", Type::Int),
        ("duration_ns", Type::Int),
        ("last_ns", Type::Int),
    ],
    conflict: "ON CONFLICT (workspace, upstream, hour, name) DO UPDATE SET
        calls = tool_usage.calls + excluded.calls,
        errors = tool_usage.errors + excluded.errors,
        duration_ns = CASE WHEN tool_usage.duration_ns > 4503599627370496
            THEN tool_usage.duration_ns ELSE tool_usage.duration_ns + excluded.duration_ns END,
        last_ns = CASE WHEN excluded.last_ns > tool_usage.last_ns
            THEN excluded.last_ns ELSE tool_usage.last_ns END",
};

pub(super) const GATEWAY_USAGE: Table = Table {
    name: "gateway_usage",
    columns: &[
        ("workspace", Type::Int),
        ("upstream", Type::Text),
        ("hour", Type::Int),
        ("gateway", Type::Int),
        ("calls", Type::Int),
        ("errors", Type::Int),
        ("duration_ns", Type::Int),
        ("last_ns", Type::Int),
    ],
    conflict: "ON CONFLICT (workspace, upstream, hour, gateway) DO UPDATE SET
        calls = gateway_usage.calls + excluded.calls,
        errors = gateway_usage.errors + excluded.errors,
        duration_ns = CASE WHEN gateway_usage.duration_ns > 4503599627370496
            THEN gateway_usage.duration_ns ELSE gateway_usage.duration_ns + excluded.duration_ns END,
        last_ns = CASE WHEN excluded.last_ns > gateway_usage.last_ns
            THEN excluded.last_ns ELSE gateway_usage.last_ns END",
};

/// Of each stream so many are kept.
pub(super) const REJECTED_MAX: i64 = 1000;

pub(super) const REJECTED: Table = Table {
    name: "rejected",
    columns: &[
        ("workspace", Type::Int),
        ("gateway", Type::Int),
        ("database_id", Type::Text),
        ("kind", Type::Text),
        ("seq", Type::Int),
        ("reason", Type::Text),
        ("line", Type::Text),
        ("received_ms", Type::Int),
    ],
    conflict: KEPT,
};
