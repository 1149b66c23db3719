//! A client of the legacy era on a modern server that answers a request with questions: the client is
//! asked, and the request made again with what it said.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::downstream::OpenRequest;
use crate::mcp::{Message, edit, json};
use crate::pipeline::CallError;
use crate::upstream::UpstreamError;

/// A server may ask so often for one request.
pub(super) const ROUNDS_MAX: usize = 10;

/// And so much at once. Who is asked more will not answer.
const QUESTIONS_MAX: usize = 64;

/// Returns whether an answer is a question.
pub(crate) fn is_input_required(answer: &Message) -> bool {
    !answer.is_error() && answer.body_member("resultType") == Some(br#""input_required""#)
}

/// Asks the client what the server wants to know. Returns the params to make the request again with.
pub(crate) async fn next_round(
    upstream: &Arc<str>,
    round: usize,
    params: &Bytes,
    answer: &Message,
    open: &Arc<OpenRequest>,
) -> Result<Bytes, CallError> {
    if round >= ROUNDS_MAX {
        let reason = format!("it asked more than {ROUNDS_MAX} times");
        return Err(UpstreamError::Invalid { upstream: upstream.to_string(), reason }.into());
    }
    let requests = requests(upstream, answer)?;
    // All at once: a client that can be asked only in answer to a request is asked once.
    let asked = json::members(requests).map(|(key, range)| async move {
        let request = &requests[range];
        let member = |key| json::member(request, key).map(|range| &request[range]);
        let method = member("method").and_then(json::string).unwrap_or_default();
        if !matches!(&*method, "elicitation/create" | "sampling/createMessage" | "roots/list") {
            let reason = format!("it wants the client to answer `{method}`");
            let upstream = upstream.to_string();
            return Err(CallError::from(UpstreamError::Invalid { upstream, reason }));
        }
        let result = open.ask(upstream, &method, member("params").unwrap_or(b"")).await?;
        Ok((key, result))
    });
    let mut responses = b"{".to_vec();
    for (key, result) in try_join_all(asked).await? {
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

/// Returns what an answer asks, by key.
fn requests<'a>(upstream: &str, answer: &'a Message) -> Result<&'a [u8], UpstreamError> {
    let requests = answer.body_member("inputRequests").unwrap_or(b"{}");
    if json::members(requests).nth(QUESTIONS_MAX).is_none() {
        return Ok(requests);
    }
    let reason = format!("it asked more than {QUESTIONS_MAX} things at once");
    Err(UpstreamError::Invalid { upstream: upstream.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(questions: usize) -> Message {
        let requests: Vec<_> =
            (0..questions).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
        let requests = requests.join(",");
        let result = format!(r#"{{"resultType":"input_required","inputRequests":{{{requests}}}}}"#);
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        Message::parse(line.into()).unwrap()
    }

    #[test]
    fn a_server_that_asks_too_much_at_once_is_refused() {
        let answer = asking(QUESTIONS_MAX);
        let asked = requests("up", &answer).unwrap();
        assert_eq!(json::members(asked).count(), QUESTIONS_MAX);

        let error = requests("up", &asking(QUESTIONS_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("it asked more than 64 things at once"), "{error}");
    }
}
