//! The audit interceptor: one event per call, saying how it ended.
//!
//! The gateway adds who, what, when and why, and lets the outcome go only when the event is durable.

use ultra_plugin::audit::{self, Outcome, Severity};
use ultra_plugin::{Call, Flow, Interceptor, Operation, Phases, Settings, plugin};

const OPERATIONS: [Operation; 7] = [
    Operation::ToolCall,
    Operation::ResourceRead,
    Operation::PromptGet,
    Operation::ToolList,
    Operation::ResourceList,
    Operation::PromptList,
    Operation::Other,
];

/// The interceptor, and which operations it audits, in the order of [`OPERATIONS`].
#[derive(Debug)]
pub struct Audit {
    audited: [bool; 7],
}

impl Interceptor for Audit {
    fn start(settings: &str) -> Result<Self, String> {
        let mut audited = [false; 7];
        for name in Settings::parse(settings)?.texts("operations")? {
            let place = OPERATIONS.iter().position(|operation| operation.as_str() == name);
            audited[place.ok_or_else(|| {
                format!("setting `operations`: there is no operation `{name}`")
            })?] = true;
        }
        Ok(Self { audited })
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn after(&self, call: &Call<'_>) -> Flow {
        if self.audits(call.operation()) {
            let ended = Ended {
                cancelled: call.cancelled(),
                denied: call.denied(),
                failed: call.failed(),
                tool_error: call.tool_error(),
            };
            let (severity, outcome) = ended.judge();
            audit::record_call(severity, outcome, &[]);
        }
        Flow::Next
    }
}

impl Audit {
    fn audits(&self, operation: Operation) -> bool {
        self.audited[operation as usize]
    }
}

/// How a call ended, as the gateway tells it. A denial is a failure too, and so is a cancellation.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    cancelled: bool,
    denied: bool,
    failed: bool,
    tool_error: bool,
}

impl Ended {
    fn judge(self) -> (Severity, Outcome) {
        if self.denied {
            (Severity::Critical, Outcome::Deny)
        } else if self.cancelled {
            (Severity::Warning, Outcome::Canceled)
        } else if self.failed {
            (Severity::Error, Outcome::Error)
        } else if self.tool_error {
            (Severity::Error, Outcome::Failure)
        } else {
            (Severity::Info, Outcome::Success)
        }
    }
}

plugin!(Audit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_special_end_goes_before_the_general_one() {
        let end = Ended::default();

        assert_eq!(end.judge(), (Severity::Info, Outcome::Success));
        assert_eq!(Ended { tool_error: true, ..end }.judge(), (Severity::Error, Outcome::Failure));
        assert_eq!(Ended { failed: true, ..end }.judge(), (Severity::Error, Outcome::Error));
        assert_eq!(
            Ended { failed: true, cancelled: true, ..end }.judge(),
            (Severity::Warning, Outcome::Canceled)
        );
        assert_eq!(
            Ended { failed: true, denied: true, ..end }.judge(),
            (Severity::Critical, Outcome::Deny)
        );
    }

    #[test]
    fn only_the_operations_named_are_audited() {
        let audit = Audit::start(r#"{"operations":["tool_call","other"]}"#).unwrap();

        let audited: Vec<_> =
            OPERATIONS.into_iter().filter(|&operation| audit.audits(operation)).collect();
        assert_eq!(audited, [Operation::ToolCall, Operation::Other]);
    }

    #[test]
    fn an_unknown_operation_is_refused() {
        let refusal = Audit::start(r#"{"operations":["tools"]}"#).unwrap_err();

        assert_eq!(refusal, "setting `operations`: there is no operation `tools`");
    }
}
