//! What goes wrong with a request, and the only place that says so to whoever made it.
//!
//! Causes go to the log; what is written here is all that leaves the Hub.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::db::DbError;
use crate::wire::{Problem, Span};

/// Why a request was refused, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Something is wrong with what was sent. The text is for whoever sent it.
    #[error("{0}")]
    Invalid(String),
    /// Nobody is known by these credentials.
    #[error("not signed in")]
    Unauthorized,
    /// Somebody was, once.
    #[error("revoked")]
    Revoked,
    /// Not for this role. The text says who may.
    #[error("forbidden: {0}")]
    Forbidden(&'static str),
    /// There is no such thing, or it is none of the asker's business.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// There is something at this path, but nothing that is done in this way.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// There is one already. The text says what.
    #[error("{0}")]
    Conflict(String),
    /// Gaps must be filled first.
    #[error("gaps first")]
    GapsFirst(Vec<Span>),
    /// More bytes than are taken.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// Too often.
    #[error("too often")]
    RateLimited { retry_s: u64 },
    /// Not now.
    #[error("not available")]
    Unavailable { retry_s: u64 },
    /// Our fault.
    #[error(transparent)]
    Database(#[from] DbError),
    /// Our fault too: what answers the request panicked.
    #[error("panicked: {message}")]
    Panicked { message: String },
}

impl ApiError {
    /// Returns what is said of it: a status, a word that does not change, a text for people.
    pub(crate) fn public(&self) -> (StatusCode, &'static str, String) {
        let (status, word, message) = match self {
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, "invalid", message.clone()),
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "sign in first".to_owned())
            }
            Self::Revoked => {
                let message = "this access was revoked; link the gateway or sign in again";
                (StatusCode::UNAUTHORIZED, "revoked", message.to_owned())
            }
            Self::Forbidden(who) => (StatusCode::FORBIDDEN, "forbidden", format!("only {who} may")),
            Self::NotFound(what) => {
                (StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
            }
            Self::MethodNotAllowed => {
                let message = "this path takes other methods; `Allow` says which";
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message.to_owned())
            }
            Self::Conflict(message) => (StatusCode::CONFLICT, "conflict", message.clone()),
            Self::GapsFirst(_) => {
                let message = "too many gaps in this stream; send what is missing first";
                (StatusCode::CONFLICT, "gaps_first", message.to_owned())
            }
            Self::TooLarge(bytes_max) => {
                let message = format!("at most {bytes_max} bytes are taken");
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            }
            Self::RateLimited { retry_s } => {
                let message = format!("too often; try again in {retry_s} s");
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            }
            Self::Unavailable { .. } | Self::Database(DbError::Unavailable { .. }) => {
                let message = "not available for now; try again later";
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", message.to_owned())
            }
            Self::Database(DbError::Exists) => {
                (StatusCode::CONFLICT, "conflict", "there is one already".to_owned())
            }
            Self::Database(
                DbError::Refused { .. } | DbError::Column { .. } | DbError::TooNew { .. },
            )
            | Self::Panicked { .. } => {
                let message = "the Hub failed; its log says why";
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", message.to_owned())
            }
        };
        (status, word, message)
    }

    /// When it may be tried again, if that is known.
    pub(crate) fn retry_s(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_s } | Self::Unavailable { retry_s } => Some(*retry_s),
            Self::Database(DbError::Unavailable { .. }) => Some(5),
            _ => None,
        }
    }

    /// Writes to the log what must not be said to the asker.
    pub(crate) fn log(&self) {
        if matches!(self, Self::Panicked { .. } | Self::Database(_))
            && !matches!(self, Self::Database(DbError::Exists))
        {
            tracing::error!(error = chain(self), "a request failed");
        }
    }
}

/// The word of a refusal, on its answer: for those who count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word(pub(crate) &'static str);

/// Returns what happened with all causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let (status, error, message) = self.public();
        let retry_s = self.retry_s();
        let spans = match self {
            Self::GapsFirst(spans) => Some(spans),
            _ => None,
        };
        let problem = Problem { error: error.to_owned(), message, spans };
        let mut response = (status, Json(problem)).into_response();
        response.extensions_mut().insert(Word(error));
        if let Some(retry_s) = retry_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 15.5.2.
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
