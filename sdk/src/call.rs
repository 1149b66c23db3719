//! A message, most often a call, as a hook sees it.

use std::time::Duration;

use crate::bindings::ultra::plugin::types::{Era, Exchange, Head, Operation, Traits};

/// One message, most often a call, and in `after` its outcome.
///
/// What comes from the head costs nothing. Everything else is a call to the gateway of about 0.2 µs,
/// and more for a large payload: ask only for what is needed.
pub struct Call<'a> {
    head: Head,
    exchange: &'a Exchange,
}

impl<'a> Call<'a> {
    #[doc(hidden)]
    pub fn new(head: Head, exchange: &'a Exchange) -> Self {
        Self { head, exchange }
    }

    /// Returns what the call does.
    pub fn operation(&self) -> Operation {
        self.head.operation
    }

    /// Returns the size of the payload: `params` in `before`, result or error in `after`.
    pub fn payload_bytes(&self) -> u64 {
        self.head.payload_bytes
    }

    /// Returns the time since the gateway read the call.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.head.elapsed_ns)
    }

    /// Returns whether the upstream sent this to the client: a question, or a notification.
    pub fn from_server(&self) -> bool {
        self.head.traits.contains(Traits::FROM_SERVER)
    }

    /// Returns whether this is a notification: it has no `after`.
    pub fn notification(&self) -> bool {
        self.head.traits.contains(Traits::NOTIFICATION)
    }

    /// Returns whether an error takes the place of the result. `after` only, like the four that follow.
    pub fn failed(&self) -> bool {
        self.head.traits.contains(Traits::FAILED)
    }

    /// Returns whether the tool ran and reported an error of its own.
    pub fn tool_error(&self) -> bool {
        self.head.traits.contains(Traits::TOOL_ERROR)
    }

    /// Returns whether an interceptor refused the call.
    pub fn denied(&self) -> bool {
        self.head.traits.contains(Traits::DENIED)
    }

    /// Returns whether the client withdrew the call.
    pub fn cancelled(&self) -> bool {
        self.head.traits.contains(Traits::CANCELLED)
    }

    /// Returns whether an interceptor answered in place of the upstream.
    pub fn answered(&self) -> bool {
        self.head.traits.contains(Traits::ANSWERED)
    }

    /// Returns the JSON-RPC method, such as `tools/call`.
    pub fn method(&self) -> String {
        self.exchange.method()
    }

    /// Returns the upstream the message goes to or comes from, by its name in the config.
    pub fn upstream(&self) -> Option<String> {
        self.exchange.upstream()
    }

    /// Returns the tool or prompt by the upstream's own name, or the resource's URI.
    pub fn name(&self) -> Option<String> {
        self.exchange.name()
    }

    /// Returns the MCP client, as `name/version`.
    pub fn principal(&self) -> String {
        self.exchange.principal()
    }

    /// Returns for whom the client acts, as it has proven; none where it did not have to.
    pub fn subject(&self) -> Option<String> {
        self.exchange.subject()
    }

    /// Returns the id of the MCP session.
    pub fn session(&self) -> String {
        self.exchange.session()
    }

    /// Returns how the client talks: with a session, or without.
    pub fn era(&self) -> Era {
        self.exchange.era()
    }

    /// Returns the revision of MCP that client and gateway talk, such as `2025-11-25`.
    pub fn protocol_version(&self) -> String {
        self.exchange.protocol_version()
    }

    /// Returns `params._meta.traceparent` as sent.
    pub fn traceparent(&self) -> Option<String> {
        self.exchange.traceparent()
    }

    /// Returns why there is no result, worded for a log.
    pub fn error(&self) -> Option<String> {
        self.exchange.error()
    }

    /// Returns the whole payload as JSON text. Needs the capability `read`.
    pub fn payload(&self) -> String {
        self.exchange.payload()
    }

    /// Returns the value at an RFC 6901 pointer into the payload, as JSON text. Needs `read`.
    pub fn pointer(&self, pointer: &str) -> Option<String> {
        self.exchange.pointer(pointer)
    }

    /// Replaces the value at an RFC 6901 pointer into the payload. Needs `edit`.
    ///
    /// # Errors
    ///
    /// There is no such value, `json` is not JSON, or it must not be changed.
    pub fn set_pointer(&self, pointer: &str, json: &str) -> Result<(), String> {
        self.exchange.set_pointer(pointer, json)
    }

    /// Replaces the payload. Needs `edit`.
    ///
    /// # Errors
    ///
    /// `json` is not JSON, or there is no result to replace.
    pub fn set_payload(&self, json: &str) -> Result<(), String> {
        self.exchange.set_payload(json)
    }

    /// Keeps a word from `before` to `after` of the same call, in one of the slots 0 to 3.
    pub fn keep(&self, slot: u32, word: u64) {
        self.exchange.keep(slot, word);
    }

    /// Returns the word kept in a slot; 0 if there is none.
    pub fn kept(&self, slot: u32) -> u64 {
        self.exchange.kept(slot)
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        self.exchange
    }
}

impl Operation {
    /// Returns its name in settings and records, such as `tool_call`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToolCall => "tool_call",
            Self::ResourceRead => "resource_read",
            Self::PromptGet => "prompt_get",
            Self::ToolList => "tool_list",
            Self::ResourceList => "resource_list",
            Self::PromptList => "prompt_list",
            Self::Other => "other",
        }
    }
}
