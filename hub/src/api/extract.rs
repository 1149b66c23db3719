//! What a request has to have: somebody who may, a body, parameters. What is not as described is answered
//! with a [`Problem`](crate::wire::Problem), like everything else that goes wrong.
//!
//! Who asks is found out first: of strangers nothing is read.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::IntoResponse;
use http::request::Parts;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::{Api, BODY_BYTES_MAX};
use crate::access::{Ability, Account, Entry};
use crate::error::ApiError;
use crate::fleet::Known;
use crate::people::keys::DeployKey;
use crate::secret::{Purpose, Secret, bearer};

/// Of what a parser says: it repeats what was sent.
const REASON_CHARS_MAX: usize = 200;

/// A gateway that showed its secret.
pub(crate) struct Device(pub(crate) Known);

impl FromRequestParts<Api> for Device {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthorized)?;
        let secret = Secret::parse(Purpose::Gateway, token).ok_or(ApiError::Unauthorized)?;
        api.links.known(&secret).await.map(Self)
    }
}

/// Somebody with an access token, who does not ask too often.
pub(super) struct Somebody(pub(super) Account);

impl FromRequestParts<Api> for Somebody {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let account = api.people.bearer(&parts.headers).await?;
        api.room.reads.check(account.id.number())?;
        Ok(Self(account))
    }
}

/// Likewise, in the workspace of the path, whose records they may see.
pub(super) struct Reader(pub(super) Entry);

impl FromRequestParts<Api> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Somebody(account) = Somebody::from_request_parts(parts, api).await?;
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, api).await;
        let path = path.map_err(|_| ApiError::NotFound("workspace"))?;
        let workspace = path.get("workspace").and_then(|id| id.parse().ok());
        let workspace = workspace.ok_or(ApiError::NotFound("workspace"))?;
        api.people.entry(account.id, workspace, Ability::SeeRecords).await.map(Self)
    }
}

/// Somebody who may let gateways in, and does not do so too often.
pub(super) enum Linker {
    Person(Account),
    Key(DeployKey),
}

impl FromRequestParts<Api> for Linker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthorized)?;
        let (linker, number) = if token.starts_with(Purpose::DeployKey.prefix()) {
            let secret = Secret::parse(Purpose::DeployKey, token).ok_or(ApiError::Unauthorized)?;
            let key = api.people.deploy_key(&secret).await?;
            let number = key.id.number();
            (Self::Key(key), number)
        } else {
            let account = api.people.bearer(&parts.headers).await?;
            let number = account.id.number();
            (Self::Person(account), number)
        };
        api.room.links.check(number)?;
        Ok(linker)
    }
}

/// A JSON body.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::Invalid("send the body as `application/json`".to_owned()));
        }
        let bytes = Bytes::from_request(request, api).await.map_err(|rejection| {
            if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::TooLarge(BODY_BYTES_MAX)
            } else {
                ApiError::Invalid("the body ended before its end".to_owned())
            }
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| unlike("the body", &error))
    }
}

/// What stands behind the path.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _api: &Api) -> Result<Self, ApiError> {
        let asked = Query::try_from_uri(&parts.uri);
        asked.map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let cause = std::error::Error::source(&rejection);
            unlike("the query", cause.unwrap_or(&rejection))
        })
    }
}

fn unlike(what: &str, error: &dyn std::error::Error) -> ApiError {
    let reason: String = error.to_string().chars().take(REASON_CHARS_MAX).collect();
    ApiError::Invalid(format!("{what} is not as `/api/openapi.json` describes it: {reason}"))
}
