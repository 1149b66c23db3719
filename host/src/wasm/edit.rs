//! Changes a plugin makes to a call: checked as they happen, spliced into the bytes, undone if the hook fails.

use bytes::Bytes;

use super::imports::{Guest, Phase};
use crate::mcp::json;
use crate::pipeline::{Exchange, Operation, Outcome};

/// What a call was before a hook changed it.
pub(super) struct Undo {
    params: Bytes,
    params_edited: bool,
    outcome: Option<Outcome>,
}

impl Undo {
    fn of(exchange: &Exchange) -> Self {
        Self {
            params: exchange.params.clone(),
            params_edited: exchange.params_edited,
            outcome: exchange.outcome.clone(),
        }
    }

    /// Makes the call what it was.
    pub(super) fn undo(self, exchange: &mut Exchange) {
        exchange.params = self.params;
        exchange.params_edited = self.params_edited;
        exchange.outcome = self.outcome;
    }
}

/// Replaces the value at an RFC 6901 pointer into the payload.
pub(super) fn set_pointer(guest: &mut Guest, pointer: &str, json: String) -> Result<(), String> {
    if pointer.is_empty() {
        return set_payload(guest, json);
    }
    let Some(exchange) = guest.exchange.as_deref() else { return Err("there is no call".into()) };
    let json = checked(json)?;
    let payload = exchange.payload();
    let place = json::pointer(payload, pointer)
        .ok_or_else(|| format!("there is no value at `{pointer}`"))?;
    let mut edited = Vec::with_capacity(payload.len() - place.len() + json.len());
    edited.extend_from_slice(&payload[..place.start]);
    edited.extend_from_slice(&json);
    edited.extend_from_slice(&payload[place.end..]);
    replace(guest, edited.into())
}

/// Replaces the payload.
pub(super) fn set_payload(guest: &mut Guest, json: String) -> Result<(), String> {
    replace(guest, object(json)?)
}

/// Checks a JSON object.
pub(super) fn object(json: String) -> Result<Bytes, String> {
    let json = checked(json)?;
    if json.trim_ascii_start().first() == Some(&b'{') {
        Ok(json)
    } else {
        Err("not a JSON object".into())
    }
}

/// Checks JSON text and takes the line breaks out: they end a message on stdio.
fn checked(json: String) -> Result<Bytes, String> {
    json::validate(json.as_bytes()).map_err(|error| format!("not JSON: {error}"))?;
    let mut bytes = json.into_bytes();
    // Within strings a raw line break is no JSON, so that these are all between values.
    for byte in &mut bytes {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(bytes.into())
}

fn replace(guest: &mut Guest, payload: Bytes) -> Result<(), String> {
    let phase = guest.phase;
    let Some(exchange) = guest.exchange.as_deref_mut() else {
        return Err("there is no call".into());
    };
    let undo = guest.undo.is_none().then(|| Undo::of(exchange));
    match (phase, &mut exchange.outcome) {
        (Phase::Response, Some(Outcome::Result { json, tool_error })) => {
            *tool_error = exchange.operation == Operation::ToolCall
                && json::pointer(&payload, "/isError")
                    .is_some_and(|place| &payload[place] == b"true");
            *json = payload;
        }
        (Phase::Response, _) => return Err("there is no result to replace".into()),
        (Phase::Start | Phase::Request, _) => {
            if let Some(pointer) = identity(exchange.operation)
                && at(&exchange.params, pointer) != at(&payload, pointer)
            {
                return Err(format!("`{pointer}` says what is called and cannot be replaced"));
            }
            exchange.params = payload;
            exchange.params_edited = true;
        }
    }
    if let Some(undo) = undo {
        guest.undo = Some(undo);
    }
    Ok(())
}

/// Returns where `params` names what is called. Who was asked before and after this stage, and the
/// records, go by that name.
fn identity(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::ToolCall | Operation::PromptGet => Some("/name"),
        Operation::ResourceRead => Some("/uri"),
        Operation::ToolList
        | Operation::ResourceList
        | Operation::PromptList
        | Operation::Other => None,
    }
}

fn at<'a>(json: &'a [u8], pointer: &str) -> Option<&'a [u8]> {
    json::pointer(json, pointer).map(|place| &json[place])
}
