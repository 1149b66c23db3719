//! Answers: pages, the way to another one, and what went wrong.

use askama::Template;
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::{HeaderValue, StatusCode, header};

use crate::error::ApiError;
use crate::web::{Frame, Tab, Viewing};

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

/// Returns a text with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[derive(Template)]
#[template(path = "people/failure.html")]
struct Failure {
    frame: Frame,
    message: String,
}

/// Returns the page that says what went wrong.
pub(crate) fn failure(viewing: Option<Viewing>, error: &ApiError) -> Response {
    error.log();
    let (status, _, message) = error.public();
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::TOO_MANY_REQUESTS => "Too often",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => "Not available",
        _ => "Not possible",
    };
    let frame = Frame { title: title.to_owned(), tab: Tab::None, viewing };
    let page = page_with(status, &Failure { frame, message: sentence(&message) });
    let mut response = page.unwrap_or_else(IntoResponse::into_response);
    if let ApiError::RateLimited { retry_s } | ApiError::Unavailable { retry_s } = error {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_s));
    }
    response
}
