//! Somebody asks for a page: who, of which workspace, with which address; and what is answered.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};

use askama::Template;

use super::address::Address;
use super::{Frame, Site, Tab, Viewing};
use crate::access::Ability;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::events::Found;
use crate::id::WorkspaceId;

/// Says which region of the page is wanted. What is costly and outside it may be left out.
const REGION: &str = "ultra-region";

/// Somebody who may see the records of a workspace, and asks for a page of it.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) viewing: Viewing,
    pub(crate) address: Address,
    pub(crate) now_ms: i64,
    /// Only what slides out over the page is wanted.
    pub(crate) panel_only: bool,
}

impl FromRequestParts<Site> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let params = RawPathParams::from_request_parts(parts, site).await;
        let params = params.map_err(IntoResponse::into_response)?;
        let workspace = params.iter().find(|(name, _)| *name == "workspace").map(|(_, id)| id);
        let viewing = site.web.gate.enter(parts, workspace).await?;
        if !viewing.entry.role.may(Ability::SeeRecords) {
            return Err(failure(None, &ApiError::Forbidden(Ability::SeeRecords.who())));
        }
        let query = parts.uri.query().unwrap_or_default();
        let address = Address::parse(parts.uri.path(), query).map_err(|error| {
            let error = ApiError::Invalid(format!("{error}; remove some filters"));
            failed(Some(viewing.clone()), &error, true)
        })?;
        let panel_only = parts.headers.get(REGION).is_some_and(|region| region == "panel");
        Ok(Self { viewing, address, now_ms: now_ms(), panel_only })
    }
}

impl Visit {
    pub(crate) fn workspace(&self) -> WorkspaceId {
        self.viewing.entry.workspace
    }

    pub(crate) fn now_ns(&self) -> i64 {
        self.now_ms.saturating_mul(1_000_000)
    }

    /// The address of a page of this workspace.
    pub(crate) fn page(&self, path: &str) -> Address {
        Address::new(format!("/w/{}/{path}", self.workspace()))
    }

    pub(crate) fn frame(&self, title: impl Into<String>, tab: Tab) -> Frame {
        Frame { title: title.into(), tab, viewing: Some(self.viewing.clone()) }
    }

    /// Answers with a page, or says on one what went wrong.
    pub(crate) fn answer(self, page: Result<Response, ApiError>) -> Response {
        page.unwrap_or_else(|error| failed(Some(self.viewing), &error, true))
    }
}

/// Reads an id of the address; there is nothing at one that is none.
pub(crate) fn id<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound(what))
}

/// Turns what was found, or not, into an answer.
pub(crate) fn there<T>(found: Found<Option<T>>, what: &'static str) -> Result<T, ApiError> {
    found?.ok_or(ApiError::NotFound(what))
}

/// Returns a page.
pub(crate) fn html(page: &impl Template) -> Result<Response, ApiError> {
    respond(StatusCode::OK, page).map_err(|error| {
        tracing::error!(%error, "a page could not be written");
        ApiError::Unavailable { retry_s: 5 }
    })
}

fn respond(status: StatusCode, page: &impl Template) -> askama::Result<Response> {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    Ok((status, [(header::CONTENT_TYPE, kind)], page.render()?).into_response())
}

/// What went wrong, said on a page.
#[derive(Template)]
#[template(path = "error.html")]
struct Failure {
    frame: Frame,
    title: &'static str,
    message: String,
    /// Where to go from here: an address, and in words.
    way: Option<(&'static str, &'static str)>,
}

/// Says on a page what went wrong. Causes go to the log.
pub(crate) fn failure(viewing: Option<Viewing>, error: &ApiError) -> Response {
    failed(viewing, error, false)
}

fn failed(viewing: Option<Viewing>, error: &ApiError, has_filters: bool) -> Response {
    error.log();
    let (status, _, message) = error.public();
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::TOO_MANY_REQUESTS => "Too often",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => "Not available",
        _ => "Not possible",
    };
    let way = if has_filters && status == StatusCode::BAD_REQUEST {
        ("?", "Show the page without filters")
    } else {
        ("/", "Go to the first page")
    };
    let mut response = said(status, title, &message, viewing, Some(way));
    if let Some(retry_s) = error.retry_s() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
    }
    response
}

/// Says something else on a page than what was asked for.
pub(crate) fn refusal(status: StatusCode, title: &'static str, message: &str) -> Response {
    said(status, title, message, None, None)
}

fn said(
    status: StatusCode,
    title: &'static str,
    message: &str,
    viewing: Option<Viewing>,
    way: Option<(&'static str, &'static str)>,
) -> Response {
    let frame = Frame { title: title.to_owned(), tab: Tab::None, viewing };
    let page = Failure { frame, title, message: sentence(message), way };
    respond(status, &page).unwrap_or_else(|_| status.into_response())
}

/// Returns a text with a capital letter and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}
