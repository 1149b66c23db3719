//! Answers: pages, the way to another one, and what went wrong.

use askama::Template;
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::{HeaderValue, StatusCode, header};

use crate::error::ApiError;
use crate::web::sentence;

pub(crate) use crate::web::failure;

/// Returns a page.
pub(super) fn page(template: &impl Template) -> Result<Response, ApiError> {
    page_with(StatusCode::OK, template)
}

/// Returns a page that says that something is wrong.
pub(super) fn page_with(
    status: StatusCode,
    template: &impl Template,
) -> Result<Response, ApiError> {
    match template.render() {
        Ok(html) => Ok((status, Html(html)).into_response()),
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            Err(ApiError::Unavailable { retry_s: 60 })
        }
    }
}

/// Leads to another page, which is loaded with `GET`.
pub(super) fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// Adds a cookie to an answer.
pub(super) fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// What somebody can do something about, on the page where they did it; everything else is an error.
pub(super) fn correctable(error: ApiError) -> Result<(StatusCode, String), ApiError> {
    match error {
        ApiError::Invalid(_)
        | ApiError::Conflict(_)
        | ApiError::Forbidden(_)
        | ApiError::RateLimited { .. } => {
            let (status, _, message) = error.public();
            Ok((status, sentence(&message)))
        }
        other => Err(other),
    }
}
