//! The logging interceptor: one line when a call comes, one when its outcome goes.
//!
//! The gateway words the lines, because it knows who, what and how long, and never tells a payload.

use ultra_plugin::log::{self, Level};
use ultra_plugin::{Call, Flow, Interceptor, Phases, Settings, plugin};

/// The interceptor, and at which level it says what. None: not at all.
#[derive(Debug)]
pub struct Logging {
    request: Option<Level>,
    response: Option<Level>,
    error: Option<Level>,
}

impl Interceptor for Logging {
    fn start(settings: &str) -> Result<Self, String> {
        let settings = Settings::parse(settings)?;
        let level =
            |key| level(settings.text(key)?).map_err(|reason| format!("setting `{key}`: {reason}"));
        Ok(Self {
            request: level("request_level")?,
            response: level("response_level")?,
            error: level("error_level")?,
        })
    }

    fn phases(&self) -> Phases {
        let mut phases = Phases::empty();
        phases.set(Phases::REQUEST, self.request.is_some());
        phases.set(Phases::RESPONSE, self.response.is_some() || self.error.is_some());
        phases
    }

    fn before(&self, _call: &Call<'_>) -> Flow {
        say(self.request);
        Flow::Next
    }

    fn after(&self, call: &Call<'_>) -> Flow {
        say(self.level_of(call.failed() || call.tool_error()));
        Flow::Next
    }
}

impl Logging {
    fn level_of(&self, failed: bool) -> Option<Level> {
        if failed { self.error } else { self.response }
    }
}

fn say(at: Option<Level>) {
    if let Some(level) = at {
        // Not asking `log::enabled` first: the gateway asks itself, and there is nothing to word here.
        log::call(level);
    }
}

fn level(name: &str) -> Result<Option<Level>, String> {
    Ok(Some(match name {
        "off" => return Ok(None),
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => return Err(format!("`{name}` is none of trace, debug, info, warn, error and off")),
    }))
}

plugin!(Logging);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_told_at_the_level_for_errors() {
        let json = r#"{"request_level":"debug","response_level":"off","error_level":"warn"}"#;
        let logging = Logging::start(json).unwrap();

        assert_eq!(logging.request, Some(Level::Debug));
        assert_eq!(logging.level_of(false), None);
        assert_eq!(logging.level_of(true), Some(Level::Warn));
    }

    #[test]
    fn a_phase_without_lines_is_not_met() {
        let phases = |request: &str, response: &str, error: &str| {
            let json = format!(
                r#"{{"request_level":"{request}","response_level":"{response}","error_level":"{error}"}}"#
            );
            Logging::start(&json).unwrap().phases()
        };

        assert_eq!(phases("info", "info", "warn"), Phases::all());
        assert_eq!(phases("off", "off", "warn"), Phases::RESPONSE);
        assert_eq!(phases("info", "off", "off"), Phases::REQUEST);
    }

    #[test]
    fn an_unknown_level_is_refused_with_its_key() {
        let json = r#"{"request_level":"info","response_level":"loud","error_level":"warn"}"#;

        let refusal = Logging::start(json).unwrap_err();

        assert_eq!(
            refusal,
            "setting `response_level`: `loud` is none of trace, debug, info, warn, error and off"
        );
    }
}
