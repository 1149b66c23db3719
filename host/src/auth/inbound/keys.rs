//! The keys an authorization server signs with: found, fetched, kept, and fetched again when one is missing.
//!
//! One task fetches, for everybody who waits. Whoever finds the key they need waits for nothing, and while
//! the server is away the keys stay that it had.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use url::Url;

use super::TokenError;
use crate::auth::AuthError;
use crate::auth::discovery;
use crate::auth::fetch::{Http, json, shown};

/// After so long the keys are fetched again, so that one that was taken back is not trusted for ever.
pub(super) const FRESH: Duration = Duration::from_secs(10 * 60);

/// Keys that could not be fetched again for so long are trusted no more. Tokens live for an hour.
pub(super) const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Tokens that name keys nobody has heard of make us ask so often at most.
pub(super) const PERIOD_MIN: Duration = Duration::from_secs(5);

/// Finding out where the keys are and fetching them may take this long together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A client waits this long for a key.
const PATIENCE: Duration = Duration::from_secs(10);

/// Providers have two or three at a time, and one for each of their customers at worst.
const KEYS_MAX: usize = 100;

/// A public key of the authorization server.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// What tokens call it.
    pub(super) id: Option<String>,
    /// What it may be used with: all that fit the key, or the one that its owner named.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) public: DecodingKey,
}

/// All keys of an authorization server, as far as known.
#[derive(Debug)]
pub(super) struct Keys {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    fetching: JoinHandle<()>,
}

/// What was known at some time.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    keys: Arc<[Key]>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

impl Known {
    /// Returns the keys that can be trusted now.
    pub(super) fn keys(&self) -> &[Key] {
        match self.fetched {
            Some(fetched) if fetched.elapsed() < AGE_MAX => &self.keys,
            Some(_) | None => &[],
        }
    }

    /// Returns whether the keys are those of the other, from the same fetch.
    pub(super) fn has_same_keys(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys)
    }

    #[cfg(test)]
    pub(super) fn of(keys: Vec<Key>) -> Self {
        Self { keys: keys.into(), ..Self::default() }
    }

    /// Returns whether the server answered when it was asked last.
    fn is_current(&self) -> bool {
        self.fetched.is_some() && self.fetched == self.tried
    }

    fn is_fresh(&self) -> bool {
        self.fetched.is_some_and(|fetched| fetched.elapsed() < FRESH)
    }

    fn was_just_tried(&self) -> bool {
        self.tried.is_some_and(|tried| tried.elapsed() < PERIOD_MIN)
    }
}

impl Keys {
    /// Begins to fetch.
    pub(super) fn new(source: Source) -> Self {
        let (sender, known) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let fetching = tokio::spawn(fetch(source, Arc::clone(&wanted), sender));
        Self { known, wanted, fetching }
    }

    /// Returns the keys known now. Old ones are fetched again meanwhile.
    pub(super) fn known(&self) -> Known {
        let known = self.known.borrow().clone();
        if !known.is_fresh() && !known.was_just_tried() {
            self.wanted.notify_one();
        }
        known
    }

    /// Waits until the server was asked again, for a token that no known key has signed.
    ///
    /// # Errors
    ///
    /// The server was asked just now, so that this is not known better in a moment, or takes too long.
    pub(super) async fn newer(&self, known: &Known) -> Result<Known, TokenError> {
        let mut changes = self.known.clone();
        let now = changes.borrow_and_update().clone();
        if now.tried != known.tried {
            return Ok(now);
        }
        if now.was_just_tried() {
            return Err(match now.is_current() {
                true => TokenError::Invalid("no key of the issuer has signed it"),
                false => TokenError::Unavailable,
            });
        }
        self.wanted.notify_one();
        match timeout(PATIENCE, changes.changed()).await {
            Ok(Ok(())) => Ok(changes.borrow().clone()),
            Ok(Err(_)) | Err(_) => Err(TokenError::Unavailable),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

/// Fetches the keys now and whenever they are wanted, for as long as somebody is there to want them.
async fn fetch(source: Source, wanted: Arc<Notify>, known: watch::Sender<Known>) {
    loop {
        let fetched = timeout(FETCH_TIMEOUT, source.fetch()).await;
        let tried = Some(Instant::now());
        match fetched {
            Ok(Ok(keys)) => {
                tracing::debug!(keys = keys.len(), "keys of `{}` fetched", source.name);
                known.send_replace(Known { keys: keys.into(), fetched: tried, tried });
            }
            failed => {
                let reason = match failed {
                    Ok(Err(error)) => crate::chain(&error),
                    _ => format!("it took more than {} s", FETCH_TIMEOUT.as_secs()),
                };
                tracing::warn!("the keys of `{}` cannot be fetched: {reason}", source.name);
                known.send_modify(|known| known.tried = tried);
            }
        }
        loop {
            wanted.notified().await;
            if !known.borrow().was_just_tried() {
                break;
            }
        }
    }
}

/// Where the keys come from.
pub(super) struct Source {
    http: Http,
    issuer: Url,
    /// The issuer as it calls itself.
    name: String,
    /// Without it, the issuer is asked.
    jwks_url: Option<Url>,
}

/// RFC 7517, section 5. One key that cannot be read does not spoil the others.
#[derive(Debug, Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Source {
    pub(super) fn new(issuer: Url, name: String, jwks_url: Option<Url>) -> Self {
        Self { http: Http::new(), issuer, name, jwks_url }
    }

    async fn fetch(&self) -> Result<Vec<Key>, AuthError> {
        // The config names it, so it may be where the config says; what it names in turn is judged.
        let fetcher = self.http.around(self.jwks_url.as_ref().unwrap_or(&self.issuer)).await;
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => discovery::keys_url(&fetcher, &self.issuer, &self.name).await?,
        };
        let answer = fetcher.get(&url).await?;
        let wrong = |reason: String| AuthError::Metadata { url: shown(&url), reason };
        let set = match json::<KeySet>(&answer) {
            Some(Ok(set)) => set,
            Some(Err(error)) => return Err(wrong(format!("is no set of keys: {error}"))),
            None => return Err(wrong(format!("answers with status {}", answer.status().as_u16()))),
        };
        let keys: Vec<_> = set.keys.into_iter().take(KEYS_MAX).filter_map(key).collect();
        match keys.is_empty() {
            true => Err(wrong("holds no key that can be used".into())),
            false => Ok(keys),
        }
    }
}

/// Reads a key, if it is one of a pair that signs.
pub(super) fn key(json: Value) -> Option<Key> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => return None,
    };
    let is_for_signatures = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|it| *it == PublicKeyUse::Signature)
        && jwk.common.key_operations.as_ref().is_none_or(|it| it.contains(&KeyOperations::Verify));
    let algorithms: Vec<_> = match jwk.common.key_algorithm {
        Some(named) => fitting.iter().copied().filter(|it| named == (*it).into()).collect(),
        None => fitting.to_vec(),
    };
    if !is_for_signatures || algorithms.is_empty() {
        return None;
    }
    let public = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithms, public })
}
