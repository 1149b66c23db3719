//! One export to a collector: OTLP over gRPC or over HTTP, in the clear or over TLS.
//!
//! Sends what it is given and says what became of it. Retries and deadlines are the worker's.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions};
use tonic_prost::ProstCodec;

use crate::config::{Observability, OtlpProtocol};
use crate::tls;

/// A collector answers with a few bytes; this much of an answer is read.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// So much of what a collector says is worth a log line.
const MESSAGE_BYTES_MAX: usize = 200;

/// No collector makes us wait longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The two things that are sent, and where (OTLP specification 1.9, "OTLP/gRPC" and "OTLP/HTTP").
const TRACES: Signal = Signal {
    rpc: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    path: "/v1/traces",
};
const METRICS: Signal = Signal {
    rpc: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    path: "/v1/metrics",
};

struct Signal {
    rpc: &'static str,
    path: &'static str,
}

/// Why an endpoint or its headers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The setting is no address.
    #[error("`observability.endpoint` is `{endpoint}`: {reason}")]
    Endpoint {
        /// The setting.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A header cannot be sent. Its value may be a secret and is not named.
    #[error("`observability.headers` has `{name}`: {reason}")]
    Header {
        /// The header.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where to export to, and how: validated settings.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// As the user wrote it, for log lines.
    pub(super) display: String,
    protocol: OtlpProtocol,
    scheme: Scheme,
    authority: Authority,
    /// What stands before `/v1/traces`.
    base_path: String,
    headers: HeaderMap,
}

impl Endpoint {
    /// Reads the settings.
    pub(super) fn new(config: &Observability) -> Result<Self, EndpointError> {
        let endpoint = config.endpoint.trim();
        let wrong = |reason| EndpointError::Endpoint { endpoint: endpoint.to_owned(), reason };
        if endpoint.is_empty() {
            return Err(wrong("it must name a collector, such as `localhost:4317`"));
        }
        let default_port = match config.protocol {
            OtlpProtocol::Grpc => 4317,
            OtlpProtocol::HttpProtobuf => 4318,
        };
        // `host:port` alone would be read as a scheme, and a lone `host` takes OTLP's port.
        let (url, port) = if endpoint.contains("://") {
            (endpoint.to_owned(), None)
        } else {
            (format!("http://{endpoint}"), Some(default_port))
        };
        let parts = url.parse::<Uri>().map_err(|_| wrong("it is no URL"))?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(wrong("it names no host"));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(wrong("its scheme must be `http` or `https`"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("credentials belong into `observability.headers`"));
        }
        let authority = match (authority.port(), port) {
            (None, Some(port)) => {
                format!("{authority}:{port}").parse().map_err(|_| wrong("it is no URL"))?
            }
            (Some(_), _) | (_, None) => authority,
        };
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err(wrong("it must have no query"));
        }
        let base_path = path.path().trim_end_matches('/');
        let base_path = base_path.strip_suffix(TRACES.path).unwrap_or(base_path);
        let base_path = base_path.strip_suffix(METRICS.path).unwrap_or(base_path);
        if config.protocol == OtlpProtocol::Grpc && !path.path().trim_end_matches('/').is_empty() {
            return Err(wrong(
                "gRPC takes no path; with `observability.protocol: http` it may have one",
            ));
        }
        Ok(Self {
            display: endpoint.to_owned(),
            protocol: config.protocol,
            scheme,
            authority,
            base_path: base_path.to_owned(),
            headers: headers(config)?,
        })
    }

    fn uri(&self, path: &str) -> Uri {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .expect("made of parts of a URI")
    }
}

/// Reads the headers that go with every export.
fn headers(config: &Observability) -> Result<HeaderMap, EndpointError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let wrong = |reason| EndpointError::Header { name: name.clone(), reason };
        let key: HeaderName = name.parse().map_err(|_| wrong("it is no header name"))?;
        let ours =
            ["host", "connection", "content-length", "content-type", "te", "transfer-encoding"];
        if ours.contains(&key.as_str())
            || key.as_str().starts_with("grpc-")
            || key.as_str().ends_with("-bin")
        {
            return Err(wrong("the protocol sets this header itself"));
        }
        let mut value: HeaderValue =
            value.parse().map_err(|_| wrong("its value cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    headers
        .insert(USER_AGENT, HeaderValue::from_static(concat!("ultra/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}

/// Why a collector did not take an export.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("no answer within {} s", limit.as_secs_f32())]
    Timeout { limit: Duration },
    #[error("the gateway ends")]
    Over,
    #[error("{reason}")]
    Transport { reason: String },
    #[error("HTTP status {status}")]
    Http { status: StatusCode, retry_after: Option<Duration> },
    #[error("gRPC status {code:?}: {message}")]
    Grpc { code: Code, message: String },
    #[error("its answer is no OTLP")]
    Answer,
}

impl ExportError {
    /// Returns whether the same export may be taken later (OTLP specification 1.9, "Failures" and
    /// "Retryable Response Codes").
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Transport { .. } => true,
            Self::Over | Self::Answer => false,
            Self::Http { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Grpc { code, .. } => matches!(
                code,
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        }
    }

    /// Returns how long the collector wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            Self::Timeout { .. }
            | Self::Over
            | Self::Transport { .. }
            | Self::Grpc { .. }
            | Self::Answer => None,
        }
    }
}

/// What a collector said about an export that it took.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Spans or data points it refused nevertheless.
    pub(super) rejected: u64,
    /// Why, in its words.
    pub(super) message: String,
}

/// A connection to a collector, made when it is needed and again after it broke.
pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    tls: ClientConfig,
    http: Http,
}

/// Speaks the HTTP below both protocols, and keeps connections.
type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Body>;

impl Client {
    /// Prepares the connection. Certificates are checked against `roots`, or else the system's.
    pub(super) fn new(endpoint: Endpoint, roots: Option<RootCertStore>) -> Self {
        let roots = match roots {
            Some(roots) => Arc::new(roots),
            None if endpoint.scheme == Scheme::HTTPS => tls::system_roots(),
            None => Arc::new(RootCertStore::empty()),
        };
        let tls = tls::client(roots);
        let http = connect(endpoint.protocol, tls.clone());
        Self { endpoint, tls, http }
    }

    /// Forgets all connections. One that took an export and said nothing may be dead without knowing.
    pub(super) fn reconnect(&mut self) {
        self.http = connect(self.endpoint.protocol, self.tls.clone());
    }

    /// Sends spans.
    pub(super) async fn traces(
        &self,
        request: ExportTraceServiceRequest,
    ) -> Result<Answer, ExportError> {
        let answer: ExportTraceServiceResponse = self.export(&TRACES, request).await?;
        Ok(answer.partial_success.map_or_else(Answer::default, |partial| Answer {
            rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
            message: brief(&partial.error_message),
        }))
    }

    /// Sends metrics.
    pub(super) async fn metrics(
        &self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Answer, ExportError> {
        let answer: ExportMetricsServiceResponse = self.export(&METRICS, request).await?;
        Ok(answer.partial_success.map_or_else(Answer::default, |partial| Answer {
            rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0),
            message: brief(&partial.error_message),
        }))
    }

    async fn export<Q, A>(&self, signal: &Signal, request: Q) -> Result<A, ExportError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        match self.endpoint.protocol {
            OtlpProtocol::Grpc => self.call(signal, request).await,
            OtlpProtocol::HttpProtobuf => self.post(signal, &request).await,
        }
    }

    async fn call<Q, A>(&self, signal: &Signal, request: Q) -> Result<A, ExportError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let metadata = MetadataMap::from_headers(self.endpoint.headers.clone());
        let request = tonic::Request::from_parts(metadata, Extensions::default(), request);
        let mut grpc = tonic::client::Grpc::with_origin(self.http.clone(), self.endpoint.uri("/"))
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let path = PathAndQuery::from_static(signal.rpc);
        match grpc.unary(request, path, ProstCodec::default()).await {
            Ok(answer) => Ok(answer.into_inner()),
            // A status with a source was made here, of an error on the way.
            Err(status) => Err(match status.source() {
                Some(source) => ExportError::Transport { reason: chain(source) },
                None => ExportError::Grpc { code: status.code(), message: brief(status.message()) },
            }),
        }
    }

    async fn post<A: Message + Default>(
        &self,
        signal: &Signal,
        request: &impl Message,
    ) -> Result<A, ExportError> {
        let body = Body::new(Full::new(bytes::Bytes::from(request.encode_to_vec())));
        let mut post = Request::new(body);
        *post.method_mut() = Method::POST;
        *post.uri_mut() = self.endpoint.uri(&format!("{}{}", self.endpoint.base_path, signal.path));
        *post.headers_mut() = self.endpoint.headers.clone();
        post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = self.http.request(post).await;
        let answer = answer.map_err(|error| ExportError::Transport { reason: chain(&error) })?;
        let status = answer.status();
        if status != StatusCode::OK {
            let retry_after = answer
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after =
                retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            return Err(ExportError::Http { status, retry_after });
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| ExportError::Transport { reason: chain(&*error) })?;
        A::decode(body.to_bytes()).map_err(|_| ExportError::Answer)
    }
}

/// Prepares connections for a protocol.
fn connect(protocol: OtlpProtocol, tls: ClientConfig) -> Http {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
    match protocol {
        OtlpProtocol::Grpc => builder.http2_only(true).build(connector.enable_http2().build()),
        OtlpProtocol::HttpProtobuf => builder.build(connector.enable_http1().build()),
    }
}

/// Joins an error and its causes, in brief.
fn chain(error: &dyn Error) -> String {
    brief(&crate::chain(error))
}

/// Returns what of somebody else's message is worth a log line.
fn brief(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned()
}
