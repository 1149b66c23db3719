//! A component that sees every message there is, logs it, and does with some what its settings say.

use ultra_plugin::log::{self, Level};
use ultra_plugin::{Call, Era, Flow, Interceptor, Settings, plugin};

/// Methods, by what is done with them.
#[derive(Debug)]
pub struct Witness {
    denied: Vec<String>,
    withheld: Vec<String>,
    declined: Vec<String>,
    edited: Vec<String>,
}

impl Interceptor for Witness {
    fn start(settings: &str) -> Result<Self, String> {
        let settings = Settings::parse(settings)?;
        let methods = |key| {
            Ok::<_, String>(settings.texts(key)?.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        Ok(Self {
            denied: methods("denied")?,
            withheld: methods("withheld")?,
            declined: methods("declined")?,
            edited: methods("edited")?,
        })
    }

    fn before(&self, call: &Call<'_>) -> Flow {
        let method = call.method();
        let kind = if call.notification() { "notification" } else { "request" };
        tell(call, kind, "");
        if self.denied.contains(&method) {
            return Flow::Deny("the witness says no".into());
        }
        if self.declined.contains(&method) {
            return Flow::Answer(r#"{"action":"decline"}"#.into());
        }
        if self.edited.contains(&method)
            && let Err(reason) = call.set_pointer("/message", r#""edited""#)
        {
            return Flow::Deny(reason);
        }
        Flow::Next
    }

    fn after(&self, call: &Call<'_>) -> Flow {
        let end = match () {
            () if call.denied() => " denied",
            () if call.cancelled() => " cancelled",
            () if call.failed() => " failed",
            () if call.answered() => " answered",
            () => "",
        };
        tell(call, "response", end);
        if self.withheld.contains(&call.method()) {
            return Flow::Deny("the witness keeps it".into());
        }
        Flow::Next
    }
}

fn tell(call: &Call<'_>, kind: &str, end: &str) {
    let direction = if call.from_server() { "from" } else { "to" };
    let upstream = call.upstream().unwrap_or_else(|| "-".into());
    let era = match call.era() {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    };
    let (method, version, principal) = (call.method(), call.protocol_version(), call.principal());
    let line = format!("saw {kind} {method} {direction} {upstream} {era} {version} {principal}{end};");
    log::write(Level::Info, &line);
}

plugin!(Witness);
