//! HTTP to the identity provider. Every answer has a limit in size and time, and redirects are not followed:
//! they would lead to somebody whom nobody named.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use reqwest::redirect;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use url::Url;

/// Metadata, keys and tokens have a few kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Of a whole exchange: somebody waits, and there are up to four of them.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection, no answer, or none in time.
    #[error("`{url}` gives no answer")]
    Transport { url: String, source: reqwest::Error },
    /// It answers too much.
    #[error("`{url}` answers with more than {} KiB", BODY_BYTES_MAX / 1024)]
    Size { url: String },
    /// It answers something else.
    #[error("`{url}` answers with status {status}")]
    Status { url: String, status: StatusCode },
    /// It answers what cannot be read.
    #[error("the answer of `{url}` cannot be read")]
    Json { url: String, source: serde_json::Error },
}

/// Talks to the identity provider.
#[derive(Debug)]
pub(super) struct Http(reqwest::Client);

impl Http {
    /// `direct`: whatever proxy the environment names.
    pub(super) fn new(direct: bool) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the versions rustls takes by default")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_MAX)
            .timeout(EXCHANGE_MAX)
            .user_agent(concat!("ultra-hub/", env!("CARGO_PKG_VERSION")));
        let builder = if direct { builder.no_proxy() } else { builder };
        Self(builder.build().expect("nothing in it depends on the system"))
    }

    /// Fetches a document, with a token if there is one.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        url: &Url,
        token: Option<&str>,
    ) -> Result<T, FetchError> {
        let request = self.0.get(url.clone());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        self.json(url, request).await
    }

    /// Posts a form, as the client with this id and secret if they go into a header.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        url: &Url,
        form: &[(&str, &str)],
        basic: Option<(&str, &str)>,
    ) -> Result<T, FetchError> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = self.0.post(url.clone()).header(header::CONTENT_TYPE, kind).body(body);
        let request = match basic {
            Some((id, secret)) => request.basic_auth(encoded(id), Some(encoded(secret))),
            None => request,
        };
        self.json(url, request).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        url: &Url,
        request: reqwest::RequestBuilder,
    ) -> Result<T, FetchError> {
        // Without the query, in which something may stand that is nobody's business.
        let shown = || format!("{}{}", url.origin().ascii_serialization(), url.path());
        let failed = |source: reqwest::Error| FetchError::Transport {
            url: shown(),
            source: source.without_url(),
        };
        let accept = HeaderValue::from_static("application/json");
        let mut response = request.header(header::ACCEPT, accept).send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: shown(), status: response.status() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(FetchError::Size { url: shown() });
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|source| FetchError::Json { url: shown(), source })
    }
}

/// RFC 6749, section 2.3.1.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
