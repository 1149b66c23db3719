//! An identity provider: where its doors are, what it signs with, and tokens for codes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::{Host, Url};

use super::fetch::{FetchError, Http};
use super::id_token::{self, Claims, TokenError};
use super::signature;
use crate::people::options::OidcOptions;

/// What a provider says of itself is asked again after so long, and its keys, so that one that was taken
/// back is not trusted for ever.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// Keys that could not be fetched again are trusted so long.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Tokens that name keys nobody has heard of make us ask so often at most.
const PERIOD_MIN: Duration = Duration::from_secs(5);

/// Providers have two or three at a time, and one for each of their customers at worst.
const KEYS_MAX: usize = 100;

/// Why a provider is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// What was said of it.
    #[error("`--oidc-issuer` is no address such as `https://accounts.example.com`")]
    Issuer,
    /// Nothing to be known by.
    #[error("`--oidc-client-id` is missing")]
    NoClient,
    /// No domain.
    #[error("the e-mail domain that may join is none such as `example.com`")]
    Domain,
}

/// Why somebody is not signed in.
#[derive(Debug, thiserror::Error)]
pub(super) enum OidcError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the metadata is not what it should be: {0}")]
    Metadata(&'static str),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// An identity provider.
#[derive(Debug)]
pub(in crate::people) struct Provider {
    pub(super) options: OidcOptions,
    http: Http,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    keys: Arc<[Key]>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

/// OpenID Connect Discovery, section 3.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
    userinfo_endpoint: Option<Url>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<HashSet<String>>,
}

/// A public key of the provider.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) public: DecodingKey,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Json>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

/// OpenID Connect Core, section 5.3.2, as far as needed.
#[derive(Deserialize)]
struct UserInfo {
    sub: String,
    email: Option<String>,
    email_verified: Option<Json>,
    name: Option<String>,
}

impl Provider {
    pub(in crate::people) fn new(mut options: OidcOptions) -> Result<Self, ProviderError> {
        let issuer: Url = options.issuer.parse().map_err(|_| ProviderError::Issuer)?;
        if !is_safe(&issuer) || issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(ProviderError::Issuer);
        }
        if options.client_id.is_empty() {
            return Err(ProviderError::NoClient);
        }
        if let Some(domain) = &mut options.join_domain {
            *domain = domain.trim().trim_start_matches('@').to_ascii_lowercase();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
            if domain.is_empty() || !domain.bytes().all(plain) {
                return Err(ProviderError::Domain);
            }
        }
        signature::install();
        let http = Http::new(is_loopback(&issuer));
        Ok(Self { options, http, known: Mutex::default() })
    }

    /// Returns what the provider says of itself.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, OidcError> {
        self.metadata_in(&mut *self.known.lock().await).await
    }

    async fn metadata_in(&self, known: &mut Known) -> Result<Arc<Metadata>, OidcError> {
        if let Some((metadata, fetched)) = &known.metadata
            && fetched.elapsed() < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let issuer = self.options.issuer.trim_end_matches('/');
        let place = format!("{issuer}/.well-known/openid-configuration").parse();
        let place: Url = place.map_err(|_| OidcError::Metadata("there is no place for it"))?;
        let metadata: Metadata = self.http.get(&place, None).await?;
        if metadata.issuer != self.options.issuer {
            return Err(OidcError::Metadata("it is of another issuer"));
        }
        let doors =
            [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri];
        if !doors.into_iter().chain(&metadata.userinfo_endpoint).all(is_safe) {
            return Err(OidcError::Metadata("not all of it is below `https://`"));
        }
        let metadata = Arc::new(metadata);
        known.metadata = Some((Arc::clone(&metadata), Instant::now()));
        Ok(metadata)
    }

    /// Returns keys that may have signed what names this one; asks for new ones if there is none.
    async fn keys(&self, id: Option<&str>) -> Result<Arc<[Key]>, OidcError> {
        let mut known = self.known.lock().await;
        let age = known.fetched.map(|fetched| fetched.elapsed());
        let is_there = id.is_none() || known.keys.iter().any(|key| key.id.as_deref() == id);
        let is_fresh = age.is_some_and(|age| age < FRESH) && is_there;
        let was_just_tried = known.tried.is_some_and(|tried| tried.elapsed() < PERIOD_MIN);
        if is_fresh || (was_just_tried && age.is_some_and(|age| age < AGE_MAX)) {
            return Ok(Arc::clone(&known.keys));
        }
        known.tried = Some(Instant::now());
        match self.fetch_keys(&mut known).await {
            Ok(keys) => {
                known.keys = keys;
                known.fetched = Some(Instant::now());
            }
            Err(error) if age.is_some_and(|age| age < AGE_MAX) => {
                tracing::warn!(
                    error = crate::error::chain(&error),
                    "the provider's keys cannot be fetched again"
                );
            }
            Err(error) => return Err(error),
        }
        Ok(Arc::clone(&known.keys))
    }

    /// Lets keys be asked for again at once.
    #[cfg(test)]
    pub(in crate::people) async fn forget_tries(&self) {
        self.known.lock().await.tried = None;
    }

    async fn fetch_keys(&self, known: &mut Known) -> Result<Arc<[Key]>, OidcError> {
        let metadata = self.metadata_in(known).await?;
        let set: KeySet = self.http.get(&metadata.jwks_uri, None).await?;
        Ok(set.keys.into_iter().take(KEYS_MAX).filter_map(key).collect())
    }

    /// Exchanges a code for what the provider says of whoever came with it.
    pub(super) async fn claims(
        &self,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
        nonce: &str,
    ) -> Result<Claims, OidcError> {
        let metadata = self.metadata().await?;
        let id = self.options.client_id.as_str();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let methods = metadata.token_endpoint_auth_methods_supported.as_ref();
        let has = |method: &str| methods.is_none_or(|methods| methods.contains(method));
        let basic = match &self.options.client_secret {
            // What is supported if nothing is said, and what is better.
            Some(secret) if has("client_secret_basic") => Some((id, secret.as_str())),
            Some(secret) => {
                form.extend([("client_id", id), ("client_secret", secret)]);
                None
            }
            None => {
                form.push(("client_id", id));
                None
            }
        };
        let tokens: Tokens = self.http.post(&metadata.token_endpoint, &form, basic).await?;
        let header = id_token::header(&tokens.id_token)?;
        let keys = self.keys(header.kid.as_deref()).await?;
        let mut claims = id_token::verify(&tokens.id_token, &header, &keys, &self.options, nonce)?;
        if claims.email.is_none()
            && let Some((url, token)) = metadata.userinfo_endpoint.as_ref().zip(tokens.access_token)
        {
            let info: UserInfo = self.http.get(url, Some(&token)).await?;
            if info.sub != claims.sub {
                return Err(TokenError::Claim("sub").into());
            }
            claims.email = info.email;
            claims.email_verified = info.email_verified;
            claims.name = claims.name.or(info.name);
        }
        Ok(claims)
    }
}

/// Whether nobody on the way can read or change what is said there.
fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Reads a key, if it is one of a pair that signs. One that cannot be read does not spoil the others.
fn key(json: Json) -> Option<Key> {
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
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithms: Vec<_> = match jwk.common.key_algorithm {
        Some(named) => fitting.iter().copied().filter(|it| named == (*it).into()).collect(),
        None => fitting.to_vec(),
    };
    let public = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithms, public })
}
