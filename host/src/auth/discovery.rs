//! From a server's refusal to its authorization server: protected-resource metadata (RFC 9728), then
//! authorization-server metadata (RFC 8414 or OpenID Connect Discovery 1.0).
//!
//! MCP 2026-07-28, authorization, says in which order; servers of 2025-03-26 have no protected-resource
//! metadata and are their own authorization server.

use serde::Deserialize;
use url::Url;

use super::AuthError;
use super::error::quoted;
use super::fetch::{Fetcher, json, shown};

/// What a server says about itself, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Its name towards the authorization server (RFC 8707).
    pub(super) resource: String,
    /// Its authorization servers, by their issuers, never empty.
    pub(super) issuers: Vec<String>,
    /// All scopes it knows.
    pub(super) scopes: Option<Vec<String>>,
    /// It has no metadata, so its own origin is the issuer.
    pub(super) is_legacy: bool,
}

/// The document of RFC 9728, section 2.
#[derive(Debug, Deserialize)]
struct ResourceMetadata {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    scopes_supported: Option<Vec<String>>,
}

/// What an authorization server says about itself (RFC 8414, section 2).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AuthorizationServer {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) registration_endpoint: Option<Url>,
    pub(super) scopes_supported: Option<Vec<String>>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    /// RFC 9207: every authorization response carries `iss`.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    /// It fetches the metadata of clients whose id is a URL.
    #[serde(default)]
    pub(super) client_id_metadata_document_supported: bool,
}

/// What an authorization server says about the keys it signs with (RFC 8414, section 2).
#[derive(Debug, Deserialize)]
struct Signer {
    issuer: String,
    jwks_uri: Option<Url>,
}

/// What became of asking for a document at one of several places.
enum Found<T> {
    Document(T),
    /// There is none here.
    Absent,
    /// Nobody can tell.
    Broken(String),
}

/// Asks a server who may give out tokens for it.
///
/// `named` is where it said that its metadata is.
pub(super) async fn resource(
    fetcher: &Fetcher,
    server: &Url,
    named: Option<&str>,
) -> Result<Resource, AuthError> {
    let named = named.map(|text| {
        Url::parse(text).map_err(|_| AuthError::Metadata {
            url: shown(server),
            reason: "names no URL as the place of its metadata".into(),
        })
    });
    let places = named.transpose()?.into_iter().chain(resource_places(server));
    let mut broken = None;
    for place in places {
        match ask::<ResourceMetadata>(fetcher, &place).await? {
            Found::Document(metadata) => return accept(metadata, server, &place),
            Found::Absent => {}
            Found::Broken(reason) => broken = Some((place, reason)),
        }
    }
    match broken {
        Some((place, reason)) => Err(AuthError::Metadata { url: shown(&place), reason }),
        None => Ok(Resource {
            resource: resource_name(server),
            issuers: vec![server.origin().ascii_serialization()],
            scopes: None,
            is_legacy: true,
        }),
    }
}

fn accept(metadata: ResourceMetadata, server: &Url, place: &Url) -> Result<Resource, AuthError> {
    let wrong = |reason: String| Err(AuthError::Metadata { url: shown(place), reason });
    if !covers(&metadata.resource, server) {
        let resource = quoted(&metadata.resource);
        return wrong(format!("is about `{resource}`, not about `{}`", shown(server)));
    }
    if metadata.authorization_servers.is_empty() {
        return wrong("names no authorization server".into());
    }
    Ok(Resource {
        resource: metadata.resource,
        issuers: metadata.authorization_servers,
        scopes: metadata.scopes_supported,
        is_legacy: false,
    })
}

impl Resource {
    /// Asks an authorization server where its endpoints are.
    ///
    /// `issuer` is one of [`Self::issuers`]. The answer is refused unless it names the same, byte for
    /// byte, and S256 for PKCE.
    pub(super) async fn authorization_server(
        &self,
        fetcher: &Fetcher,
        issuer: &str,
    ) -> Result<AuthorizationServer, AuthError> {
        let invalid = |url: &str, reason: &str| AuthError::Metadata {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(issuer).map_err(|_| invalid(&quoted(issuer), "is no URL"))?;
        // URL parsers pass over some characters, people and logs do not.
        let is_plain = issuer.chars().all(|c| c.is_ascii_graphic());
        if !is_plain || url.query().is_some() || url.fragment().is_some() {
            let reason = "cannot be an issuer: it has a query, a fragment or odd characters";
            return Err(invalid(&shown(&url), reason));
        }
        let mut broken = None;
        for place in server_places(&url) {
            match ask::<AuthorizationServer>(fetcher, &place).await? {
                Found::Document(found) => {
                    self.check(&found, issuer, &place)?;
                    return Ok(found);
                }
                Found::Absent => {}
                Found::Broken(reason) => broken = Some((place, reason)),
            }
        }
        match broken {
            Some((place, reason)) => Err(invalid(&shown(&place), &reason)),
            None if self.is_legacy => Ok(AuthorizationServer::legacy(&url)),
            None => Err(invalid(issuer, "has no authorization server metadata")),
        }
    }

    fn check(&self, found: &AuthorizationServer, issuer: &str, at: &Url) -> Result<(), AuthError> {
        // The origin was our guess, and an issuer may end in a slash.
        let same = found.issuer == issuer
            || (self.is_legacy && found.issuer.strip_suffix('/') == Some(issuer));
        let reason = if !same {
            format!("says that its issuer is `{}`, not `{issuer}`", quoted(&found.issuer))
        } else if !found.code_challenge_methods_supported.iter().any(|method| method == "S256") {
            "does not name S256 for PKCE, without which signing in is not safe".into()
        } else {
            return Ok(());
        };
        Err(AuthError::Metadata { url: shown(at), reason })
    }
}

impl AuthorizationServer {
    /// The default endpoints of MCP 2025-03-26, section 2.3.3.
    fn legacy(origin: &Url) -> Self {
        let at = |path: &str| {
            let mut url = origin.clone();
            url.set_path(path);
            url
        };
        Self {
            issuer: origin.origin().ascii_serialization(),
            authorization_endpoint: at("/authorize"),
            token_endpoint: at("/token"),
            registration_endpoint: Some(at("/register")),
            scopes_supported: None,
            token_endpoint_auth_methods_supported: None,
            code_challenge_methods_supported: vec!["S256".into()],
            authorization_response_iss_parameter_supported: false,
            client_id_metadata_document_supported: false,
        }
    }
}

/// Asks an authorization server where the keys are that it signs with.
///
/// An answer counts only if it names the same issuer, byte for byte.
pub(super) async fn keys_url(
    fetcher: &Fetcher,
    issuer: &Url,
    name: &str,
) -> Result<Url, AuthError> {
    let wrong = |place: &Url, reason: String| AuthError::Metadata { url: shown(place), reason };
    let mut broken = None;
    for place in server_places(issuer) {
        match ask::<Signer>(fetcher, &place).await? {
            // Some answer for every path with what they say of themselves at the root.
            Found::Document(found) if found.issuer != name => {
                let (theirs, ours) = (quoted(&found.issuer), quoted(name));
                let reason = format!("says that its issuer is `{theirs}`, not `{ours}`");
                broken = Some(wrong(&place, reason));
            }
            Found::Document(Signer { jwks_uri: Some(url), .. }) => return Ok(url),
            Found::Document(_) => broken = Some(wrong(&place, "names no `jwks_uri`".into())),
            Found::Absent => {}
            Found::Broken(reason) => broken = Some(wrong(&place, reason)),
        }
    }
    Err(broken.unwrap_or_else(|| wrong(issuer, "has no authorization server metadata".into())))
}

/// Fetches a document that may be there or not.
async fn ask<T: serde::de::DeserializeOwned>(
    fetcher: &Fetcher,
    place: &Url,
) -> Result<Found<T>, AuthError> {
    let answer = fetcher.get(place).await?;
    Ok(match json(&answer) {
        Some(Ok(document)) => Found::Document(document),
        Some(Err(error)) => Found::Broken(format!("is not what it should be: {error}")),
        // Some servers have a page for every path.
        None if !answer.status().is_server_error() => Found::Absent,
        None => Found::Broken(format!("answers with status {}", answer.status().as_u16())),
    })
}

/// Returns where protected-resource metadata is if nobody says so (RFC 9728, section 3.1).
fn resource_places(server: &Url) -> Vec<Url> {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let mut places = Vec::with_capacity(2);
    let path = server.path().trim_end_matches('/');
    if !path.is_empty() {
        let mut place = at_path(server, &format!("{WELL_KNOWN}{path}"));
        place.set_query(server.query());
        places.push(place);
    }
    places.push(at_path(server, WELL_KNOWN));
    places
}

/// Returns where authorization-server metadata is, in the order of MCP 2026-07-28.
fn server_places(issuer: &Url) -> Vec<Url> {
    const OAUTH: &str = "/.well-known/oauth-authorization-server";
    const OPENID: &str = "/.well-known/openid-configuration";
    let path = issuer.path().trim_end_matches('/');
    let mut places = vec![format!("{OAUTH}{path}"), format!("{OPENID}{path}")];
    if !path.is_empty() {
        places.push(format!("{path}{OPENID}"));
    }
    places.iter().map(|place| at_path(issuer, place)).collect()
}

fn at_path(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    url.set_path(path);
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Returns the name of a server without metadata: its URL, without what RFC 8707 does not allow in it.
fn resource_name(server: &Url) -> String {
    let url = at_path(server, server.path());
    let text = String::from(url);
    match text.strip_suffix('/') {
        Some(origin) if server.path() == "/" => origin.to_owned(),
        _ => text,
    }
}

/// Returns whether a resource is the server at a URL, or one that it is a part of.
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let path = resource.path().trim_end_matches('/');
    let rest = server.path().strip_prefix(path);
    resource.origin() == server.origin()
        && resource.origin().is_tuple()
        && resource.username().is_empty()
        && resource.fragment().is_none()
        && resource.query().is_none_or(|query| server.query() == Some(query))
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn texts(urls: Vec<Url>) -> Vec<String> {
        urls.into_iter().map(String::from).collect()
    }

    #[test]
    fn resource_metadata_is_looked_for_at_the_path_first() {
        assert_eq!(
            texts(resource_places(&url("https://a.test:8/team/mcp/?k=v"))),
            [
                "https://a.test:8/.well-known/oauth-protected-resource/team/mcp?k=v",
                "https://a.test:8/.well-known/oauth-protected-resource",
            ]
        );
        assert_eq!(
            texts(resource_places(&url("https://a.test/"))),
            ["https://a.test/.well-known/oauth-protected-resource"]
        );
    }

    #[test]
    fn server_metadata_is_looked_for_in_both_forms() {
        assert_eq!(
            texts(server_places(&url("https://a.test/tenant/1/"))),
            [
                "https://a.test/.well-known/oauth-authorization-server/tenant/1",
                "https://a.test/.well-known/openid-configuration/tenant/1",
                "https://a.test/tenant/1/.well-known/openid-configuration",
            ]
        );
        assert_eq!(
            texts(server_places(&url("https://a.test"))),
            [
                "https://a.test/.well-known/oauth-authorization-server",
                "https://a.test/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn resource_is_the_server_or_what_it_is_a_part_of() {
        let server = url("https://a.test/team/mcp?k=v");
        for resource in [
            "https://a.test/team/mcp?k=v",
            "https://a.test/team/mcp",
            "https://a.test/team/mcp/",
            "https://A.test:443/team",
            "https://a.test/",
            "https://a.test",
        ] {
            assert!(covers(resource, &server), "{resource}");
        }
        for resource in [
            "",
            "a.test",
            "https://a.test/te",
            "https://a.test/team/mcp/sub",
            "https://a.test/team/mcp?k=w",
            "https://a.test/team/mcp#x",
            "https://me@a.test/team/mcp",
            "https://a.test:444/team/mcp",
            "http://a.test/team/mcp",
            "https://b.test/team/mcp",
            "urn:x",
        ] {
            assert!(!covers(resource, &server), "{resource}");
        }
    }

    #[test]
    fn server_without_metadata_is_named_by_its_url() {
        assert_eq!(resource_name(&url("https://a.test/?k=v#x")), "https://a.test");
        assert_eq!(resource_name(&url("https://A.test/mcp/?k=v")), "https://a.test/mcp/");
    }

    #[test]
    fn server_of_2025_03_26_has_its_endpoints_at_the_root() {
        let found = AuthorizationServer::legacy(&url("https://a.test:8/mcp"));

        assert_eq!(found.issuer, "https://a.test:8");
        assert_eq!(found.authorization_endpoint.as_str(), "https://a.test:8/authorize");
        assert_eq!(found.token_endpoint.as_str(), "https://a.test:8/token");
        assert_eq!(found.registration_endpoint.unwrap().as_str(), "https://a.test:8/register");
    }
}
