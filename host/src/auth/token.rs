//! The token endpoint: a code or a refresh token for tokens, with the `oauth2` crate.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use oauth2::basic::{BasicClient, BasicErrorResponse, BasicTokenResponse, BasicTokenType};
use oauth2::{
    AsyncHttpClient, AuthType, AuthorizationCode, ClientId, ClientSecret, HttpRequest,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, TokenResponse, TokenUrl,
};
use url::Url;

use super::AuthError;
use super::error::quoted;
use super::fetch::{Answer, FetchError, Fetcher};
use super::register::{Identity, Method};
use super::secret::Secret;

/// In the form even where the header names the client: the MCP SDK for Python looks for it there.
const CLIENT_ID: &str = "client_id";

/// What a token endpoint gives out.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) access: Secret,
    pub(super) refresh: Option<Secret>,
    pub(super) lifetime: Option<Duration>,
    pub(super) scopes: Option<Vec<String>>,
}

/// A token endpoint, and who asks there for which resource.
pub(super) struct TokenEndpoint<'a> {
    pub(super) url: &'a Url,
    pub(super) identity: &'a Identity,
    pub(super) resource: &'a str,
}

/// Why there are no tokens.
#[derive(Debug)]
pub(super) enum TokenError {
    /// It says no, with an error code of RFC 6749, section 5.2.
    Refused { code: String, description: String },
    /// There is no answer.
    Fetch(FetchError),
    /// There is one of no use.
    Answer(String),
}

impl TokenError {
    /// Returns whether the same request will be refused again.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                !matches!(code.as_str(), "server_error" | "temporarily_unavailable" | "slow_down")
            }
            Self::Fetch(_) | Self::Answer(_) => false,
        }
    }

    /// Returns whether the authorization server does not know the client.
    pub(super) fn is_unknown_client(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "invalid_client" || code == "unauthorized_client")
    }

    /// Makes it an error of the authorization server.
    pub(super) fn at(self, issuer: &str) -> AuthError {
        let reason = match self {
            Self::Fetch(error) => return error.into(),
            Self::Refused { code, description } if description.is_empty() => code,
            Self::Refused { code, description } => format!("{code}, {description}"),
            Self::Answer(reason) => reason,
        };
        AuthError::Denied { issuer: issuer.to_owned(), reason }
    }
}

impl TokenEndpoint<'_> {
    /// Redeems a code.
    pub(super) async fn redeem(
        &self,
        fetcher: &Fetcher,
        code: String,
        verifier: PkceCodeVerifier,
        redirect_uri: &str,
    ) -> Result<Tokens, TokenError> {
        let redirect_uri = RedirectUrl::new(redirect_uri.to_owned())
            .map_err(|error| TokenError::Answer(error.to_string()))?;
        let client = self.client().set_redirect_uri(redirect_uri);
        let mut request = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(verifier)
            .add_extra_param("resource", self.resource);
        if self.identity.method == Method::Basic {
            request = request.add_extra_param(CLIENT_ID, &self.identity.id);
        }
        tokens(request.request_async(fetcher).await)
    }

    /// Gets the next access token, and often the next refresh token with it.
    pub(super) async fn refresh(
        &self,
        fetcher: &Fetcher,
        refresh_token: &Secret,
    ) -> Result<Tokens, TokenError> {
        let refresh_token = RefreshToken::new(refresh_token.expose().to_owned());
        let client = self.client();
        let mut request = client
            .exchange_refresh_token(&refresh_token)
            .add_extra_param("resource", self.resource);
        if self.identity.method == Method::Basic {
            request = request.add_extra_param(CLIENT_ID, &self.identity.id);
        }
        tokens(request.request_async(fetcher).await)
    }

    fn client(&self) -> Client {
        let client = BasicClient::new(ClientId::new(self.identity.id.clone()))
            .set_token_uri(TokenUrl::from_url(self.url.clone()))
            .set_auth_type(match self.identity.method {
                Method::Basic => AuthType::BasicAuth,
                Method::None | Method::Post => AuthType::RequestBody,
            });
        match &self.identity.secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose().to_owned())),
            None => client,
        }
    }
}

impl<'c> AsyncHttpClient<'c> for Fetcher {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

/// A client that knows its token endpoint and nothing else.
type Client = BasicClient<
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
>;

fn tokens(
    answer: Result<BasicTokenResponse, RequestTokenError<FetchError, BasicErrorResponse>>,
) -> Result<Tokens, TokenError> {
    let answer = answer.map_err(|error| match error {
        RequestTokenError::ServerResponse(said) => TokenError::Refused {
            code: quoted(said.error().as_ref()),
            description: quoted(said.error_description().map_or("", String::as_str)),
        },
        RequestTokenError::Request(error) => TokenError::Fetch(error),
        // The bytes that are no answer may hold a token.
        RequestTokenError::Parse(error, _) => {
            TokenError::Answer(format!("its answer is none of OAuth at `{}`", error.path()))
        }
        RequestTokenError::Other(reason) => TokenError::Answer(quoted(&reason)),
    })?;
    if !matches!(answer.token_type(), BasicTokenType::Bearer) {
        return Err(TokenError::Answer("it gives out no bearer token".into()));
    }
    let scopes =
        |scopes: &Vec<oauth2::Scope>| scopes.iter().map(|scope| scope.to_string()).collect();
    Ok(Tokens {
        access: Secret::new(answer.access_token().secret().clone()),
        refresh: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
        lifetime: answer.expires_in(),
        scopes: answer.scopes().map(scopes),
    })
}
