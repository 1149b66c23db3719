//! Who may use this gateway: access tokens that clients show, judged on the word of one authorization
//! server.
//!
//! A token is a JWT that this server signed (RFC 9068, and what OpenID providers made of it before). How a
//! client shows it and what it is told when it is refused is not known here.

mod keys;
mod proven;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::{Map, Value};
use url::Url;

use crate::config::ServerAuth;
use keys::{Key, Keys, Source};
use proven::Proven;

/// Tokens with a person's groups in them have 8 KiB; what is longer is not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Clocks may differ by so much.
const LEEWAY: Duration = Duration::from_secs(30);

/// OpenID Connect allows 255 characters. A longer subject is refused, as two that are cut could be one.
const SUBJECT_BYTES_MAX: usize = 512;

/// So many keys are tried on a token that may be nobody's: each takes a tenth of a millisecond.
const TRIES_MAX: usize = 8;

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, not for us, not from where we trust, or not now.
    #[error("the access token is not accepted: {0}")]
    Invalid(&'static str),
    /// It holds, and does not have all the scopes that are needed.
    #[error("the access token lacks a scope")]
    Scope,
    /// It cannot be told, because the authorization server does not say what it signs with.
    #[error("the keys of the authorization server are not known yet")]
    Unavailable,
}

/// Judges access tokens.
#[derive(Debug)]
pub struct Verifier {
    issuer: String,
    scopes: Vec<String>,
    principal_claim: String,
    keys: Keys,
    proven: Proven,
}

/// The claims of a token whose signature and times hold.
type Claims = Map<String, Value>;

/// What became of trying a token on the keys that are known.
enum Tried {
    Holds(Claims),
    Refused(&'static str),
    /// None of the keys is the one that signed it.
    NoKey,
}

impl Verifier {
    /// Returns a verifier that begins to fetch the keys.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn new(auth: &ServerAuth, issuer: Url, jwks_url: Option<Url>) -> Self {
        signature::install();
        Self {
            issuer: auth.issuer.clone(),
            scopes: auth.scopes.clone(),
            principal_claim: auth.principal_claim.clone(),
            keys: Keys::new(Source::new(issuer, auth.issuer.clone(), jwks_url)),
            proven: Proven::default(),
        }
    }

    /// Returns the subject of a token that is for one of these audiences.
    ///
    /// Waits for a fetch of the keys only if no key that is known may have signed it.
    ///
    /// # Errors
    ///
    /// See [`TokenError`].
    pub async fn subject(&self, token: &str, audiences: &[&str]) -> Result<Arc<str>, TokenError> {
        let claims = self.claims(token).await?;
        self.check(&claims, audiences)
    }

    async fn claims(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let mut known = self.keys.known();
        let name = Proven::name(token);
        let now = crate::unix_ns() as f64 / 1e9;
        if !known.keys().is_empty()
            && let Some(claims) = self.proven.claims(&name, &known, now)
        {
            return Ok(claims);
        }
        let header = header(token).map_err(TokenError::Invalid)?;
        loop {
            match tried(known.keys(), token, &header) {
                Tried::Holds(claims) => {
                    let claims = Arc::new(claims);
                    self.proven.insert(name, &known, &claims);
                    return Ok(claims);
                }
                Tried::Refused(reason) => return Err(TokenError::Invalid(reason)),
                Tried::NoKey => {}
            }
            // It may be signed with a new key.
            known = Box::pin(self.keys.newer(&known)).await?;
        }
    }

    fn check(&self, claims: &Claims, audiences: &[&str]) -> Result<Arc<str>, TokenError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&self.issuer) {
            return Err(TokenError::Invalid("it is from another issuer"));
        }
        let is_ours =
            |audience: &Value| audience.as_str().is_some_and(|it| audiences.contains(&it));
        let for_us = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if !for_us {
            return Err(TokenError::Invalid("it is for another audience"));
        }
        let subject = text(&self.principal_claim).unwrap_or_default();
        if subject.is_empty()
            || subject.len() > SUBJECT_BYTES_MAX
            || subject.contains(char::is_control)
        {
            return Err(TokenError::Invalid("it names no principal"));
        }
        // `scp` is what some providers call it (RFC 8693, section 4.2, has the other name).
        let granted = claims.get("scope").or_else(|| claims.get("scp"));
        match self.scopes.iter().all(|scope| has_scope(granted, scope)) {
            true => Ok(subject.into()),
            false => Err(TokenError::Scope),
        }
    }
}

/// Reads what a token says of its signature. Nothing of it is trusted but to choose a key of the issuer's.
fn header(token: &str) -> Result<Header, &'static str> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err("it is longer than 16 KiB");
    }
    // An `alg` that is not known to the parser, `none` among them, is refused here.
    let header = jsonwebtoken::decode_header(token).map_err(|_| "it is no signed JWT")?;
    if !signature::is_asymmetric(header.alg) {
        return Err("it is not signed with a key pair");
    }
    if header.crit.is_some() {
        return Err("it needs an extension that is not known here");
    }
    // Others are no access tokens, though the same key may have signed them (RFC 8725, section 3.11).
    const TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];
    let is_access = |kind: &String| TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known));
    if !header.typ.as_ref().is_none_or(is_access) {
        return Err("it is no access token");
    }
    Ok(header)
}

fn tried(keys: &[Key], token: &str, header: &Header) -> Tried {
    let validation = validation(header.alg);
    let mut named =
        keys.iter().filter(|key| header.kid.is_none() || key.id == header.kid).peekable();
    let is_named = header.kid.is_some() && named.peek().is_some();
    for key in named.filter(|key| key.algorithms.contains(&header.alg)).take(TRIES_MAX) {
        match jsonwebtoken::decode::<Claims>(token, &key.public, &validation) {
            Ok(decoded) => return Tried::Holds(decoded.claims),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => {}
                ErrorKind::ExpiredSignature => return Tried::Refused("it has expired"),
                ErrorKind::ImmatureSignature => return Tried::Refused("it is not valid yet"),
                ErrorKind::Base64(_) => return Tried::Refused("it is no signed JWT"),
                _ => return Tried::Refused("its claims are not what they should be"),
            },
        }
    }
    match is_named {
        true => Tried::Refused("its signature does not hold"),
        false => Tried::NoKey,
    }
}

/// What holds for every token. The audience and the issuer are checked where they are known, because this
/// crate takes any one of several issuers.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY.as_secs();
    validation.validate_nbf = true;
    validation.validate_aud = false;
    validation
}

/// Scopes come as a list, or as a text with spaces between.
fn has_scope(granted: Option<&Value>, scope: &str) -> bool {
    let among = |text: &str| text.split(' ').any(|granted| granted == scope);
    match granted {
        Some(Value::String(text)) => among(text),
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).any(|one| one == scope),
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests;
