//! The page that asks whether the command line may act for somebody.

use askama::Template;
use axum::response::Response;
use http::{HeaderValue, header};
use url::{Host, Url};

use super::answer::{page, see};
use super::fields::Fields;
use super::visit::Visit;
use crate::error::ApiError;
use crate::people::grants::{Asked, Authorization, CLIENT_ID, OAuthError, Redirect};
use crate::web::{Frame, POLICY};

#[derive(Template)]
#[template(path = "people/authorize.html")]
struct Page {
    frame: Frame,
    csrf: String,
    email: String,
    client_id: &'static str,
    redirect_uri: String,
    /// Where the program listens.
    place: String,
    state: Option<String>,
    challenge: String,
}

fn asked(fields: &Fields) -> Asked<'_> {
    Asked {
        response_type: fields.get("response_type"),
        client_id: fields.get("client_id"),
        redirect_uri: fields.get("redirect_uri"),
        state: fields.get("state"),
        code_challenge: fields.get("code_challenge"),
        code_challenge_method: fields.get("code_challenge_method"),
    }
}

/// Returns the answer that a client gets instead of a code.
fn refused(visit: &Visit, redirect: &Redirect, error: &OAuthError) -> Response {
    let answer = [("error", error.word()), ("error_description", &error.to_string())];
    see(redirect.with(&answer, visit.people.issuer()).as_str())
}

/// Asks.
pub(super) async fn form(visit: Visit) -> Result<Response, ApiError> {
    let asked = asked(&visit.query);
    let redirect = Redirect::parse(&asked)?;
    let authorization = match Authorization::parse(&asked, &redirect) {
        Ok(authorization) => authorization,
        Err(error) => return Ok(refused(&visit, &redirect, &error)),
    };
    let session = visit.session()?;
    let url = &authorization.redirect.url;
    let mut response = page(&Page {
        frame: Visit::outside("Allow the command line"),
        csrf: session.csrf.clone(),
        email: session.account.email.clone(),
        client_id: CLIENT_ID,
        redirect_uri: url.to_string(),
        place: url.origin().ascii_serialization(),
        state: authorization.redirect.state.clone(),
        challenge: authorization.challenge,
    })?;
    let policy = format!("{POLICY} {}", source(url));
    let policy = HeaderValue::try_from(policy).map_err(|_| ApiError::NotFound("client"))?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Returns what the form may lead to, as a policy says it.
///
/// A policy has no words for an address of IPv6 (CSP Level 3, section 2.3.1: a host is letters, digits and
/// hyphens), so there it is everything by `http`. What it leads to stands in the form, which is ours.
fn source(url: &Url) -> String {
    match url.host() {
        Some(Host::Ipv6(_)) => "http:".to_owned(),
        Some(Host::Ipv4(_) | Host::Domain(_)) | None => url.origin().ascii_serialization(),
    }
}

/// Hands out a code, or says that it was refused.
pub(super) async fn decide(visit: Visit) -> Result<Response, ApiError> {
    let asked = asked(&visit.form);
    let redirect = Redirect::parse(&asked)?;
    let authorization = match Authorization::parse(&asked, &redirect) {
        Ok(authorization) => authorization,
        Err(error) => return Ok(refused(&visit, &redirect, &error)),
    };
    if visit.form.get("decision") != Some("allow") {
        return Ok(refused(&visit, &authorization.redirect, &OAuthError::AccessDenied));
    }
    let code = visit.people.grant(&visit.by()?, &authorization).await?;
    let answer = [("code", code.reveal())];
    Ok(see(authorization.redirect.with(&answer, visit.people.issuer()).as_str()))
}
