//! What the command line asks without a browser: tokens for codes, new tokens for old ones, and an end.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::visit::Visit;
use crate::error::ApiError;
use crate::people::Issued;
use crate::people::grants::{CLIENT_ID, OAuthError};

impl From<ApiError> for OAuthError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::RateLimited { retry_s } | ApiError::Unavailable { retry_s } => {
                Self::TooOften { retry_s }
            }
            ApiError::Database(error) => Self::Database(error),
            ApiError::Invalid(_)
            | ApiError::Unauthorized
            | ApiError::Revoked
            | ApiError::Forbidden(_)
            | ApiError::NotFound(_)
            | ApiError::MethodNotAllowed
            | ApiError::Panicked { .. }
            | ApiError::Conflict(_)
            | ApiError::GapsFirst(_)
            | ApiError::TooLarge(_) => {
                Self::InvalidRequest("the request is no form in which each field is once")
            }
        }
    }
}

/// RFC 8414.
pub(super) async fn metadata(visit: Visit) -> Result<Response, ApiError> {
    let people = &visit.people;
    let metadata = json!({
        "issuer": people.issuer(),
        "authorization_endpoint": people.url("oauth/authorize"),
        "token_endpoint": people.url("oauth/token"),
        "revocation_endpoint": people.url("oauth/revoke"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": true,
    });
    Ok(Json(metadata).into_response())
}

/// RFC 6749, sections 4.1.3 and 6.
pub(super) async fn token(visit: Visit) -> Result<Response, ApiError> {
    Ok(match issue(&visit).await {
        Ok(issued) => {
            let token = json!({
                "access_token": issued.access.reveal(),
                "token_type": "Bearer",
                "expires_in": issued.expires_in_s,
                "refresh_token": issued.refresh.reveal(),
            });
            Json(token).into_response()
        }
        Err(error) => refusal(error),
    })
}

async fn issue(visit: &Visit) -> Result<Issued, OAuthError> {
    let form = &visit.form;
    let needed = |name, missing| form.get(name).ok_or(OAuthError::InvalidRequest(missing));
    let address = visit.device.address;
    match form.get("grant_type") {
        Some("authorization_code") => {
            client(needed("client_id", "`client_id` is missing")?)?;
            let code = needed("code", "`code` is missing")?;
            let redirect_uri = needed("redirect_uri", "`redirect_uri` is missing")?;
            let verifier = needed("code_verifier", "`code_verifier` is missing")?;
            visit.people.exchange(code, redirect_uri, verifier, address).await
        }
        Some("refresh_token") => {
            client(needed("client_id", "`client_id` is missing")?)?;
            visit
                .people
                .refresh(needed("refresh_token", "`refresh_token` is missing")?, address)
                .await
        }
        Some(_) => Err(OAuthError::UnsupportedGrantType),
        None => Err(OAuthError::InvalidRequest("`grant_type` is missing")),
    }
}

/// RFC 7009. A token that is not known is as good as revoked.
pub(super) async fn revoke(visit: Visit) -> Result<Response, ApiError> {
    let revoked = async {
        let needed =
            |name, missing| visit.form.get(name).ok_or(OAuthError::InvalidRequest(missing));
        client(needed("client_id", "`client_id` is missing")?)?;
        visit.people.revoke_token(needed("token", "`token` is missing")?).await?;
        Ok(())
    };
    Ok(match revoked.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refusal(error),
    })
}

fn client(id: &str) -> Result<(), OAuthError> {
    if id == CLIENT_ID { Ok(()) } else { Err(OAuthError::InvalidClient) }
}

/// RFC 6749, section 5.2.
pub(super) fn refusal(error: OAuthError) -> Response {
    let (status, retry_s) = match &error {
        OAuthError::InvalidClient => (StatusCode::UNAUTHORIZED, None),
        OAuthError::TooOften { retry_s } => (StatusCode::TOO_MANY_REQUESTS, Some(*retry_s)),
        OAuthError::Database(_) => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
        OAuthError::InvalidRequest(_)
        | OAuthError::InvalidGrant(_)
        | OAuthError::UnsupportedGrantType
        | OAuthError::UnsupportedResponseType
        | OAuthError::AccessDenied => (StatusCode::BAD_REQUEST, None),
    };
    let word = error.word();
    let description = match error {
        OAuthError::Database(error) => {
            ApiError::Database(error).log();
            "not available for now; try again later".to_owned()
        }
        other => other.to_string(),
    };
    let body = json!({ "error": word, "error_description": description });
    let mut response = (status, Json(body)).into_response();
    if let Some(retry_s) = retry_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
    }
    response
}
