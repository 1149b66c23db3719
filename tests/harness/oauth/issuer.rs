//! An authorization server as a gateway knows it that is signed in to: it publishes keys and signs tokens
//! with them. How its clients get the tokens is not its business here: the test hands them over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Where it publishes its keys.
const KEYS_PATH: &str = "/keys";

/// An authorization server that runs until it is stopped or dropped.
pub struct Issuer {
    name: String,
    signer: Arc<Mutex<Signer>>,
    task: JoinHandle<()>,
}

struct Signer {
    key: EcdsaKeyPair,
    id: String,
    /// Paths that were asked for.
    asked: Vec<String>,
}

impl Signer {
    fn new(id: String, asked: Vec<String>) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a random key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        Self { key: key.expect("the key that was just made"), id, asked }
    }

    /// Returns its public half (RFC 7517).
    fn published(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y}]})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.id}).to_string();
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.expect("the system has random numbers");
        format!("{message}.{}", BASE64.encode(signature))
    }
}

impl Issuer {
    /// Starts one on a free port.
    ///
    /// # Panics
    ///
    /// If this machine has no port left.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let name = format!("http://{address}/tenant");
        let signer = Arc::new(Mutex::new(Signer::new("key-1".into(), Vec::new())));
        let (shared, issuer) = (Arc::clone(&signer), name.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (signer, issuer) = (Arc::clone(&shared), issuer.clone());
                connections.spawn(async move {
                    let answer = service_fn(|request: Request<Incoming>| {
                        let answer = answer(request.uri().path(), &issuer, &signer);
                        async { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    // A client that goes away is none of ours.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { name, signer, task }
    }

    /// Returns what it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a token for somebody, good for ten minutes, with these claims besides.
    pub fn token(&self, subject: &str, audience: &str, other: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut claims =
            json!({"iss": self.name, "sub": subject, "aud": audience, "exp": now + 600});
        for (name, value) in other.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        lock(&self.signer).sign(&claims)
    }

    /// Signs with a new key from now on, and publishes no other.
    pub fn rotate(&self) {
        let mut signer = lock(&self.signer);
        let asked = std::mem::take(&mut signer.asked);
        *signer = Signer::new(format!("{}x", signer.id), asked);
    }

    /// Answers nobody from now on; tokens can still be had.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Returns the paths it was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.signer).asked.clone()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(path: &str, issuer: &str, signer: &Mutex<Signer>) -> Response<Full<Bytes>> {
    let mut signer = lock(signer);
    signer.asked.push(path.to_owned());
    let origin = issuer.strip_suffix("/tenant").unwrap_or(issuer);
    let document = match path {
        // The last of the places where clients look.
        "/tenant/.well-known/openid-configuration" => {
            json!({"issuer": issuer, "jwks_uri": format!("{origin}{KEYS_PATH}")})
        }
        KEYS_PATH => signer.published(),
        _ => {
            let mut missing = Response::new(Full::default());
            *missing.status_mut() = StatusCode::NOT_FOUND;
            return missing;
        }
    };
    Response::new(Full::from(document.to_string()))
}

fn lock(signer: &Mutex<Signer>) -> MutexGuard<'_, Signer> {
    signer.lock().unwrap_or_else(PoisonError::into_inner)
}
