//! The logging interceptor: one line when a call comes, one when its outcome goes.
//!
//! The gateway words the lines, because it knows who, what and how long, and never tells a payload.

use ultra_plugin::log::{self, Level};
use ultra_plugin::{Call, Flow, Interceptor, Settings, plugin};

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
    if let Some(level) = at
        && log::enabled(level)
    {
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
    fn an_unknown_level_is_refused_with_its_key() {
        let json = r#"{"request_level":"info","response_level":"loud","error_level":"warn"}"#;

        let refusal = Logging::start(json).unwrap_err();

        assert_eq!(
            refusal,
            "setting `response_level`: `loud` is none of trace, debug, info, warn, error and off"
        );
    }
}
