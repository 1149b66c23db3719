//! `requestState` that passes through the client's hands: nobody else can read, change or reuse it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use chacha20poly1305::aead::Aead;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Place;
use crate::mcp::{edit, json};
use crate::pipeline::CallError;

/// A client may take this long to find out what it was asked.
pub(super) const STATE_TTL: Duration = Duration::from_secs(600);

const NONCE_BYTES: usize = 24;

/// What a key is made of a passphrase with, so that the passphrase can serve nothing else by accident.
const DOMAIN: &[u8] = b"ultra seal 1";

/// And a second key of the first.
const NONCES: &[u8] = b"ultra task names 1";

/// The key of what this gateway seals.
pub struct Seal {
    cipher: XChaCha20Poly1305,
    /// Makes nonces of what has one name for ever.
    nonces: Hmac<Sha256>,
    /// Tells this process from others with the same key.
    pub(super) process: u64,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Default for Seal {
    /// Returns a key that nobody else has and that ends with the process.
    fn default() -> Self {
        Self::new(&rand::random())
    }
}

/// What is sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Who may bring it back.
    principal: String,
    /// To whom it goes.
    upstream: String,
    /// The request it belongs to.
    request: [u8; 32],
    expires: u64,
    /// The upstream's own state, or the number of a parked call.
    pub(super) inner: Inner,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Inner {
    Upstream(String),
    /// A call that one process keeps open, and its number there.
    Parked {
        process: u64,
        number: u64,
    },
}

impl Seal {
    /// Returns a seal with this key; gateways that share it can go on with each other's requests.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut derived =
            Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        derived.update(NONCES);
        let derived = derived.finalize().into_bytes();
        Self {
            cipher: XChaCha20Poly1305::new(key.into()),
            nonces: Hmac::new_from_slice(&derived).expect("HMAC takes keys of any length"),
            process: rand::random(),
        }
    }

    /// Returns a seal with the key that a text stands for: 64 hex digits are the key itself, any other is a
    /// passphrase, which must be long enough not to be guessed.
    pub fn of_text(text: &str) -> Self {
        Self::new(&from_hex(text).unwrap_or_else(|| {
            let mut mac = Hmac::<Sha256>::new_from_slice(text.as_bytes())
                .expect("HMAC takes keys of any length");
            mac.update(DOMAIN);
            mac.finalize().into_bytes().into()
        }))
    }

    pub(super) fn seal(
        &self,
        principal: &str,
        upstream: &str,
        request: [u8; 32],
        inner: Inner,
    ) -> String {
        let expires = now() + STATE_TTL.as_secs();
        let (principal, upstream) = (principal.to_owned(), upstream.to_owned());
        let state = State { principal, upstream, request, expires, inner };
        let text = serde_json::to_vec(&state).unwrap_or_default();
        let nonce = XNonce::from(rand::random::<[u8; NONCE_BYTES]>());
        let mut sealed = nonce.to_vec();
        sealed.extend(self.cipher.encrypt(&nonce, &text[..]).unwrap_or_default());
        BASE64_URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Returns the name under which a client knows a task of an upstream. It is always the same, and good
    /// for this client alone.
    pub(crate) fn task(&self, principal: &str, upstream: &str, id: &str) -> String {
        let text = serde_json::to_vec(&(principal, upstream, id)).unwrap_or_default();
        // Of the text itself: equal texts get equal names, and no two others share a nonce. With the key,
        // so that nobody can try out what the text might be.
        let mut mac = self.nonces.clone();
        mac.update(&text);
        let digest = mac.finalize().into_bytes();
        let nonce = XNonce::from(std::array::from_fn(|at| digest[at]));
        let mut sealed = nonce.to_vec();
        sealed.extend(self.cipher.encrypt(&nonce, &text[..]).unwrap_or_default());
        BASE64_URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Returns the upstream of a task that was named so for this client, and its own id for it.
    pub(crate) fn open_task(&self, principal: &str, name: &str) -> Option<(String, String)> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(name).ok()?;
        let (nonce, text) = bytes.split_at_checked(NONCE_BYTES)?;
        let text = self.cipher.decrypt(&XNonce::try_from(nonce).ok()?, text).ok()?;
        let (owner, upstream, id): (String, String, String) = serde_json::from_slice(&text).ok()?;
        (owner == principal).then_some((upstream, id))
    }

    /// Returns what was sealed, if it was, by whom, for this request, and not long ago.
    pub(super) fn open(
        &self,
        principal: &str,
        upstream: &str,
        request: [u8; 32],
        sealed: &str,
    ) -> Result<Inner, CallError> {
        let refused = |reason: &str| CallError::InvalidParams { reason: reason.to_owned() };
        let unsealed = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok().and_then(|bytes| {
            let (nonce, text) = bytes.split_at_checked(NONCE_BYTES)?;
            let text = self.cipher.decrypt(&XNonce::try_from(nonce).ok()?, text).ok()?;
            serde_json::from_slice::<State>(&text).ok()
        });
        let state =
            unsealed.ok_or_else(|| refused("`requestState` is not one of this gateway's"))?;
        if state.principal != principal || state.upstream != upstream || state.request != request {
            return Err(refused("`requestState` belongs to another request"));
        }
        if state.expires < now() {
            return Err(refused("`requestState` is outdated; make the request anew"));
        }
        Ok(state.inner)
    }
}

/// Returns what makes a request the same when it is made again: all but its state and answers.
pub(super) fn digest(method: &str, params: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(method);
    for key in ["name", "uri", "arguments"] {
        hash.update([0]);
        if let Some(range) = json::member(params, key) {
            hash.update(&params[range]);
        }
    }
    hash.finalize().into()
}

/// Returns a result whose `requestState` is sealed.
pub(crate) fn seal_state(place: &Place<'_>, result: &Bytes) -> Bytes {
    let &Place { seal, principal, upstream, method, sent, .. } = place;
    let Some(range) = json::member(result, "requestState") else { return result.clone() };
    let Some(state) = json::string(&result[range.clone()]) else { return result.clone() };
    let inner = Inner::Upstream(state.into_owned());
    let sealed = seal.seal(principal, upstream, digest(method, sent), inner);
    json::splice(result, &[(range, json::quote(&sealed).into())]).into()
}

/// Returns params with the upstream's own `requestState`.
pub(crate) fn open_state(place: &Place<'_>) -> Result<Bytes, CallError> {
    let &Place { seal, principal, upstream, method, params, sent } = place;
    let Some(range) = json::member(params, "requestState") else { return Ok(params.clone()) };
    let sealed = json::string(&params[range]).unwrap_or_default();
    match seal.open(principal, upstream, digest(method, sent), &sealed)? {
        Inner::Upstream(state) => {
            Ok(edit::set(params, &[("requestState", json::quote(&state).as_bytes())]).into())
        }
        Inner::Parked { .. } => Err(CallError::InvalidParams {
            reason: "`requestState` belongs to a server that has changed meanwhile".to_owned(),
        }),
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pairs: &[_; 32] = rest.is_empty().then_some(pairs)?.try_into().ok()?;
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(pairs) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(key)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_to_whom_it_belongs_and_nobody_else() {
        let seal = Seal::default();
        let request = digest("tools/call", br#"{"name":"a","arguments":{}}"#);
        let parked = || Inner::Parked { process: 1, number: 7 };
        let sealed = seal.seal("me", "files", request, parked());

        assert_eq!(seal.open("me", "files", request, &sealed).unwrap(), parked());
        let mut tampered = sealed.clone();
        tampered.replace_range(40..41, if &sealed[40..41] == "A" { "B" } else { "A" });
        for (principal, upstream, request, text) in [
            ("you", "files", request, &sealed),
            ("me", "git", request, &sealed),
            ("me", "files", digest("tools/call", br#"{"name":"b"}"#), &sealed),
            ("me", "files", request, &tampered),
            ("me", "files", request, &String::new()),
        ] {
            assert!(seal.open(principal, upstream, request, text).is_err());
        }
        assert!(Seal::default().open("me", "files", request, &sealed).is_err());
    }

    #[test]
    fn gateways_with_the_same_text_have_the_same_key() {
        let digits = "0aF1".repeat(16);
        let passphrase = "correct horse battery staple, twice over";
        let of_bytes = Seal::new(&std::array::from_fn(|at| [0x0a, 0xf1][at % 2]));
        for (one, other) in [
            (Seal::of_text(&digits), of_bytes),
            (Seal::of_text(passphrase), Seal::of_text(passphrase)),
        ] {
            let name = one.task("me", "files", "7");
            assert_eq!(other.open_task("me", &name), Some(("files".into(), "7".into())));
            assert_eq!(Seal::of_text("another").open_task("me", &name), None);
        }
    }

    #[test]
    fn a_task_has_one_name_for_each_client() {
        let seal = Seal::default();
        let name = seal.task("me", "files", "7");
        assert_eq!(seal.task("me", "files", "7"), name);
        assert_eq!(seal.open_task("me", &name), Some(("files".into(), "7".into())));
        assert_eq!(seal.open_task("you", &name), None);
        assert_eq!(seal.open_task("me", "7"), None);
    }

    #[test]
    fn the_upstream_gets_its_own_state_back() {
        let seal = Seal::default();
        let params = Bytes::from_static(br#"{"name":"a"}"#);
        let result = Bytes::from_static(br#"{"resultType":"input_required","requestState":"\"x"}"#);
        let place = |params| Place {
            seal: &seal,
            principal: "me",
            upstream: "up",
            method: "tools/call",
            params,
            sent: params,
        };
        let sealed = seal_state(&place(&params), &result);
        let state = &sealed[json::member(&sealed, "requestState").unwrap()];
        let retry = Bytes::from(edit::set(&params, &[("requestState", state)]));

        let opened = open_state(&place(&retry)).unwrap();

        assert_eq!(opened, r#"{"requestState":"\"x","name":"a"}"#);
    }
}
