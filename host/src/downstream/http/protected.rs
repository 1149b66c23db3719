//! The gateway as a resource that wants access tokens: what clients are told so that they can get one (RFC
//! 9728), and why the one they have is not enough (RFC 6750, section 3.1). Which tokens hold is
//! [`Verifier`]'s to say.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::json;
use url::{ParseError, Url};

use crate::auth::{TokenError, Verifier};
use crate::config::ServerAuth;

/// Where metadata of resources are: between the host and the path of each (RFC 9728, section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A gateway that clients sign in to.
#[derive(Debug)]
pub struct Protected {
    verifier: Verifier,
    issuer: String,
    scopes: Vec<String>,
    /// The resource that all endpoints are.
    audience: String,
    audience_url: Url,
}

impl Protected {
    /// Returns what the config says, and begins to fetch the issuer's keys.
    ///
    /// # Errors
    ///
    /// One of its URLs is none.
    pub fn new(auth: &ServerAuth) -> Result<Self, ParseError> {
        let jwks_url = auth.jwks_url.as_deref().map(Url::parse).transpose()?;
        Ok(Self {
            verifier: Verifier::new(auth, Url::parse(&auth.issuer)?, jwks_url),
            issuer: auth.issuer.clone(),
            scopes: auth.scopes.clone(),
            audience: auth.audience.clone(),
            audience_url: Url::parse(&auth.audience)?,
        })
    }

    /// Returns the host by which clients know the gateway.
    pub(super) fn host(&self) -> Option<&str> {
        let host = self.audience_url.host_str()?;
        Some(host.trim_start_matches('[').trim_end_matches(']'))
    }

    /// Returns the metadata at a path, if that is a place where clients look for them.
    pub(super) fn metadata(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(WELL_KNOWN)?;
        let resource = match rest.trim_end_matches('/') {
            "" => Cow::Borrowed(&*self.audience),
            rest if rest == self.audience_url.path() => Cow::Borrowed(&*self.audience),
            // Behind a proxy, paths may have something before them that we do not see.
            rest => match rest.strip_prefix(self.prefix()).unwrap_or(rest) {
                "/mcp" => Cow::Borrowed(&*self.audience),
                endpoint => Cow::Owned(self.server_resource(endpoint)?),
            },
        };
        let mut metadata = json!({
            "resource": resource,
            "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"],
        });
        if !self.scopes.is_empty() {
            metadata["scopes_supported"] = json!(self.scopes);
        }
        Some(metadata.to_string())
    }

    /// Returns who the sender of a token acts for, at the endpoint at a path.
    pub(super) async fn subject(&self, token: &str, path: &str) -> Result<Arc<str>, TokenError> {
        // A token for a single server is good there, and one for all of them too.
        let own = self.server_resource(path);
        let audiences: Vec<&str> = std::iter::once(&*self.audience).chain(own.as_deref()).collect();
        self.verifier.subject(token, &audiences).await
    }

    /// Returns what a client is told that has to sign in, or to sign in again.
    pub(super) fn challenge(&self, path: &str, error: Option<&str>) -> HeaderValue {
        let resource = self.server_resource(path).and_then(|resource| Url::parse(&resource).ok());
        let resource = resource.as_ref().unwrap_or(&self.audience_url);
        let origin = resource.origin().ascii_serialization();
        let path = resource.path().trim_end_matches('/');
        let mut challenge = format!(r#"Bearer resource_metadata="{origin}{WELL_KNOWN}{path}""#);
        if let Some(error) = error {
            challenge.push_str(&format!(r#", error="{error}""#));
        }
        if !self.scopes.is_empty() {
            challenge.push_str(&format!(r#", scope="{}""#, self.scopes.join(" ")));
        }
        // The config takes no URL and no scope with other characters.
        HeaderValue::from_str(&challenge).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
    }

    /// Returns the resource that a single server's endpoint is, if the path is of one.
    ///
    /// Where the audience is no endpoint but something that covers them all, nothing is a resource of its own.
    fn server_resource(&self, path: &str) -> Option<String> {
        let name = path.strip_prefix("/servers/")?.strip_suffix("/mcp")?;
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let base = self.audience.strip_suffix("/mcp")?;
        (!name.is_empty() && name.bytes().all(is_name))
            .then(|| format!("{base}/servers/{name}/mcp"))
    }

    /// Returns what stands before our paths where clients see them.
    fn prefix(&self) -> &str {
        self.audience_url.path().strip_suffix("/mcp").unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use http::header::HOST;

    use super::*;
    use crate::downstream::http::Guard;

    fn protected(audience: &str, scopes: &[&str]) -> Protected {
        let auth = ServerAuth {
            issuer: "https://idp.example".into(),
            audience: audience.into(),
            // A port that nobody listens on: no key is ever needed here.
            jwks_url: Some("http://127.0.0.1:9/".into()),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            principal_claim: "sub".into(),
        };
        Protected::new(&auth).unwrap()
    }

    fn resource(protected: &Protected, path: &str) -> Option<String> {
        let metadata: serde_json::Value = serde_json::from_str(&protected.metadata(path)?).unwrap();
        Some(metadata["resource"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_gateway_that_is_signed_in_to_is_safe_and_known_by_its_audience() {
        let address = "0.0.0.0:8000".parse().unwrap();
        let guard = Guard::new(address, Vec::new());
        let host = |guard: &Guard| {
            let headers = [(HOST, HeaderValue::from_static("gw.example:443"))];
            guard.check(&headers.into_iter().collect(), &Uri::from_static("/mcp")).is_ok()
        };
        assert_eq!((guard.is_safe(), host(&guard)), (false, false));

        let guard = guard.with_sign_in(protected("https://gw.example/mcp", &[]));

        assert_eq!((guard.is_safe(), host(&guard)), (true, true));
    }

    #[tokio::test]
    async fn metadata_are_where_clients_look_for_them() {
        let protected = protected("https://gw.example/mcp", &["mcp:use"]);

        insta::assert_snapshot!(
            protected.metadata("/.well-known/oauth-protected-resource/mcp").unwrap(),
            @r#"{"authorization_servers":["https://idp.example"],"bearer_methods_supported":["header"],"resource":"https://gw.example/mcp","scopes_supported":["mcp:use"]}"#
        );
        for (path, expected) in [
            ("", Some("https://gw.example/mcp")),
            ("/", Some("https://gw.example/mcp")),
            ("/mcp", Some("https://gw.example/mcp")),
            ("/servers/files/mcp", Some("https://gw.example/servers/files/mcp")),
            ("/servers/a%22b/mcp", None),
            ("/servers//mcp", None),
            ("/other", None),
            ("x", None),
        ] {
            let at = format!("/.well-known/oauth-protected-resource{path}");
            assert_eq!(resource(&protected, &at).as_deref(), expected, "{path}");
        }
        assert_eq!(protected.metadata("/mcp"), None);
    }

    #[tokio::test]
    async fn a_proxy_may_put_a_path_before_ours() {
        let protected = protected("https://gw.example/team/mcp", &[]);

        for (path, expected) in [
            ("/team/mcp", "https://gw.example/team/mcp"),
            ("/mcp", "https://gw.example/team/mcp"),
            ("/team/servers/files/mcp", "https://gw.example/team/servers/files/mcp"),
            ("/servers/files/mcp", "https://gw.example/team/servers/files/mcp"),
        ] {
            let at = format!("/.well-known/oauth-protected-resource{path}");
            assert_eq!(resource(&protected, &at).as_deref(), Some(expected), "{path}");
        }
    }

    #[tokio::test]
    async fn a_challenge_says_where_to_go_and_what_to_ask_for() {
        let plain = protected("https://gw.example", &[]);
        let scoped = protected("https://gw.example/mcp", &["a", "b:c"]);

        insta::assert_snapshot!(
            plain.challenge("/mcp", None).to_str().unwrap(),
            @r#"Bearer resource_metadata="https://gw.example/.well-known/oauth-protected-resource""#
        );
        insta::assert_snapshot!(
            scoped.challenge("/servers/files/mcp", Some("invalid_token")).to_str().unwrap(),
            @r#"Bearer resource_metadata="https://gw.example/.well-known/oauth-protected-resource/servers/files/mcp", error="invalid_token", scope="a b:c""#
        );
    }
}
