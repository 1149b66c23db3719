//! ID tokens: who somebody is, signed by the provider, for us, for this sign-in.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation};
use serde::Deserialize;
use serde_json::Value as Json;

use super::provider::Key;
use super::signature;
use crate::people::options::OidcOptions;
use crate::secret::equal;

/// Tokens with a person's groups in them have 8 KiB.
const TOKEN_BYTES_MAX: usize = 32 << 10;

/// OpenID Connect Core, section 2.
const SUBJECT_BYTES_MAX: usize = 255;

/// Clocks may differ by so much.
const LEEWAY_S: u64 = 60;

/// Why a token says nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::people) enum TokenError {
    #[error("the ID token is no signed JWT")]
    Form,
    #[error("the ID token is signed with `{0:?}`, for which everybody would need the secret")]
    Algorithm(jsonwebtoken::Algorithm),
    #[error("no key of the provider has signed the ID token")]
    NoKey,
    #[error("the ID token has expired, or is not valid yet")]
    Time,
    #[error("the claim `{0}` of the ID token is missing or not what it should be")]
    Claim(&'static str),
}

/// What the provider says of somebody.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::people) struct Claims {
    pub(in crate::people) sub: String,
    aud: Json,
    azp: Option<String>,
    nonce: Option<String>,
    pub(in crate::people) email: Option<String>,
    /// `true`, or as some write it, `"true"`.
    pub(in crate::people) email_verified: Option<Json>,
    pub(in crate::people) name: Option<String>,
}

/// Reads what a token says of its signature; only to choose a key.
pub(super) fn header(token: &str) -> Result<Header, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Form);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Form)?;
    if header.crit.is_some() {
        return Err(TokenError::Form);
    }
    if !signature::is_asymmetric(header.alg) {
        return Err(TokenError::Algorithm(header.alg));
    }
    Ok(header)
}

/// Returns what a token says, if all of it holds.
pub(super) fn verify(
    token: &str,
    header: &Header,
    keys: &[Key],
    options: &OidcOptions,
    nonce: &str,
) -> Result<Claims, TokenError> {
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[&options.issuer]);
    validation.set_audience(&[&options.client_id]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let named = keys.iter().filter(|key| header.kid.is_none() || key.id == header.kid);
    for key in named.filter(|key| key.algorithms.contains(&header.alg)) {
        let claims = match jsonwebtoken::decode::<Claims>(token, &key.public, &validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => continue,
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => {
                    return Err(TokenError::Time);
                }
                ErrorKind::InvalidIssuer => return Err(TokenError::Claim("iss")),
                ErrorKind::InvalidAudience => return Err(TokenError::Claim("aud")),
                _ => return Err(TokenError::Form),
            },
        };
        return check(claims, options, nonce);
    }
    Err(TokenError::NoKey)
}

fn check(claims: Claims, options: &OidcOptions, nonce: &str) -> Result<Claims, TokenError> {
    if !claims.nonce.as_deref().is_some_and(|theirs| equal(nonce, theirs)) {
        return Err(TokenError::Claim("nonce"));
    }
    let is_ours = claims.azp.as_ref().is_none_or(|azp| *azp == options.client_id);
    let has_others = claims.aud.as_array().is_some_and(|all| all.len() > 1);
    if !is_ours || (has_others && claims.azp.is_none()) {
        return Err(TokenError::Claim("azp"));
    }
    if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
        return Err(TokenError::Claim("sub"));
    }
    Ok(claims)
}

impl Claims {
    /// Whether the provider made sure that the address is theirs.
    pub(in crate::people) fn is_verified(&self) -> bool {
        matches!(&self.email_verified, Some(Json::Bool(true)))
            || matches!(&self.email_verified, Some(Json::String(text)) if text == "true")
    }
}
