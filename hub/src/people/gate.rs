//! Who is at a page: a session, and a role.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use url::form_urlencoded::byte_serialize;

use super::People;
use super::cookies::{Channel, Cookie, host};
use super::sessions::Session;
use crate::access::{Ability, Entry};
use crate::error::ApiError;
use crate::id::WorkspaceId;
use crate::secret::equal;
use crate::web::people::failure;
use crate::web::{Gate, Viewing};

/// What the page's own script says when it asks for news.
const LIVE: &str = "x-ultra-live";

/// Of an address to come back to.
const RETURN_BYTES_MAX: usize = 2048;

/// Lets people in who have a session.
pub(crate) struct HubGate {
    people: Arc<People>,
}

impl HubGate {
    pub(crate) fn new(people: Arc<People>) -> Self {
        Self { people }
    }
}

#[async_trait]
impl Gate for HubGate {
    async fn enter(&self, parts: &Parts, workspace: Option<&str>) -> Result<Viewing, Response> {
        let refused = |error: ApiError| refusal(parts, error);
        let session = self.people.session_of(parts).await.map_err(refused)?;
        let session = session.ok_or_else(|| to_sign_in(parts))?;
        let viewing = self.people.viewing(&session, workspace).await.map_err(refused)?;
        // Nothing to see, but perhaps an invite.
        viewing.ok_or_else(|| Redirect::to("/invites").into_response())
    }
}

impl People {
    /// Returns whose session a request has.
    pub(crate) async fn session_of(&self, parts: &Parts) -> Result<Option<Session>, ApiError> {
        match Cookie::Session.read(Channel::of(parts), &parts.headers) {
            Some(ticket) => Ok(self.session(&ticket).await?),
            None => Ok(None),
        }
    }

    /// Returns what somebody sees in a workspace; without one in the first they may see, if there is any.
    pub(crate) async fn viewing(
        &self,
        session: &Session,
        workspace: Option<&str>,
    ) -> Result<Option<Viewing>, ApiError> {
        let entries = self.entries(session.account.id).await?;
        let may_see = |entry: &&Entry| entry.role.may(Ability::SeeRecords);
        let entry = match workspace {
            None => entries.iter().find(may_see).cloned(),
            Some(id) => {
                let missing = || ApiError::NotFound("workspace");
                let id: WorkspaceId = id.parse().map_err(|_| missing())?;
                let entry =
                    entries.iter().find(|entry| entry.workspace == id).ok_or_else(missing)?;
                if !may_see(&entry) {
                    return Err(ApiError::Forbidden(Ability::SeeRecords.who()));
                }
                Some(entry.clone())
            }
        };
        let Some(entry) = entry else { return Ok(None) };
        let entries =
            entries.into_iter().filter(|entry| entry.role.may(Ability::SeeRecords)).collect();
        let (account, csrf) = (Some(session.account.clone()), session.csrf.clone());
        Ok(Some(Viewing { account, entry, entries, csrf }))
    }

    /// Makes sure that a form comes from one of our own pages. `csrf` is what the page was given, `given`
    /// what the form says.
    pub(crate) fn check_form(
        &self,
        parts: &Parts,
        csrf: &str,
        given: Option<&str>,
    ) -> Result<(), ApiError> {
        self.check_site(parts)?;
        match given {
            Some(given) if equal(csrf, given) => Ok(()),
            Some(_) | None => {
                let message = "this form is of another session; load the page again";
                Err(ApiError::Invalid(message.to_owned()))
            }
        }
    }

    /// Makes sure that a request does not come from a page of somebody else.
    pub(crate) fn check_site(&self, parts: &Parts) -> Result<(), ApiError> {
        let value = |name: &str| parts.headers.get(name).map(http::HeaderValue::as_bytes);
        let is_ours = match (value("sec-fetch-site"), value("origin")) {
            // `none`: somebody typed the address.
            (Some(site), _) => site == b"same-origin" || site == b"none",
            (None, Some(origin)) => self.is_own_origin(parts, origin),
            // No browser. Whoever has no cookie can do nothing, whoever has one needs the form's token too.
            (None, None) => true,
        };
        if is_ours { Ok(()) } else { Err(ApiError::Forbidden("this site's own pages")) }
    }

    fn is_own_origin(&self, parts: &Parts, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        let scheme = if Channel::of(parts) == Channel::Secure { "https" } else { "http" };
        let asked = host(&parts.uri, &parts.headers).map(|host| format!("{scheme}://{host}"));
        origin == self.public_url().origin().ascii_serialization()
            || asked.as_deref() == Some(origin)
    }
}

/// Whether a program asks, which cannot do anything with a page.
fn is_program(headers: &HeaderMap) -> bool {
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    headers.contains_key(LIVE)
        || (!accept.is_empty() && !accept.contains("text/html") && !accept.contains("*/*"))
}

/// Answers with what went wrong: on a page, or for a program.
fn refusal(parts: &Parts, error: ApiError) -> Response {
    if is_program(&parts.headers) { error.into_response() } else { failure(None, &error) }
}

/// Answers with the way to sign in and back; programs are just told.
pub(crate) fn to_sign_in(parts: &Parts) -> Response {
    if is_program(&parts.headers) {
        return ApiError::Unauthorized.into_response();
    }
    let here = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    if parts.method != Method::GET || here == "/" {
        return Redirect::to("/sign-in").into_response();
    }
    let here: String = byte_serialize(here.as_bytes()).collect();
    Redirect::to(&format!("/sign-in?return_to={here}")).into_response()
}

/// Returns where to go after sign-in: a page of this site, and no way out of it.
pub(crate) fn local(return_to: Option<&str>) -> &str {
    let is_local = |path: &str| {
        let plain = |char: char| !char.is_control() && char != '\\' && !char.is_whitespace();
        let begins = path.starts_with('/') && !path.starts_with("//");
        begins
            && path.len() <= RETURN_BYTES_MAX
            && path.chars().all(plain)
            && !path.starts_with("/sign-")
    };
    return_to.filter(|path| is_local(path)).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_away_after_sign_in() {
        for good in [
            "/",
            "/w/ws_1/traces?status=error",
            "/oauth/authorize?redirect_uri=http%3A%2F%2F127.0.0.1",
        ] {
            assert_eq!(local(Some(good)), good);
        }
        for bad in [
            "",
            "x",
            "//evil.test",
            "///evil.test",
            "/\\evil.test",
            "\\\\evil.test",
            "https://evil.test",
            "/\t/evil.test",
            "/\n//evil.test",
            "javascript:alert(1)",
            "/sign-in?return_to=/",
            "/sign-out",
            " /",
            "/ /x",
            "@evil.test",
            &format!("/{}", "x".repeat(RETURN_BYTES_MAX)),
        ] {
            assert_eq!(local(Some(bad)), "/", "{bad:?}");
        }
        assert_eq!(local(None), "/");
    }
}
