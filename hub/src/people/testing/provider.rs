//! An identity provider that speaks OpenID Connect, and lies when told to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value as Json_, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use url::Url;

use crate::people::OidcOptions;

/// A throw-away key.
const RSA: &[u8] = include_bytes!("rsa.pk8");

pub(crate) const CLIENT_SECRET: &str = "s3cret&=%";

/// What it signs with.
pub(crate) enum Signer {
    Rsa,
    /// A new key of this name, on the curve P-256.
    Ec {
        id: String,
        key: Vec<u8>,
    },
}

impl Signer {
    pub(crate) fn ec(id: &str) -> Self {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self::Ec { id: id.to_owned(), key: key.as_ref().to_vec() }
    }

    fn ec_pair(key: &[u8]) -> EcdsaKeyPair {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        EcdsaKeyPair::from_pkcs8(algorithm, key, &SystemRandom::new()).unwrap()
    }

    fn jwk(&self) -> Json_ {
        match self {
            Self::Rsa => {
                let pair = signature::RsaKeyPair::from_pkcs8(RSA).unwrap();
                let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
                let (n, e) = (URL_SAFE_NO_PAD.encode(public.n), URL_SAFE_NO_PAD.encode(public.e));
                json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa", "n": n, "e": e })
            }
            Self::Ec { id, key } => {
                let pair = Self::ec_pair(key);
                let point = pair.public_key().as_ref();
                let (x, y) =
                    (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y })
            }
        }
    }

    pub(crate) fn sign(&self, claims: &Json_) -> String {
        let header = match self {
            Self::Rsa => json!({ "alg": "RS256", "kid": "rsa", "typ": "JWT" }),
            Self::Ec { id, .. } => json!({ "alg": "ES256", "kid": id }),
        };
        let encoded = |json: &Json_| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", encoded(&header), encoded(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa => {
                let pair = signature::RsaKeyPair::from_pkcs8(RSA).unwrap();
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec { key, .. } => {
                Self::ec_pair(key).sign(&random, text.as_bytes()).unwrap().as_ref().to_vec()
            }
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Somebody the provider knows.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) subject: String,
    /// What is said of them beside the subject; replaces what is said otherwise.
    pub(crate) claims: Json_,
}

impl Person {
    pub(crate) fn new(subject: &str, email: &str) -> Self {
        let claims = json!({ "email": email, "email_verified": true, "name": "Ada L." });
        Self { subject: subject.to_owned(), claims }
    }

    /// Says something else of them.
    pub(crate) fn but(mut self, name: &str, value: Json_) -> Self {
        self.claims[name] = value;
        self
    }
}

#[derive(Default)]
struct Inner {
    issuer: String,
    signers: Vec<Arc<Signer>>,
    codes: HashMap<String, Code>,
    info: Option<Json_>,
    asked_for_keys: usize,
    away: bool,
    used_verifiers: HashSet<String>,
}

struct Code {
    token: String,
    challenge: String,
    redirect_uri: String,
}

/// An identity provider on a port of its own.
pub(crate) struct Provider {
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

impl Provider {
    pub(crate) async fn start(signer: Signer) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let inner = Inner { issuer, signers: vec![Arc::new(signer)], ..Inner::default() };
        let inner = Arc::new(Mutex::new(inner));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/me", get(info))
            .with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, task }
    }

    pub(crate) fn options(&self) -> OidcOptions {
        OidcOptions {
            issuer: self.issuer(),
            client_id: "ultra-hub".to_owned(),
            client_secret: Some(CLIENT_SECRET.to_owned()),
            join_domain: None,
        }
    }

    pub(crate) fn issuer(&self) -> String {
        self.inner.lock().unwrap().issuer.clone()
    }

    /// Signs with another key from now on.
    pub(crate) fn rotate(&self, signer: Signer) {
        self.inner.lock().unwrap().signers = vec![Arc::new(signer)];
    }

    pub(crate) fn set_info(&self, info: Json_) {
        self.inner.lock().unwrap().info = Some(info);
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.inner.lock().unwrap().away = away;
    }

    pub(crate) fn asked_for_keys(&self) -> usize {
        self.inner.lock().unwrap().asked_for_keys
    }

    /// Does what the provider does when somebody signs in there; returns where they are led back to, as the
    /// path of the site.
    pub(crate) fn sign_in(&self, url: &str, person: &Person) -> String {
        let signer = Arc::clone(&self.inner.lock().unwrap().signers[0]);
        self.sign_in_by(url, person, &signer)
    }

    /// Likewise, with a token that somebody else signed.
    pub(crate) fn sign_in_by(&self, url: &str, person: &Person, signer: &Signer) -> String {
        let url: Url = url.parse().unwrap();
        let asked: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], "ultra-hub");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let mut inner = self.inner.lock().unwrap();
        let now_s = crate::clock::now_ms() / 1000;
        let mut claims = json!({
            "iss": inner.issuer, "sub": person.subject, "aud": "ultra-hub",
            "iat": now_s, "exp": now_s + 300, "nonce": asked["nonce"],
        });
        for (name, value) in person.claims.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let token = signer.sign(&claims);
        let code = format!("code-{}", inner.codes.len());
        let (challenge, redirect_uri) =
            (asked["code_challenge"].clone(), asked["redirect_uri"].clone());
        inner
            .codes
            .insert(code.clone(), Code { token, challenge, redirect_uri: redirect_uri.clone() });
        let mut back: Url = redirect_uri.parse().unwrap();
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked["state"]);
        format!("{}?{}", back.path(), back.query().unwrap())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Shared = State<Arc<Mutex<Inner>>>;

async fn metadata(State(inner): Shared) -> Response {
    let inner = inner.lock().unwrap();
    if inner.away {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let issuer = &inner.issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "userinfo_endpoint": format!("{issuer}/me"),
    }))
    .into_response()
}

async fn keys(State(inner): Shared) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.asked_for_keys += 1;
    let keys: Vec<_> = inner.signers.iter().map(|signer| signer.jwk()).collect();
    Json(json!({ "keys": keys })).into_response()
}

async fn token(State(inner): Shared, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let secret: String = url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect();
    let expected = format!("Basic {}", STANDARD.encode(format!("ultra-hub:{secret}")));
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != expected.as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut inner = inner.lock().unwrap();
    let Some(code) = inner.codes.remove(&form["code"]) else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" })))
            .into_response();
    };
    let verifier = &form["code_verifier"];
    let holds = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == code.challenge;
    let is_new = inner.used_verifiers.insert(verifier.clone());
    if !holds || !is_new || form["redirect_uri"] != code.redirect_uri {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" })))
            .into_response();
    }
    Json(json!({ "access_token": "at", "token_type": "Bearer", "id_token": code.token }))
        .into_response()
}

async fn info(State(inner): Shared, headers: HeaderMap) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer at") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match &inner.lock().unwrap().info {
        Some(info) => Json(info.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
