//! `requestState`: what a step wants remembered, in the client's hands (2026-07-28, MRTR).
//!
//! It is not secret but sealed: a client that changes it, or sends it with another request, is refused.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::rpc::{Fault, Request};

/// The key of this process.
#[derive(Debug)]
pub(crate) struct Seal {
    key: [u8; 16],
}

impl Seal {
    pub(crate) fn new() -> Self {
        // 74 random bits, which is plenty for a server that lives as long as a test.
        Self { key: uuid::Uuid::now_v7().into_bytes() }
    }

    /// Returns a state that is good for this request only.
    pub(crate) fn close(&self, request: &Request, state: &Value) -> String {
        let text = json!({"for": purpose(request), "state": state}).to_string();
        let tag = self.mac(text.as_bytes()).finalize().into_bytes();
        format!("{}.{}", to_hex(text.as_bytes()), to_hex(&tag))
    }

    /// Returns the state inside.
    pub(crate) fn open(&self, request: &Request, sealed: &str) -> Result<Value, Fault> {
        self.verified(request, sealed)
            .ok_or_else(|| Fault::invalid_params("`requestState` is not what was given out"))
    }

    fn verified(&self, request: &Request, sealed: &str) -> Option<Value> {
        let (text, tag) = sealed.split_once('.')?;
        let (text, tag) = (from_hex(text)?, from_hex(tag)?);
        self.mac(&text).verify_slice(&tag).ok()?;
        let mut content: Value = serde_json::from_slice(&text).ok()?;
        (content["for"] == purpose(request)).then(|| content["state"].take())
    }

    fn mac(&self, text: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(text);
        mac
    }
}

/// Returns what makes a request the same as the one before.
fn purpose(request: &Request) -> Value {
    let params = |key| request.params.get(key).cloned().unwrap_or_default();
    json!([request.method, params("name"), params("uri"), params("arguments")])
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|pair| digits(pair)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> Request {
        let params = json!({"name": name, "arguments": {}});
        let Value::Object(params) = params else { unreachable!("an object was written") };
        Request { id: json!(1), method: "tools/call".to_owned(), params }
    }

    #[test]
    fn a_state_is_good_for_its_request_and_its_server_only() {
        let seal = Seal::new();
        let state = json!({"step": 2, "name": "Ä"});
        let sealed = seal.close(&call("a"), &state);

        assert_eq!(seal.open(&call("a"), &sealed).unwrap(), state);
        for other in [format!("{sealed}-more"), sealed.replacen('6', "7", 1), String::new()] {
            assert!(seal.open(&call("a"), &other).is_err(), "{other}");
        }
        assert!(seal.open(&call("b"), &sealed).is_err());
        assert!(Seal::new().open(&call("a"), &sealed).is_err());
    }
}
