//! Between the eras of the protocol: a client of one and a server of the other.
//!
//! Where both are of the same era, nothing here is needed but the sealed `requestState`, unless interceptors
//! see what servers ask: then a call between two of the modern era is parked as well.

mod parking;
mod rounds;
mod seal;
mod sign_in;

use bytes::Bytes;

pub use parking::Parking;
pub(crate) use parking::{Place, outcome, resume, start};
pub(crate) use rounds::{is_input_required, next_round};
pub use seal::Seal;
pub(crate) use seal::{open_state, seal_state};
pub use sign_in::{SIGN_IN, was_asked_to_sign_in};
pub(crate) use sign_in::{is_signing_in, without_sign_in};

use crate::downstream::OpenRequest;
use crate::mcp::{Era, Level, Message, edit, json, modern};

/// Returns a result with all that the modern era wants in it.
///
/// What comes from a server of the legacy era says nothing of how long it is good, so it is not. `answer` is
/// the message the result came in, if it did: in it, members need not be looked for.
pub fn complete(method: &str, result: &Bytes, answer: Option<&Message>) -> Bytes {
    let mut members: Vec<(&str, &[u8])> = Vec::new();
    let has = |key| json::member(result, key).is_some();
    let kind = match answer.filter(|answer| answer.body().as_ptr() == result.as_ptr()) {
        Some(answer) => answer.body_member("resultType"),
        None => json::member(result, "resultType").map(|range| &result[range]),
    };
    match kind {
        None => members.push(("resultType", br#""complete""#)),
        Some(br#""complete""#) => {}
        Some(_) => return result.clone(),
    }
    if matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    ) {
        members.extend((!has("ttlMs")).then_some(("ttlMs", &b"0"[..])));
        members.extend((!has("cacheScope")).then_some(("cacheScope", &br#""private""#[..])));
    }
    match members.is_empty() {
        true => result.clone(),
        false => edit::put_first(result, &members).into(),
    }
}

/// Returns a result without what only the modern era knows.
pub(crate) fn plain(result: &Bytes) -> Bytes {
    let keys = ["resultType", "ttlMs", "cacheScope"];
    match keys.iter().any(|key| json::member(result, key).is_some()) {
        true => edit::remove(result, &keys).into(),
        false => result.clone(),
    }
}

/// Returns an error object as the client's era words it.
pub(crate) fn error(method: &str, error: &Bytes, era: Era) -> Bytes {
    let (from, to) = match era {
        Era::Legacy => (&b"-32602"[..], "-32002"),
        Era::Modern => (&b"-32002"[..], "-32602"),
    };
    match json::member(error, "code") {
        Some(code) if method == "resources/read" && &error[code.clone()] == from => {
            json::splice(error, &[(code, Bytes::from_static(to.as_bytes()))]).into()
        }
        _ => error.clone(),
    }
}

/// Returns params of a notification without the id of the subscription that brought it to us.
pub fn without_subscription(params: &Bytes) -> Bytes {
    let Some(range) = json::member(params, "_meta") else { return params.clone() };
    match &edit::remove(&params[range.clone()], &[modern::SUBSCRIPTION_ID])[..] {
        b"{}" => edit::remove(params, &["_meta"]).into(),
        meta => json::splice(params, &[(range, Bytes::copy_from_slice(meta))]).into(),
    }
}

/// Returns whether a request wants to hear of a log message.
pub fn wants_log(open: &OpenRequest, message: &Message) -> bool {
    let wanted = open.meta().and_then(|meta| Level::parse(meta.log_level.as_deref()?));
    let level = message.body_member("level").and_then(Level::parse);
    wanted.is_some_and(|wanted| level.is_none_or(|level| level >= wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_completed_and_made_plain_again() {
        let result = Bytes::from_static(br#"{"contents":[]}"#);
        let completed = complete("resources/read", &result, None);
        assert_eq!(
            completed,
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}"#
        );
        assert_eq!(complete("resources/read", &completed, None), completed);
        assert_eq!(plain(&completed), result);
        assert_eq!(
            complete("tools/call", &Bytes::from_static(b"{}"), None),
            r#"{"resultType":"complete"}"#
        );
        let asking = Bytes::from_static(br#"{"resultType":"input_required"}"#);
        assert_eq!(complete("tools/call", &asking, None), asking);
    }

    #[test]
    fn a_resource_that_is_not_there_has_a_code_in_each_era() {
        let legacy = Bytes::from_static(br#"{"code":-32002,"message":"no"}"#);
        let modern = error("resources/read", &legacy, Era::Modern);
        assert_eq!(modern, r#"{"code":-32602,"message":"no"}"#);
        assert_eq!(error("resources/read", &modern, Era::Legacy), legacy);
        assert_eq!(error("tools/call", &legacy, Era::Modern), legacy);
    }

    #[test]
    fn the_id_of_our_subscription_is_not_passed_on() {
        let params = format!(r#"{{"uri":"a:b","_meta":{{"{}":7}}}}"#, modern::SUBSCRIPTION_ID);
        assert_eq!(without_subscription(&params.into()), r#"{"uri":"a:b"}"#);
    }
}
