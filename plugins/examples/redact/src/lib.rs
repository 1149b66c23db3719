//! An example for authors: refuses calls of some tools, and blanks values in arguments and results.

use ultra_plugin::{Call, Flow, Interceptor, Settings, plugin};

const BLANK: &str = "\"[redacted]\"";

/// The interceptor and what it looks for.
#[derive(Debug)]
pub struct Redact {
    denied: Vec<String>,
    arguments: Vec<String>,
    results: Vec<String>,
}

impl Interceptor for Redact {
    fn start(settings: &str) -> Result<Self, String> {
        let settings = Settings::parse(settings)?;
        let texts = |key| {
            Ok::<_, String>(settings.texts(key)?.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let redact = Self {
            denied: texts("denied")?,
            arguments: texts("arguments")?,
            results: texts("results")?,
        };
        for pointer in redact.arguments.iter().chain(&redact.results) {
            check(pointer)?;
        }
        Ok(redact)
    }

    fn before(&self, call: &Call<'_>) -> Flow {
        if let Some(name) = call.name()
            && self.denies(&name)
        {
            return Flow::Deny(format!("`{name}` is not allowed here"));
        }
        blank(call, &self.arguments)
    }

    fn after(&self, call: &Call<'_>) -> Flow {
        if call.failed() { Flow::Next } else { blank(call, &self.results) }
    }
}

impl Redact {
    fn denies(&self, name: &str) -> bool {
        self.denied.iter().any(|denied| denied == name)
    }
}

fn blank(call: &Call<'_>, pointers: &[String]) -> Flow {
    for pointer in pointers {
        if call.pointer(pointer).is_some()
            && let Err(reason) = call.set_pointer(pointer, BLANK)
        {
            return Flow::Deny(format!("cannot redact `{pointer}`: {reason}"));
        }
    }
    Flow::Next
}

/// Refuses at start what would silently never match.
fn check(pointer: &str) -> Result<(), String> {
    if pointer.starts_with('/') {
        Ok(())
    } else {
        Err(format!("`{pointer}` is no JSON pointer: it must start with `/`"))
    }
}

plugin!(Redact);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_denied_by_their_exact_name() {
        let redact = Redact::start(r#"{"denied":["delete"],"arguments":[],"results":[]}"#).unwrap();

        assert!(redact.denies("delete"));
        assert!(!redact.denies("delete_all"));
    }

    #[test]
    fn a_path_that_is_no_pointer_is_refused() {
        let refusal =
            Redact::start(r#"{"denied":[],"arguments":["token"],"results":[]}"#).unwrap_err();

        assert_eq!(refusal, "`token` is no JSON pointer: it must start with `/`");
    }
}
