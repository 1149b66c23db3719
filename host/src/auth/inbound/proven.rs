//! Tokens whose signature was found to hold: a client shows the same one with every request, and looking at
//! a signature takes longer than the whole call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::keys::Known;
use super::{Claims, LEEWAY};
use crate::lock;

/// So many are remembered; with one more, all are forgotten.
const PROVEN_MAX: usize = 1024;

/// A token by its digest: it is a secret, and need not be kept.
pub(super) type Name = [u8; 32];

/// Tokens whose signature holds.
#[derive(Debug, Default)]
pub(super) struct Proven {
    tokens: Mutex<HashMap<Name, Entry>>,
}

#[derive(Debug)]
struct Entry {
    claims: Arc<Claims>,
    /// What was known when it was looked at. With other keys it has to be looked at again.
    known: Known,
    /// In seconds since 1970 UTC.
    expires: f64,
}

impl Proven {
    /// Returns how a token is known here.
    pub(super) fn name(token: &str) -> Name {
        Sha256::digest(token).into()
    }

    /// Returns the claims of a token, if its signature was looked at with these keys and its time has not
    /// come.
    pub(super) fn claims(&self, name: &Name, known: &Known, now: f64) -> Option<Arc<Claims>> {
        let tokens = lock(&self.tokens);
        let entry = tokens.get(name)?;
        let holds = entry.known.has_same_keys(known) && now < entry.expires;
        holds.then(|| Arc::clone(&entry.claims))
    }

    /// Remembers a token. One without an end is looked at each time.
    pub(super) fn insert(&self, name: Name, known: &Known, claims: &Arc<Claims>) {
        let Some(end) = claims.get("exp").and_then(Value::as_f64) else { return };
        let expires = end + LEEWAY.as_secs_f64();
        let entry = Entry { claims: Arc::clone(claims), known: known.clone(), expires };
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= PROVEN_MAX {
            tokens.clear();
        }
        tokens.insert(name, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::inbound::keys::Key;

    fn claims(end: u32) -> Arc<Claims> {
        Arc::new([("exp".to_owned(), Value::from(end))].into_iter().collect())
    }

    fn known() -> Known {
        Known::of(Vec::<Key>::new())
    }

    #[test]
    fn a_token_is_known_until_it_ends_or_the_keys_change() {
        let (proven, now, later) = (Proven::default(), known(), known());
        let name = Proven::name("a.b.c");

        proven.insert(name, &now, &claims(1000));

        assert!(proven.claims(&name, &now, 1029.0).is_some());
        assert!(proven.claims(&name, &now, 1030.0).is_none());
        assert!(proven.claims(&name, &later, 999.0).is_none());
        assert!(proven.claims(&Proven::name("a.b.d"), &now, 999.0).is_none());
    }

    #[test]
    fn not_more_than_a_number_of_tokens_are_remembered() {
        let (proven, known) = (Proven::default(), known());
        for number in 0..3 * PROVEN_MAX {
            proven.insert(Proven::name(&number.to_string()), &known, &claims(1000));
        }

        assert!(lock(&proven.tokens).len() <= PROVEN_MAX);
    }
}
