//! Who we are at an authorization server: a client registered beforehand, a client metadata document,
//! or a registration of our own (RFC 7591). In this order, after MCP 2026-07-28.
//!
//! An identity belongs to the issuer it came from and is shown to no other.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::AuthError;
use super::discovery::AuthorizationServer;
use super::error::quoted;
use super::fetch::{Answer, Fetcher};
use super::secret::{self, Secret};
use crate::config::OAuth;

/// A client at one authorization server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) id: String,
    #[serde(with = "secret::sealed_option")]
    pub(super) secret: Option<Secret>,
    pub(super) method: Method,
}

/// How a client proves at the token endpoint who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Method {
    #[serde(rename = "none")]
    None,
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
}

/// A registration we made, and what it is bound to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Registration {
    pub(super) issuer: String,
    pub(super) identity: Identity,
    /// Authorization servers compare it, port and all.
    pub(super) redirect_uri: String,
    /// When the secret ends, in seconds since 1970; nothing if never.
    pub(super) expires_at: Option<u64>,
}

/// How to become a client of an authorization server.
#[derive(Debug)]
pub(super) enum Way {
    /// We are one already.
    Known(Identity),
    /// By asking it.
    Register,
}

impl Identity {
    /// Returns a client without a secret.
    pub(super) fn public(id: &str) -> Self {
        Self { id: id.into(), secret: None, method: Method::None }
    }
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
        }
    }

    /// Returns the first of `preferred` that the authorization server takes.
    fn choose(server: &AuthorizationServer, preferred: &[Self]) -> Option<Self> {
        match &server.token_endpoint_auth_methods_supported {
            Some(names) => preferred
                .iter()
                .copied()
                .find(|method| names.iter().any(|name| name == method.name())),
            // RFC 8414, section 2: the default is `client_secret_basic`.
            None => preferred.first().copied(),
        }
    }
}

impl Way {
    /// Chooses how to become a client.
    pub(super) fn choose(oauth: &OAuth, server: &AuthorizationServer) -> Result<Self, AuthError> {
        let unregistered = |reason: &str| AuthError::Unregistered {
            issuer: server.issuer.clone(),
            reason: reason.to_owned(),
        };
        if let Some(id) = &oauth.client_id {
            let Some(secret) = &oauth.client_secret else {
                return Ok(Self::Known(Identity::public(id)));
            };
            let method = Method::choose(server, &[Method::Basic, Method::Post])
                .ok_or_else(|| unregistered("it takes no client secret"))?;
            let identity = Identity { id: id.clone(), secret: Some(secret.clone()), method };
            return Ok(Self::Known(identity));
        }
        match &oauth.client_metadata_url {
            Some(url) if server.client_id_metadata_document_supported => {
                Ok(Self::Known(Identity::public(url)))
            }
            _ if server.registration_endpoint.is_some() => Ok(Self::Register),
            _ => Err(unregistered("it lets no client register itself")),
        }
    }
}

/// What an authorization server says about a client it registered (RFC 7591, section 3.2.1).
#[derive(Deserialize)]
struct Registered {
    client_id: String,
    client_secret: Option<String>,
    #[serde(default)]
    client_secret_expires_at: u64,
    token_endpoint_auth_method: Option<String>,
}

/// What it says if it does not.
#[derive(Deserialize)]
struct NotRegistered {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// Registers a client.
pub(super) async fn register(
    fetcher: &Fetcher,
    server: &AuthorizationServer,
    redirect_uri: &str,
    scopes: &[String],
) -> Result<Registration, AuthError> {
    let failed = |reason: String| AuthError::Unregistered { issuer: server.issuer.clone(), reason };
    let Some(endpoint) = &server.registration_endpoint else {
        return Err(failed("it lets no client register itself".into()));
    };
    let answer = fetcher.post(endpoint, request(server, redirect_uri, scopes)).await?;
    if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
        return Err(failed(refusal(&answer)));
    }
    let registered: Registered = serde_json::from_slice(answer.body())
        .map_err(|error| failed(format!("its answer is no registration: {error}")))?;
    Ok(Registration {
        issuer: server.issuer.clone(),
        identity: registered.identity(server).map_err(failed)?,
        redirect_uri: redirect_uri.to_owned(),
        expires_at: Some(registered.client_secret_expires_at).filter(|end| *end > 0),
    })
}

fn request(server: &AuthorizationServer, redirect_uri: &str, scopes: &[String]) -> Vec<u8> {
    let method = Method::choose(server, &[Method::None, Method::Basic, Method::Post]);
    let mut client = json!({
        "client_name": "Ultra",
        "application_type": "native",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method.unwrap_or(Method::None).name(),
    });
    if !scopes.is_empty() {
        client["scope"] = scopes.join(" ").into();
    }
    client.to_string().into()
}

impl Registered {
    fn identity(&self, server: &AuthorizationServer) -> Result<Identity, String> {
        let all = [Method::None, Method::Basic, Method::Post];
        let method = match (&self.token_endpoint_auth_method, &self.client_secret) {
            (Some(name), _) => all
                .into_iter()
                .find(|method| method.name() == name)
                .ok_or_else(|| format!("it wants `{}` at its token endpoint", quoted(name)))?,
            (None, Some(_)) => Method::choose(server, &[Method::Basic, Method::Post, Method::None])
                .unwrap_or(Method::Basic),
            (None, None) => Method::None,
        };
        let secret = self.client_secret.clone().filter(|_| method != Method::None);
        if method != Method::None && secret.is_none() {
            return Err("it wants a client secret and gives none".into());
        }
        Ok(Identity { id: self.client_id.clone(), secret: secret.map(Secret::new), method })
    }
}

fn refusal(answer: &Answer) -> String {
    match serde_json::from_slice::<NotRegistered>(answer.body()) {
        Ok(said) => quoted(format!("{} {}", said.error, said.error_description).trim()),
        Err(_) => format!("it answers with status {}", answer.status().as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(extra: serde_json::Value) -> AuthorizationServer {
        let mut metadata = json!({
            "issuer": "https://as.test",
            "authorization_endpoint": "https://as.test/authorize",
            "token_endpoint": "https://as.test/token",
        });
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(metadata).unwrap()
    }

    fn everything() -> AuthorizationServer {
        server(json!({
            "client_id_metadata_document_supported": true,
            "registration_endpoint": "https://as.test/register",
        }))
    }

    #[test]
    fn client_of_the_config_beats_document_beats_registration() {
        let mut oauth = OAuth {
            client_id: Some("mine".into()),
            client_metadata_url: Some("https://me.test/client.json".into()),
            ..OAuth::default()
        };
        let id = |oauth: &OAuth, server: &AuthorizationServer| match Way::choose(oauth, server) {
            Ok(Way::Known(identity)) => identity.id,
            Ok(Way::Register) => "register".into(),
            Err(error) => error.to_string(),
        };

        assert_eq!(id(&oauth, &everything()), "mine");
        oauth.client_id = None;
        assert_eq!(id(&oauth, &everything()), "https://me.test/client.json");
        let without_documents = server(json!({"registration_endpoint": "https://as.test/r"}));
        assert_eq!(id(&oauth, &without_documents), "register");
        oauth.client_metadata_url = None;
        assert_eq!(id(&oauth, &everything()), "register");
        assert_eq!(
            id(&oauth, &server(json!({}))),
            "`https://as.test` knows no client `ultra`: it lets no client register itself"
        );
    }

    #[test]
    fn secret_is_shown_as_the_server_wants_it() {
        let oauth = OAuth {
            client_id: Some("mine".into()),
            client_secret: Some(Secret::new("s".into())),
            ..OAuth::default()
        };
        let method = |methods: serde_json::Value| {
            let server = server(json!({"token_endpoint_auth_methods_supported": methods}));
            match Way::choose(&oauth, &server) {
                Ok(Way::Known(identity)) => Some(identity.method),
                _ => None,
            }
        };

        assert_eq!(method(json!(null)), Some(Method::Basic));
        assert_eq!(method(json!(["none", "client_secret_post"])), Some(Method::Post));
        assert_eq!(
            method(json!(["client_secret_post", "client_secret_basic"])),
            Some(Method::Basic)
        );
        assert_eq!(method(json!(["private_key_jwt"])), None);
    }

    #[test]
    fn answer_decides_how_a_registered_client_proves_itself() {
        for (methods, answer, expected) in [
            (json!(["none"]), json!({"client_id": "c"}), Ok(Method::None)),
            (json!(["none"]), json!({"client_id": "c", "client_secret": "s"}), Ok(Method::None)),
            (json!(null), json!({"client_id": "c", "client_secret": "s"}), Ok(Method::Basic)),
            (
                json!(["client_secret_post"]),
                json!({"client_id": "c", "client_secret": "s"}),
                Ok(Method::Post),
            ),
            (
                json!(null),
                json!({"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "client_secret_post"}),
                Ok(Method::Post),
            ),
            (
                json!(null),
                json!({"client_id": "c", "token_endpoint_auth_method": "client_secret_basic"}),
                Err("it wants a client secret and gives none"),
            ),
            (
                json!(null),
                json!({"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"}),
                Err("it wants `private_key_jwt` at its token endpoint"),
            ),
        ] {
            let server = server(json!({"token_endpoint_auth_methods_supported": methods}));
            let registered: Registered = serde_json::from_value(answer.clone()).unwrap();
            let identity = registered.identity(&server);
            let method = identity.as_ref().map(|identity| identity.method);
            assert_eq!(method.map_err(String::as_str), expected, "{methods} {answer}");
            assert!(
                identity.is_err()
                    || identity.is_ok_and(|identity| {
                        identity.secret.is_some() == (identity.method != Method::None)
                    })
            );
        }
    }

    #[test]
    fn registration_asks_for_a_native_client_that_may_refresh() {
        let body = request(&everything(), "http://127.0.0.1:1/callback", &["a".into(), "b".into()]);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();

        insta::assert_snapshot!(body, @r#"{"application_type":"native","client_name":"Ultra","grant_types":["authorization_code","refresh_token"],"redirect_uris":["http://127.0.0.1:1/callback"],"response_types":["code"],"scope":"a b","token_endpoint_auth_method":"none"}"#);
    }
}
