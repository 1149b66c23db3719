use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;
use sha2::Sha256;

use super::*;
use crate::lock;

const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "https://gw.example/mcp";

/// Keys and tokens made with another implementation, pyca/cryptography; the private keys are gone.
const SIGNED: &str = include_str!("tests/signed.json");

/// An authorization server's key pair.
struct Signer {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { id, pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap() }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "x": x, "y": y})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64.encode(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": self.id}), claims)
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that hold, but for these; `null` takes one out.
fn claims(other: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now() + 600, "scope": "a b"});
    for (name, value) in other.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// An authorization server that publishes these keys; none while it is away.
struct Publisher {
    address: SocketAddr,
    body: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Publisher {
    fn new(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let body = Arc::new(Mutex::new(None));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&body), Arc::clone(&asked));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4_096]);
                let body: Option<String> = lock(&shared).clone();
                if let Some(body) = body {
                    let length = body.len();
                    let _ =
                        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                }
            }
        });
        let this = Self { address, body, asked };
        this.publish(keys);
        this
    }

    fn publish(&self, keys: &[Value]) {
        *lock(&self.body) = Some(json!({"keys": keys}).to_string());
    }

    fn go_away(&self) {
        *lock(&self.body) = None;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn verifier(&self, scopes: &[&str], principal_claim: &str) -> Verifier {
        let auth = ServerAuth {
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            jwks_url: None,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            principal_claim: principal_claim.to_owned(),
        };
        let jwks_url = Url::parse(&format!("http://{}/jwks", self.address)).unwrap();
        Verifier::new(&auth, Url::parse(ISSUER).unwrap(), Some(jwks_url))
    }
}

async fn judge(verifier: &Verifier, token: &str) -> Result<String, TokenError> {
    verifier.subject(token, &[AUDIENCE]).await.map(|subject| subject.to_string())
}

/// Lets time pass without waiting for it.
async fn advance(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn every_asymmetric_algorithm_is_verified_as_others_sign_it() {
    let signed: Value = serde_json::from_str(SIGNED).unwrap();
    let publisher = Publisher::new(signed["keys"].as_array().unwrap());
    let verifier = publisher.verifier(&[], "sub");

    assert_eq!(signed["accepted"].as_object().unwrap().len(), 9);
    for (algorithm, token) in signed["accepted"].as_object().unwrap() {
        let subject = judge(&verifier, token.as_str().unwrap()).await;
        assert_eq!(subject.as_deref(), Ok("ada"), "{algorithm}");
    }
    for (what, token) in signed["refused"].as_object().unwrap() {
        let refused = judge(&verifier, token.as_str().unwrap()).await;
        assert!(matches!(refused, Err(TokenError::Invalid(_))), "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn what_a_token_claims_must_hold() {
    let signer = Signer::new("one");
    let publisher = Publisher::new(&[signer.public()]);
    let verifier = publisher.verifier(&["a"], "sub");
    let ok = Ok("ada".to_owned());
    let refused = |reason| Err(TokenError::Invalid(reason));
    let audience = || refused("it is for another audience");
    let issuer = || refused("it is from another issuer");
    let expired = || refused("it has expired");
    let nobody = || refused("it names no principal");
    let odd = || refused("its claims are not what they should be");

    for (other, expected) in [
        (json!({}), ok.clone()),
        (json!({"aud": ["https://other.example", AUDIENCE]}), ok.clone()),
        (json!({"aud": "https://other.example"}), audience()),
        (json!({"aud": "https://gw.example/mcp/"}), audience()),
        (json!({"aud": ["https://gw.example"]}), audience()),
        (json!({"aud": []}), audience()),
        (json!({"aud": {"x": AUDIENCE}}), audience()),
        (json!({"aud": null}), audience()),
        (json!({"iss": "https://idp.example/"}), issuer()),
        (json!({"iss": "https://IDP.example"}), issuer()),
        (json!({"iss": [ISSUER]}), issuer()),
        (json!({"iss": null}), issuer()),
        (json!({"exp": now() - 10}), ok.clone()),
        (json!({"exp": now() - 60}), expired()),
        (json!({"exp": 0}), expired()),
        (json!({"exp": null}), odd()),
        (json!({"exp": (now() + 600).to_string()}), odd()),
        (json!({"exp": -1}), odd()),
        (json!({"nbf": now() + 10}), ok.clone()),
        (json!({"nbf": now() + 90}), refused("it is not valid yet")),
        (json!({"nbf": "soon"}), odd()),
        (json!({"sub": null}), nobody()),
        (json!({"sub": ""}), nobody()),
        (json!({"sub": 7}), nobody()),
        (json!({"sub": "ada\u{0}claude/1"}), nobody()),
        (json!({"sub": "x".repeat(513)}), nobody()),
        (json!({"scope": "b a"}), ok.clone()),
        (json!({"scope": null, "scp": ["a"]}), ok.clone()),
        (json!({"scope": null, "scp": "b a"}), ok),
        (json!({"scope": "ab"}), Err(TokenError::Scope)),
        (json!({"scope": ["a b"]}), Err(TokenError::Scope)),
        (json!({"scope": null}), Err(TokenError::Scope)),
    ] {
        let judged = judge(&verifier, &signer.token(&claims(other.clone()))).await;
        assert_eq!(judged, expected, "{other}");
    }
}

#[tokio::test]
async fn what_a_token_says_of_its_signature_is_not_believed() {
    let signer = Signer::new("one");
    let publisher = Publisher::new(&[signer.public()]);
    let verifier = publisher.verifier(&[], "sub");
    let good = claims(json!({}));
    let unsigned = message(&json!({"alg": "none"}), &good);
    // The key that everybody knows, taken for a secret that nobody knows.
    let shared = message(&json!({"alg": "HS256", "kid": "one"}), &good);
    let mut mac = Hmac::<Sha256>::new_from_slice(signer.pair.public_key().as_ref()).unwrap();
    mac.update(shared.as_bytes());
    let shared = format!("{shared}.{}", BASE64.encode(mac.finalize().into_bytes()));
    let stranger = Signer::new("one");
    let header = |other: Value| {
        let mut header = json!({"alg": "ES256", "kid": "one"});
        header.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        signer.sign(&header, &good)
    };
    let whole = signer.token(&good);
    let (signed, signature) = whole.rsplit_once('.').unwrap();
    let forged = message(&json!({"alg": "ES256", "kid": "one"}), &claims(json!({"sub": "eve"})));

    for (what, token, expected) in [
        ("no `alg` at all", message(&json!({}), &good) + ".", "it is no signed JWT"),
        ("`none`", format!("{unsigned}."), "it is no signed JWT"),
        ("`none`, signed", format!("{unsigned}.{signature}"), "it is no signed JWT"),
        ("two parts", unsigned, "it is no signed JWT"),
        ("no token", "s3cret".into(), "it is no signed JWT"),
        ("nothing", String::new(), "it is no signed JWT"),
        ("HS256", shared, "it is not signed with a key pair"),
        ("another `alg`", header(json!({"alg": "ES384"})), "its signature does not hold"),
        ("another kind", header(json!({"alg": "RS256"})), "its signature does not hold"),
        ("a stranger's key", stranger.token(&good), "its signature does not hold"),
        ("other claims", format!("{forged}.{signature}"), "its signature does not hold"),
        ("no signature", format!("{signed}."), "its signature does not hold"),
        ("a cut signature", whole[..whole.len() - 2].to_owned(), "its signature does not hold"),
        (
            "an extension",
            header(json!({"crit": ["b64"]})),
            "it needs an extension that is not known here",
        ),
        ("a logout token", header(json!({"typ": "logout+jwt"})), "it is no access token"),
        (
            "a key of its own",
            header(json!({"kid": "x", "jwk": stranger.public()})),
            "no key of the issuer has signed it",
        ),
        ("too long", format!("{whole}{}", "A".repeat(TOKEN_BYTES_MAX)), "it is longer than 16 KiB"),
    ] {
        let judged = judge(&verifier, &token).await;
        assert_eq!(judged, Err(TokenError::Invalid(expected)), "{what}");
    }
    assert_eq!(judge(&verifier, &whole).await.as_deref(), Ok("ada"));
    assert_eq!(judge(&verifier, &header(json!({"typ": "JWT"}))).await.as_deref(), Ok("ada"));
}

#[tokio::test]
async fn another_claim_may_name_the_principal() {
    let signer = Signer::new("one");
    let publisher = Publisher::new(&[signer.public()]);
    let verifier = publisher.verifier(&[], "email");

    let named =
        judge(&verifier, &signer.token(&claims(json!({"email": "ada@corp.example"})))).await;
    let unnamed = judge(&verifier, &signer.token(&claims(json!({})))).await;

    assert_eq!(named.as_deref(), Ok("ada@corp.example"));
    assert_eq!(unnamed, Err(TokenError::Invalid("it names no principal")));
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_who_show_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let publisher = Publisher::new(&[old.public()]);
    let verifier = publisher.verifier(&[], "sub");
    let good = claims(json!({}));
    judge(&verifier, &old.token(&good)).await.unwrap();

    publisher.publish(&[new.public()]);
    advance(keys::PERIOD_MIN).await;
    let token = new.token(&good);
    let many = (0..50).map(|_| judge(&verifier, &token));
    let judged = futures_util::future::join_all(many).await;

    assert!(judged.iter().all(Result::is_ok), "{judged:?}");
    assert_eq!(publisher.asked(), 2);
    // Taken back, and so refused, without being asked for again.
    assert!(matches!(judge(&verifier, &old.token(&good)).await, Err(TokenError::Invalid(_))));
    assert_eq!(publisher.asked(), 2);
}

#[tokio::test]
async fn keys_that_nobody_knows_are_asked_for_seldom() {
    let (signer, unknown) = (Signer::new("one"), Signer::new("other"));
    let publisher = Publisher::new(&[signer.public()]);
    let verifier = publisher.verifier(&[], "sub");
    let good = claims(json!({}));
    judge(&verifier, &signer.token(&good)).await.unwrap();

    for _ in 0..20 {
        judge(&verifier, &unknown.token(&good)).await.unwrap_err();
    }
    assert_eq!(publisher.asked(), 1);
    advance(keys::PERIOD_MIN).await;
    for _ in 0..20 {
        judge(&verifier, &unknown.token(&good)).await.unwrap_err();
    }

    assert_eq!(publisher.asked(), 2);
}

#[tokio::test]
async fn keys_stay_while_their_server_is_away_and_not_for_ever() {
    let (signer, unknown) = (Signer::new("one"), Signer::new("other"));
    let publisher = Publisher::new(&[signer.public()]);
    let verifier = publisher.verifier(&[], "sub");
    let good = claims(json!({"exp": now() + 1_000_000}));
    judge(&verifier, &signer.token(&good)).await.unwrap();

    publisher.go_away();
    advance(keys::FRESH).await;
    assert_eq!(judge(&verifier, &signer.token(&good)).await.as_deref(), Ok("ada"));
    // A client with a key that is not known may be right: it is not told to sign in again.
    assert_eq!(judge(&verifier, &unknown.token(&good)).await, Err(TokenError::Unavailable));
    assert_eq!(judge(&verifier, &signer.token(&good)).await.as_deref(), Ok("ada"));
    advance(keys::AGE_MAX).await;
    assert_eq!(judge(&verifier, &signer.token(&good)).await, Err(TokenError::Unavailable));

    publisher.publish(&[signer.public()]);
    advance(keys::PERIOD_MIN).await;
    assert_eq!(judge(&verifier, &signer.token(&good)).await.as_deref(), Ok("ada"));
}

/// Without names, the one that fits is found by trying.
#[tokio::test]
async fn a_token_that_names_no_key_is_tried_on_all() {
    let (first, second, third) = (Signer::new("1"), Signer::new("2"), Signer::new("3"));
    let publisher = Publisher::new(&[first.public(), second.public()]);
    let verifier = publisher.verifier(&[], "sub");
    let unnamed = |signer: &Signer| signer.sign(&json!({"alg": "ES256"}), &claims(json!({})));

    assert_eq!(judge(&verifier, &unnamed(&second)).await.as_deref(), Ok("ada"));
    advance(keys::PERIOD_MIN).await;
    publisher.publish(&[third.public()]);
    assert_eq!(judge(&verifier, &unnamed(&third)).await.as_deref(), Ok("ada"));
}
