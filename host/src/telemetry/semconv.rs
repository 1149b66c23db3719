//! What Ultra's records are called in OpenTelemetry.
//!
//! Follows the MCP conventions of the GenAI semantic conventions (status: development),
//! <https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/mcp.md>, read in
//! the revision that refers to the general conventions 1.41. Every name of theirs that Ultra uses
//! stands in this file; names of our own begin with `ultra.`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status as SpanStatus};
use serde_json::value::RawValue;
use ultra_store::{FieldValue, Status, Trace};

use super::{Facts, Session};

/// Texts are sent up to this many bytes: names and messages are at home here, payloads are not.
const TEXT_BYTES_MAX: usize = 1_024;

/// Texts are searched for secrets up to this many bytes: more than is sent, so that a secret that
/// begins in what is sent is seen whole.
const SEARCHED_BYTES_MAX: usize = 4 * TEXT_BYTES_MAX;

/// A span takes this many fields of its component; OpenTelemetry's default limit is 128 attributes.
const FIELDS_MAX: usize = 64;

/// An error reply is searched for its code up to this size; that takes at most some 50 µs, of a call
/// that failed.
const ERROR_BYTES_MAX: usize = 64 * 1_024;

/// Sessions whose protocol revision is remembered; the oldest are forgotten first.
const SESSIONS_MAX: usize = 1_024;

/// The W3C `sampled` flag: what is exported was sampled.
const SAMPLED: u32 = 1;

/// The parts of a trace that its span is made of, without payloads.
pub(super) struct Call {
    trace_id: u128,
    span_id: u64,
    parent_span_id: Option<u64>,
    operation: &'static str,
    method: Arc<str>,
    upstream: Option<Arc<str>>,
    name: Option<Arc<str>>,
    principal: Arc<str>,
    session_id: Arc<str>,
    transport: Option<&'static str>,
    started_unix_ns: i64,
    duration_ns: u64,
    failure: Option<Failure>,
    fields: Vec<(String, FieldValue)>,
}

/// What the conventions want to know about a call that failed.
enum Failure {
    /// The tool ran and reported an error of its own.
    Tool,
    /// A JSON-RPC error.
    Rpc { code: i64, message: Option<String> },
    /// The gateway has no reply.
    Other { message: Option<String> },
}

/// The members of a reply that tell kinds of failure apart.
#[derive(serde::Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow, rename = "isError")]
    is_error: Option<&'a RawValue>,
}

/// Protocol revisions, by session.
#[derive(Default)]
pub(super) struct Sessions {
    versions: HashMap<Arc<str>, Arc<str>>,
    order: VecDeque<Arc<str>>,
}

/// Attributes under distinct keys, as OTLP wants them; the first value of a key stays.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Call {
    /// Takes from a trace what its span needs.
    pub(super) fn new(trace: &Trace) -> Self {
        let fields = trace.metadata.iter().take(FIELDS_MAX).map(|(key, value)| {
            let value = match value {
                FieldValue::Text(text) => FieldValue::Text(searched(text).to_owned()),
                FieldValue::Int(_) | FieldValue::Float(_) | FieldValue::Bool(_) => value.clone(),
            };
            (cut(key).to_owned(), value)
        });
        Self {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            parent_span_id: trace.parent_span_id,
            operation: trace.operation,
            method: trace.method.clone(),
            upstream: trace.upstream.clone(),
            name: trace.name.clone(),
            principal: trace.principal.clone(),
            session_id: trace.session_id.clone(),
            transport: trace.transport,
            started_unix_ns: trace.started_unix_ns,
            duration_ns: trace.duration_ns,
            failure: match trace.status {
                Status::Success => None,
                Status::Error => Some(Failure::of(trace)),
            },
            fields: fields.collect(),
        }
    }

    /// Makes the span: of kind SERVER, as the gateway serves the client. Spans of kind CLIENT are
    /// free for the calls it makes to upstreams.
    pub(super) fn span(&self, facts: &Facts, sessions: &Sessions) -> Span {
        let start = u64::try_from(self.started_unix_ns).unwrap_or(0);
        let remote = SpanFlags::ContextHasIsRemoteMask as u32
            | self.parent_span_id.map_or(0, |_| SpanFlags::ContextIsRemoteMask as u32);
        Span {
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            span_id: self.span_id.to_be_bytes().to_vec(),
            parent_span_id: self.parent_span_id.map_or(Vec::new(), |id| id.to_be_bytes().to_vec()),
            flags: SAMPLED | remote,
            name: self.span_name(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(self.duration_ns),
            attributes: self.attributes(facts, sessions),
            status: self.failure.as_ref().map(|failure| SpanStatus {
                message: failure.message().map_or(String::new(), |text| facts.redacted(text)),
                code: StatusCode::Error.into(),
            }),
            ..Span::default()
        }
    }

    /// Returns `{mcp.method.name} {target}`; a URI is no target, being one of too many.
    fn span_name(&self) -> String {
        match (&*self.method, &self.name) {
            ("tools/call" | "prompts/get", Some(target)) => {
                format!("{} {}", self.method, cut(target))
            }
            _ => cut(&self.method).to_owned(),
        }
    }

    fn attributes(&self, facts: &Facts, sessions: &Sessions) -> Vec<KeyValue> {
        let mut attributes = Attributes::default();
        attributes.put("mcp.method.name", cut(&self.method));
        if let Some(name) = &self.name {
            match &*self.method {
                "tools/call" => attributes.put("gen_ai.tool.name", cut(name)),
                "prompts/get" => attributes.put("gen_ai.prompt.name", cut(name)),
                "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                    attributes.put("mcp.resource.uri", facts.redacted(name));
                }
                _ => attributes.put("ultra.target", facts.redacted(name)),
            }
        }
        if &*self.method == "tools/call" {
            attributes.put("gen_ai.operation.name", "execute_tool");
        }
        attributes.put("mcp.session.id", &*self.session_id);
        attributes.put("network.transport", network_transport(facts.transport));
        attributes.put("ultra.operation", self.operation);
        if let Some(upstream) = &self.upstream {
            attributes.put("ultra.upstream", &**upstream);
        }
        if let Some(transport) = self.transport {
            attributes.put("ultra.upstream.transport", transport);
        }
        attributes.put("ultra.principal", cut(&self.principal));
        // What the component says comes before what is only guessed or remembered here.
        for (key, value) in &self.fields {
            match value {
                FieldValue::Text(text) => attributes.put(key, facts.redacted(text)),
                FieldValue::Int(number) => attributes.put(key, Value::IntValue(*number)),
                FieldValue::Float(number) => attributes.put(key, Value::DoubleValue(*number)),
                FieldValue::Bool(truth) => attributes.put(key, Value::BoolValue(*truth)),
            }
        }
        if let Some(version) = sessions.version(&self.session_id) {
            attributes.put("mcp.protocol.version", version);
        }
        match &self.failure {
            None => {}
            Some(Failure::Tool) => attributes.put("error.type", "tool_error"),
            Some(Failure::Rpc { code, .. }) => {
                attributes.put("error.type", code.to_string());
                attributes.put("rpc.response.status_code", code.to_string());
            }
            Some(Failure::Other { .. }) => attributes.put("error.type", "_OTHER"),
        }
        attributes.0
    }
}

impl Facts {
    /// Returns the beginning of a text without the secrets in it.
    fn redacted(&self, text: &str) -> String {
        cut(&self.redactor.redact_text(searched(text))).to_owned()
    }
}

impl Failure {
    fn of(trace: &Trace) -> Self {
        let reply = trace.response.as_deref().filter(|reply| reply.len() <= ERROR_BYTES_MAX);
        let reply = reply.and_then(|reply| serde_json::from_slice::<Reply<'_>>(reply).ok());
        let message = trace.error.as_deref().map(|text| searched(text).to_owned());
        let Some(reply) = reply else { return Self::Other { message } };
        if reply.is_error.is_some_and(|raw| raw.get() == "true") {
            return Self::Tool;
        }
        match reply.code.and_then(|raw| raw.get().parse().ok()) {
            Some(code) => {
                let said =
                    reply.message.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
                Self::Rpc { code, message: said.map(|text| searched(&text).to_owned()).or(message) }
            }
            None => Self::Other { message },
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            // What a tool says is a payload.
            Self::Tool => None,
            Self::Rpc { message, .. } | Self::Other { message } => message.as_deref(),
        }
    }
}

impl Sessions {
    /// Remembers a session.
    pub(super) fn put(&mut self, session: Session) {
        if self.versions.insert(session.id.clone(), session.protocol_version).is_none() {
            self.order.push_back(session.id);
        }
        if self.order.len() > SESSIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.versions.remove(&oldest);
        }
    }

    fn version(&self, id: &str) -> Option<&str> {
        self.versions.get(id).map(|version| &**version)
    }
}

impl Attributes {
    /// Sets a key, unless it is set.
    fn put(&mut self, key: &str, value: impl Into<AttributeValue>) {
        if self.0.iter().all(|attribute| attribute.key != key) {
            let value = Some(AnyValue { value: Some(value.into().0) });
            self.0.push(KeyValue { key: key.to_owned(), value, key_strindex: 0 });
        }
    }
}

/// A value on its way into OTLP.
struct AttributeValue(Value);

impl From<Value> for AttributeValue {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self(Value::StringValue(text.to_owned()))
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self(Value::StringValue(text))
    }
}

/// Returns what an instrument of Ultra's is called, and its description.
pub(super) fn instrument(name: &str) -> (&str, &'static str) {
    match name {
        "mcp.call.duration" => (
            "mcp.server.operation.duration",
            "MCP request duration as observed on the receiver, until the result is sent",
        ),
        other => (other, ""),
    }
}

/// Returns the attributes of a measurement.
///
/// A resource's URI is none of them: the conventions make it opt-in, since there are too many.
pub(super) fn measurement(
    operation: &str,
    upstream: Option<&str>,
    name: Option<&str>,
) -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    let method = match operation {
        "tool_call" => "tools/call",
        "resource_read" => "resources/read",
        "prompt_get" => "prompts/get",
        "tool_list" => "tools/list",
        "resource_list" => "resources/list",
        "prompt_list" => "prompts/list",
        _ => "_OTHER",
    };
    attributes.put("mcp.method.name", method);
    if let Some(name) = name {
        match operation {
            "tool_call" => attributes.put("gen_ai.tool.name", name),
            "prompt_get" => attributes.put("gen_ai.prompt.name", name),
            _ => {}
        }
    }
    if operation == "tool_call" {
        attributes.put("gen_ai.operation.name", "execute_tool");
    }
    if let Some(upstream) = upstream {
        attributes.put("ultra.upstream", upstream);
    }
    attributes.0
}

/// Returns the attributes of what found no stream of its own.
pub(super) fn overflow() -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    attributes.put("otel.metric.overflow", Value::BoolValue(true));
    attributes.0
}

/// Returns whether measurements of an operation are told apart by name.
pub(super) fn measured_by_name(operation: &str) -> bool {
    matches!(operation, "tool_call" | "prompt_get")
}

/// Returns who reports: this service, on this host, in this process.
pub(super) fn resource(service_name: &str) -> Resource {
    let mut attributes = Attributes::default();
    attributes.put("service.name", service_name);
    attributes.put("service.version", env!("CARGO_PKG_VERSION"));
    attributes.put("service.instance.id", uuid::Uuid::now_v7().to_string());
    attributes.put("process.pid", Value::IntValue(std::process::id().into()));
    let program = std::env::current_exe().ok();
    if let Some(name) = program.as_deref().and_then(|path| path.file_name()) {
        attributes.put("process.executable.name", name.to_string_lossy().into_owned());
    }
    attributes.put("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned());
    attributes.put("host.arch", arch(std::env::consts::ARCH));
    attributes.put("os.type", os(std::env::consts::OS));
    Resource { attributes: attributes.0, ..Resource::default() }
}

/// Returns what made the spans and metrics.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "ultra".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// Returns the time in nanoseconds since 1970 UTC.
pub(super) fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn network_transport(transport: &str) -> &'static str {
    match transport {
        "stdio" => "pipe",
        _ => "tcp",
    }
}

fn arch(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

fn os(rust: &'static str) -> &'static str {
    match rust {
        "macos" => "darwin",
        other => other,
    }
}

/// Returns what of a text is searched for secrets.
fn searched(text: &str) -> &str {
    &text[..text.floor_char_boundary(SEARCHED_BYTES_MAX)]
}

/// Returns what of a text is sent.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}
