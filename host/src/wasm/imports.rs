//! What plugins may call, each behind its grant. The only door out of the sandbox.
//!
//! Whether a plugin may import an interface was checked before it was compiled; acts on a call are
//! checked here. Nothing here blocks: no deadline can end a plugin while it is in here.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ultra_store::{FieldValue, Record};
use wasmtime::component::Resource;

use super::bindings::{audit, clock, fault, log, metrics, state, trace, types};
use super::call_line::CallLine;
use super::grant::{Capability, Grants};
use super::limits::{FIELDS_MAX, HOST_CALLS_MAX, LOG_LINES_MAX, MemoryLimit, TEXT_BYTES_MAX};
use super::meter::{Meter, Place};
use super::state::SharedState;
use super::{Outlets, edit, report};
use crate::mcp::Era;
use crate::pipeline::{CallError, Exchange, MessageKind, Outcome};

/// What the handle to the current call stands for. The call itself is in [`Guest::exchange`].
#[allow(unreachable_pub, reason = "the generated code exports it")]
pub struct Lent;

/// What all instances of a plugin share.
pub(super) struct Shared {
    pub(super) id: Arc<str>,
    pub(super) grants: Grants,
    pub(super) outlets: Outlets,
    pub(super) meter: Meter,
    pub(super) state: SharedState,
}

/// When an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Start,
    Request,
    Response,
}

/// What a plugin recorded as the end of a call.
#[derive(Debug)]
pub(super) enum Decision {
    Deny(String),
    Answer(Bytes),
}

/// What the gateway knows about one instance while it runs.
pub(super) struct Guest {
    pub(super) shared: Arc<Shared>,
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) phase: Phase,
    /// Time since the call was read, when the hook began.
    pub(super) elapsed: Duration,
    pub(super) decision: Option<Decision>,
    /// What the call was before the hook changed it.
    pub(super) undo: Option<edit::Undo>,
    /// What the plugin said before it trapped.
    pub(super) last_words: Option<String>,
    pub(super) memory: MemoryLimit,
    /// The thread's CPU time when the deadline first came near, and how many epochs are left then.
    pub(super) cpu_mark: Option<Duration>,
    pub(super) epochs_left: u64,
    calls_left: u32,
    lines_left: u32,
    place: Option<Place>,
}

/// What a plugin did that no plugin may do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("too many calls to the gateway")]
    HostCalls,
    #[error("`{act}` needs the capability `{capability}`, which it does not have")]
    NotGranted { act: &'static str, capability: Capability },
    #[error("{0}")]
    Misuse(&'static str),
}

type Result<T> = wasmtime::Result<T>;

impl Guest {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            exchange: None,
            phase: Phase::Start,
            elapsed: Duration::ZERO,
            decision: None,
            undo: None,
            last_words: None,
            memory: MemoryLimit::default(),
            cpu_mark: None,
            epochs_left: 0,
            calls_left: HOST_CALLS_MAX,
            lines_left: LOG_LINES_MAX,
            place: None,
        }
    }

    /// Prepares for a hook.
    pub(super) fn enter(&mut self, exchange: Box<Exchange>, phase: Phase, elapsed: Duration) {
        self.exchange = Some(exchange);
        self.phase = phase;
        self.elapsed = elapsed;
        self.decision = None;
        self.undo = None;
        self.calls_left = HOST_CALLS_MAX;
        self.lines_left = LOG_LINES_MAX;
        self.place = None;
    }

    /// Counts a call to the gateway.
    fn count(&mut self) -> Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(Fault::HostCalls)?;
        Ok(())
    }

    /// Counts a call to the gateway and returns the call it is about.
    fn call(&mut self) -> Result<&mut Exchange> {
        self.count()?;
        Ok(self
            .exchange
            .as_deref_mut()
            .ok_or(Fault::Misuse("there is no call while a plugin starts"))?)
    }

    fn need(&self, act: &'static str, capability: Capability) -> Result<()> {
        if self.shared.grants.has(capability) {
            return Ok(());
        }
        Err(Fault::NotGranted { act, capability }.into())
    }
}

impl types::Host for Guest {}

impl types::HostExchange for Guest {
    fn method(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.call()?.method.as_ref().into())
    }

    fn upstream(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        Ok(self.call()?.upstream.as_deref().map(Into::into))
    }

    fn name(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        Ok(self.call()?.name.as_deref().map(Into::into))
    }

    fn principal(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.call()?.caller.principal.as_ref().into())
    }

    fn subject(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        Ok(self.call()?.caller.subject.as_deref().map(Into::into))
    }

    fn session(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.call()?.caller.session_id.as_ref().into())
    }

    fn era(&mut self, _: Resource<Lent>) -> Result<types::Era> {
        Ok(match self.call()?.caller.era() {
            Era::Legacy => types::Era::Legacy,
            Era::Modern => types::Era::Modern,
        })
    }

    fn protocol_version(&mut self, _: Resource<Lent>) -> Result<String> {
        Ok(self.call()?.caller.protocol_version.as_ref().into())
    }

    fn traceparent(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        let raw = self.call()?.traceparent.as_ref();
        Ok(raw.and_then(|raw| crate::mcp::json::string(raw)).map(|text| text.into_owned()))
    }

    fn error(&mut self, _: Resource<Lent>) -> Result<Option<String>> {
        Ok(self.call()?.outcome.as_ref().and_then(report::error_text))
    }

    fn payload(&mut self, _: Resource<Lent>) -> Result<String> {
        self.need("payload", Capability::Read)?;
        Ok(text(self.call()?.payload()))
    }

    fn pointer(&mut self, _: Resource<Lent>, path: String) -> Result<Option<String>> {
        self.need("pointer", Capability::Read)?;
        let payload = self.call()?.payload();
        Ok(crate::mcp::json::pointer(payload, &path).map(|place| text(&payload[place])))
    }

    fn set_pointer(&mut self, _: Resource<Lent>, path: String, json: String) -> Result<Result2> {
        self.need("set-pointer", Capability::Edit)?;
        self.call()?;
        Ok(edit::set_pointer(self, &path, json))
    }

    fn set_payload(&mut self, _: Resource<Lent>, json: String) -> Result<Result2> {
        self.need("set-payload", Capability::Edit)?;
        self.call()?;
        Ok(edit::set_payload(self, json))
    }

    fn deny(&mut self, _: Resource<Lent>, mut reason: String) -> Result<()> {
        self.need("deny", Capability::Deny)?;
        self.call()?;
        cut(&mut reason);
        self.decision = Some(Decision::Deny(reason));
        Ok(())
    }

    fn answer(&mut self, _: Resource<Lent>, json: String) -> Result<Result2> {
        self.need("answer", Capability::Answer)?;
        match self.call()?.kind {
            MessageKind::Calls | MessageKind::ServerRequests => {}
            MessageKind::Notifications => return Ok(Err("nobody waits for an answer".into())),
            MessageKind::Session => return Ok(Err("the gateway answers this itself".into())),
        }
        if self.phase != Phase::Request {
            return Ok(Err("only `before` can answer".into()));
        }
        Ok(edit::object(json).map(|json| self.decision = Some(Decision::Answer(json))))
    }

    fn keep(&mut self, _: Resource<Lent>, slot: u32, word: u64) -> Result<()> {
        *kept(self.call()?, slot)? = word;
        Ok(())
    }

    fn kept(&mut self, _: Resource<Lent>, slot: u32) -> Result<u64> {
        Ok(*kept(self.call()?, slot)?)
    }

    fn drop(&mut self, _: Resource<Lent>) -> Result<()> {
        // Plugins are lent the call and never own it; there is nothing to free.
        Ok(())
    }
}

/// What an act that can be refused returns.
type Result2 = std::result::Result<(), String>;

fn kept(exchange: &mut Exchange, slot: u32) -> Result<&mut u64> {
    let stage = exchange.stage;
    if exchange.kept.len() <= stage {
        exchange.kept.resize(stage + 1, [0; 4]);
    }
    Ok(exchange.kept[stage]
        .get_mut(slot as usize)
        .ok_or(Fault::Misuse("there are slots 0 to 3 only"))?)
}

impl fault::Host for Guest {
    fn report(&mut self, mut message: String) -> Result<()> {
        self.count()?;
        cut(&mut message);
        self.last_words = Some(message.lines().collect::<Vec<_>>().join(" "));
        Ok(())
    }
}

impl log::Host for Guest {
    fn enabled(&mut self, at: log::Level) -> Result<bool> {
        self.count()?;
        Ok(report::enabled(at))
    }

    fn write(&mut self, at: log::Level, mut text: String) -> Result<()> {
        self.count()?;
        let Some(lines_left) = self.lines_left.checked_sub(1) else { return Ok(()) };
        self.lines_left = lines_left;
        if report::enabled(at) {
            cut(&mut text);
            report::line(&self.shared.id, at, &text);
        }
        Ok(())
    }

    fn call(&mut self, at: log::Level) -> Result<()> {
        self.call()?;
        if let (Some(exchange), true) = (&self.exchange, report::enabled(at)) {
            let line = CallLine::new(&self.shared.id, at, exchange, self.elapsed);
            match &self.shared.outlets.log {
                Some(log) => log.push(line),
                None => line.write(),
            }
        }
        Ok(())
    }
}

impl trace::Host for Guest {
    fn parent(&mut self, trace_high: u64, trace_low: u64, span: u64, sampled: bool) -> Result<()> {
        let exchange = self.call()?;
        let trace_id = u128::from(trace_high) << 64 | u128::from(trace_low);
        if trace_id == 0 || span == 0 {
            return Err(Fault::Misuse("W3C ids are never 0").into());
        }
        exchange.span.trace_id = trace_id;
        exchange.span.parent_span_id = Some(span);
        exchange.span.sampled = sampled;
        Ok(())
    }

    fn record_call(&mut self, fields: Vec<types::Field>) -> Result<()> {
        if self.phase != Phase::Response {
            return Err(Fault::Misuse("a call is recorded in `after` only").into());
        }
        let elapsed = self.elapsed;
        let exchange = self.call()?;
        if std::mem::replace(&mut exchange.traced, true) {
            return Ok(());
        }
        let trace = report::trace(exchange, elapsed, field_values(fields));
        let sampled = exchange.span.sampled;
        let outlets = &self.shared.outlets;
        if let Some(spans) = outlets.spans.as_ref().filter(|_| sampled) {
            spans.span(&trace);
        }
        outlets.store.record(Record::Trace(trace));
        Ok(())
    }
}

impl audit::Host for Guest {
    fn record_call(
        &mut self,
        severity: audit::Severity,
        outcome: audit::Outcome,
        fields: Vec<types::Field>,
    ) -> Result<()> {
        let elapsed = self.elapsed;
        let exchange = self.call()?;
        if exchange.audit.is_some() {
            return Err(Fault::Misuse("one hook records one audit event").into());
        }
        let event = report::audit(exchange, elapsed, severity, outcome, field_values(fields));
        exchange.audit = Some(event);
        Ok(())
    }
}

impl metrics::Host for Guest {
    fn counter(&mut self, name: String, unit: String) -> Result<u32> {
        self.count()?;
        self.instrument(&name, &unit, None)
    }

    fn histogram(&mut self, name: String, unit: String, bounds: Vec<f64>) -> Result<u32> {
        self.count()?;
        self.instrument(&name, &unit, Some(&bounds))
    }

    fn add(&mut self, to: u32, amount: u64) -> Result<()> {
        self.call()?;
        let Some(exchange) = self.exchange.as_deref() else { return Ok(()) };
        Ok(self.shared.meter.add(to, amount, exchange, &mut self.place)?)
    }

    fn sample(&mut self, to: u32, value: f64) -> Result<()> {
        self.call()?;
        let Some(exchange) = self.exchange.as_deref() else { return Ok(()) };
        Ok(self.shared.meter.sample(to, value, exchange, &mut self.place)?)
    }
}

impl Guest {
    fn instrument(&self, name: &str, unit: &str, bounds: Option<&[f64]>) -> Result<u32> {
        if self.phase != Phase::Start {
            return Err(Fault::Misuse("instruments are made in `start` only").into());
        }
        Ok(self.shared.meter.instrument(name, unit, bounds)?)
    }
}

impl state::Host for Guest {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        self.count()?;
        Ok(self.shared.state.get(&key))
    }

    fn put(&mut self, key: String, value: Vec<u8>, ttl_ms: u64) -> Result<Result2> {
        self.count()?;
        Ok(self.shared.state.put(key, value, ttl_ms))
    }

    fn add(
        &mut self,
        key: String,
        delta: i64,
        ttl_ms: u64,
    ) -> Result<std::result::Result<i64, String>> {
        self.count()?;
        Ok(self.shared.state.add(key, delta, ttl_ms))
    }
}

/// Zero of the clock that plugins see.
static CLOCK_ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

impl clock::Host for Guest {
    fn monotonic_ns(&mut self) -> Result<u64> {
        self.count()?;
        Ok(CLOCK_ZERO.elapsed().as_nanos() as u64)
    }

    fn unix_ms(&mut self) -> Result<u64> {
        self.count()?;
        Ok(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
    }
}

/// Returns the facts of a call that every hook gets.
pub(super) fn head(exchange: &Exchange, elapsed: Duration) -> types::Head {
    use crate::pipeline::Operation;

    let operation = match exchange.operation {
        Operation::ToolCall => types::Operation::ToolCall,
        Operation::ResourceRead => types::Operation::ResourceRead,
        Operation::PromptGet => types::Operation::PromptGet,
        Operation::ToolList => types::Operation::ToolList,
        Operation::ResourceList => types::Operation::ResourceList,
        Operation::PromptList => types::Operation::PromptList,
        Operation::Other => types::Operation::Other,
    };
    let mut traits = match &exchange.outcome {
        None | Some(Outcome::Result { tool_error: false, .. }) => types::Traits::empty(),
        Some(Outcome::Result { tool_error: true, .. }) => types::Traits::TOOL_ERROR,
        Some(Outcome::Failed(CallError::Denied { .. })) => {
            types::Traits::FAILED | types::Traits::DENIED
        }
        Some(Outcome::Failed(CallError::Cancelled)) => {
            types::Traits::FAILED | types::Traits::CANCELLED
        }
        Some(Outcome::Failed(_) | Outcome::Rpc { .. }) => types::Traits::FAILED,
    };
    for (is_so, name) in [
        (exchange.answered, types::Traits::ANSWERED),
        (exchange.from_server, types::Traits::FROM_SERVER),
        (exchange.kind == MessageKind::Notifications, types::Traits::NOTIFICATION),
    ] {
        if is_so {
            traits |= name;
        }
    }
    types::Head {
        operation,
        payload_bytes: exchange.payload().len() as u64,
        elapsed_ns: elapsed.as_nanos() as u64,
        traits,
    }
}

/// Cuts a text to what the gateway keeps of it, at a character.
fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

/// What came from a peer was checked to be UTF-8 when it was read; this only does not rely on it.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field_values(fields: Vec<types::Field>) -> Vec<(String, FieldValue)> {
    let value = |value| match value {
        types::Value::Text(mut text) => {
            cut(&mut text);
            FieldValue::Text(text)
        }
        types::Value::Int(int) => FieldValue::Int(int),
        types::Value::Float(float) => FieldValue::Float(float),
        types::Value::Boolean(boolean) => FieldValue::Bool(boolean),
    };
    let pair = |mut field: types::Field| {
        cut(&mut field.key);
        (field.key, value(field.value))
    };
    fields.into_iter().take(FIELDS_MAX).map(pair).collect()
}
