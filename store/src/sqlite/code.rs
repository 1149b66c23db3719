//! The numbers that stand for variants in the database. A new variant gets a new one.

use crate::record::{AuditOutcome, Severity, Status};

pub(super) fn status_code(status: Status) -> i64 {
    match status {
        Status::Success => 0,
        Status::Error => 1,
    }
}

pub(super) fn status(code: i64) -> Option<Status> {
    [Status::Success, Status::Error].into_iter().find(|status| status_code(*status) == code)
}

pub(super) fn severity_code(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
        Severity::Critical => 3,
    }
}

pub(super) fn severity(code: i64) -> Option<Severity> {
    [Severity::Info, Severity::Warning, Severity::Error, Severity::Critical]
        .into_iter()
        .find(|severity| severity_code(*severity) == code)
}

pub(super) fn outcome_code(outcome: AuditOutcome) -> i64 {
    match outcome {
        AuditOutcome::Success => 0,
        AuditOutcome::Failure => 1,
        AuditOutcome::Error => 2,
        AuditOutcome::Deny => 3,
        AuditOutcome::Canceled => 4,
    }
}

pub(super) fn outcome(code: i64) -> Option<AuditOutcome> {
    [
        AuditOutcome::Success,
        AuditOutcome::Failure,
        AuditOutcome::Error,
        AuditOutcome::Deny,
        AuditOutcome::Canceled,
    ]
    .into_iter()
    .find(|outcome| outcome_code(*outcome) == code)
}
