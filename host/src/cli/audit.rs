//! `ultra audit`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ultra_store::{AuditFilter, AuditOutcome, AuditRow, Reader, Severity};

use super::records::{Row, Select, Show, show};
use super::store::open_reader;
use super::table::{Cell, Column, Paint};
use super::text::seconds;
use super::traces::ID_CHARS;
use super::{CliResult, Output};
use crate::config::Config;

/// Show the audit log, newest first
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Only what ended so
    #[arg(long, visible_alias = "status", value_parser = outcome())]
    outcome: Option<AuditOutcome>,
    /// Only events of this type, such as tool_call or policy_deny
    #[arg(long, visible_alias = "operation", value_name = "TYPE")]
    event: Option<String>,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    show: Show,
}

fn outcome() -> impl TypedValueParser<Value = AuditOutcome> {
    let names = ["success", "failure", "error", "deny", "canceled"];
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "success" => AuditOutcome::Success,
        "failure" => AuditOutcome::Failure,
        "deny" => AuditOutcome::Deny,
        "canceled" => AuditOutcome::Canceled,
        _ => AuditOutcome::Error,
    })
}

pub(super) async fn run(args: &Args, config: &Config, out: &mut Output) -> CliResult {
    let filter = AuditFilter {
        upstream: args.select.upstream.clone(),
        name: args.select.name.clone(),
        event_type: args.event.clone(),
        outcome: args.outcome,
        since_unix_ns: args.select.since_unix_ns(),
        until_unix_ns: args.select.until_unix_ns(),
        ..AuditFilter::default()
    };
    let read = |store: &dyn Reader, after_seq, limit| {
        store.audit_events(&AuditFilter { after_seq, limit, ..filter.clone() })
    };
    show(&args.show, || open_reader(config), read, out).await
}

impl Row for AuditRow {
    const PLURAL: &'static str = "audit events";
    const COLUMNS: &'static [Column] = &[
        Column::new("TIME").usual(20),
        Column::new("SEVERITY").usual(8),
        Column::new("EVENT").usual(9),
        Column::new("OUTCOME").usual(8),
        Column::new("UPSTREAM").cut().usual(10),
        Column::new("ACTION").cut().usual(16),
        Column::new("CLIENT").cut().usual(12),
        Column::new("TRACE").usual(ID_CHARS),
    ];

    fn seq(&self) -> i64 {
        self.seq
    }

    fn cells(&self) -> Vec<Cell> {
        let severity = match self.severity {
            Severity::Info => Cell::new("info"),
            Severity::Warning => Cell::new("warning").paint(Paint::Yellow),
            Severity::Error => Cell::new("error").paint(Paint::Red),
            Severity::Critical => Cell::new("critical").paint(Paint::Red),
        };
        let outcome = match self.outcome {
            AuditOutcome::Success => Cell::new("success").paint(Paint::Green),
            AuditOutcome::Failure => Cell::new("failure").paint(Paint::Yellow),
            AuditOutcome::Error => Cell::new("error").paint(Paint::Red),
            AuditOutcome::Deny => Cell::new("deny").paint(Paint::Red),
            AuditOutcome::Canceled => Cell::new("canceled").paint(Paint::Yellow),
        };
        let trace = self.trace_id.as_deref().map(|id| id.get(..ID_CHARS).unwrap_or(id));
        vec![
            Cell::new(seconds(&self.timestamp)).paint(Paint::Dim),
            severity,
            Cell::new(&self.event_type),
            outcome,
            Cell::or_dash(self.upstream.as_deref()),
            Cell::or_dash(self.action.as_deref()),
            Cell::new(&self.principal),
            Cell::or_dash(trace).paint(Paint::Dim),
        ]
    }

    fn note(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}
