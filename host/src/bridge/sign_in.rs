//! A modern client that was asked to sign in to a server, and makes its request again.
//!
//! What is asked is worded elsewhere; here are the answer and the key it comes under.

use bytes::Bytes;

use crate::mcp::{edit, json};

/// The key of our question; servers have others.
pub const SIGN_IN: &str = "ultra/sign-in";

/// Returns whether a request holds an answer to our question.
pub fn was_asked_to_sign_in(params: &[u8]) -> bool {
    json::at_path(params, &["inputResponses", SIGN_IN]).is_some()
}

/// Returns whether the user went to sign in.
pub(crate) fn is_signing_in(params: &[u8]) -> bool {
    let action = json::at_path(params, &["inputResponses", SIGN_IN, "action"]);
    action.is_some_and(|range| &params[range] == b"\"accept\"")
}

/// Returns params without the answer to our question.
pub(crate) fn without_sign_in(params: &Bytes) -> Bytes {
    let range = json::member(params, "inputResponses");
    let Some(range) = range.filter(|_| was_asked_to_sign_in(params)) else { return params.clone() };
    match &edit::remove(&params[range.clone()], &[SIGN_IN])[..] {
        b"{}" => edit::remove(params, &["inputResponses"]).into(),
        others => json::splice(params, &[(range, Bytes::copy_from_slice(others))]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_answer_is_ours_alone() {
        for (params, is_signing_in_, rest) in [
            (r#"{"name":"a"}"#, false, r#"{"name":"a"}"#),
            (
                r#"{"name":"a","inputResponses":{"ultra/sign-in":{"action":"accept"}}}"#,
                true,
                r#"{"name":"a"}"#,
            ),
            (
                r#"{"inputResponses":{"k":{},"ultra/sign-in":{"action":"decline"}},"name":"a"}"#,
                false,
                r#"{"inputResponses":{"k":{}},"name":"a"}"#,
            ),
        ] {
            assert_eq!(is_signing_in(params.as_bytes()), is_signing_in_, "{params}");
            assert_eq!(without_sign_in(&params.into()), rest);
        }
    }
}
