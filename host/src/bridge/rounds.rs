//! A client of the legacy era on a modern server that answers a request with questions: the client is
//! asked, and the request made again with what it said.

use std::sync::Arc;

use bytes::Bytes;

use crate::downstream::OpenRequest;
use crate::mcp::{Message, edit, json};
use crate::pipeline::CallError;
use crate::upstream::UpstreamError;

/// A server may ask so often for one request.
pub(super) const ROUNDS_MAX: usize = 10;

/// Returns whether an answer is a question.
pub(crate) fn is_input_required(answer: &Message) -> bool {
    !answer.is_error() && answer.body_member("resultType") == Some(br#""input_required""#)
}

/// Asks the client what the server wants to know. Returns the params to make the request again with.
pub(crate) async fn next_round(
    upstream: &str,
    round: usize,
    params: &Bytes,
    answer: &Message,
    open: &Arc<OpenRequest>,
) -> Result<Bytes, CallError> {
    if round >= ROUNDS_MAX {
        let reason = format!("it asked more than {ROUNDS_MAX} times");
        return Err(UpstreamError::Invalid { upstream: upstream.to_owned(), reason }.into());
    }
    let requests = answer.body_member("inputRequests").unwrap_or(b"{}");
    let mut responses = b"{".to_vec();
    for (key, range) in json::members(requests) {
        let request = &requests[range];
        let member = |key| json::member(request, key).map(|range| &request[range]);
        let method = member("method").and_then(json::string).unwrap_or_default();
        if !matches!(&*method, "elicitation/create" | "sampling/createMessage" | "roots/list") {
            let reason = format!("it wants the client to answer `{method}`");
            return Err(UpstreamError::Invalid { upstream: upstream.to_owned(), reason }.into());
        }
        let result = open.ask(&method, member("params").unwrap_or(b"")).await?;
        if responses.len() > 1 {
            responses.push(b',');
        }
        responses.push(b'"');
        responses.extend_from_slice(key);
        responses.extend_from_slice(b"\":");
        responses.extend_from_slice(&result);
    }
    responses.push(b'}');
    let state = answer.body_member("requestState");
    let mut members = vec![("inputResponses", &responses[..])];
    members.extend(state.map(|state| ("requestState", state)));
    let params = edit::remove(params, &["inputResponses", "requestState"]);
    Ok(edit::set(&params, &members).into())
}
