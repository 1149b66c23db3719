//! A collector that takes, refuses or hangs as it is told, over both protocols on one port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tower_service::Service;

/// A throw-away authority, a certificate of its for `localhost`, and its key. They guard nothing.
const CA: &[u8] = include_bytes!("../testdata/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../testdata/cert.pem");
const KEY: &[u8] = include_bytes!("../testdata/key.pem");

/// What the collector does with an export.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behaviour {
    Take,
    /// Takes all but so many.
    TakePart(i64),
    /// Answers with this status of the protocol.
    Refuse(u16),
    Hang,
}

#[derive(Debug)]
pub(super) struct Received {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) export: Export,
}

#[derive(Debug)]
pub(super) enum Export {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

pub(super) struct Collector {
    pub(super) address: SocketAddr,
    shared: Shared,
    received: mpsc::UnboundedReceiver<Received>,
    /// Traces that arrived before metrics that were asked for, and the other way round.
    put_back: VecDeque<Received>,
    tasks: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicUsize>,
    sender: mpsc::UnboundedSender<Received>,
}

/// An address that nobody listens at, for now.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(super) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    roots
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

impl Collector {
    pub(super) async fn start() -> Self {
        Self::listen(free_address(), None).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        Self::listen(address, None).await
    }

    pub(super) async fn start_tls() -> Self {
        Self::listen(free_address(), Some(acceptor())).await
    }

    async fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // A restart must not wait for the connections of the one before.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let shared = Shared {
            behaviour: Arc::new(Mutex::new(Behaviour::Take)),
            requests: Arc::new(AtomicUsize::new(0)),
            sender,
        };
        let ours = shared.clone();
        let tasks = tokio::spawn(async move {
            // Ends its connections when it is aborted.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (ours.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, shared, received, put_back: VecDeque::new(), tasks }
    }

    /// Ends it with all its connections, and starts another one in its place.
    pub(super) async fn restart(self) -> Self {
        self.tasks.abort();
        let _ = self.tasks.await;
        Self::start_at(self.address).await
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// Returns how many exports there were, refused ones included.
    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Waits for the next export that is taken.
    pub(super) async fn received(&mut self) -> Received {
        if let Some(received) = self.put_back.pop_front() {
            return received;
        }
        let next = tokio::time::timeout(Duration::from_secs(20), self.received.recv()).await;
        next.expect("an export within 20 s").unwrap()
    }

    pub(super) async fn traces(&mut self) -> (ExportTraceServiceRequest, HeaderMap) {
        let mut others = VecDeque::new();
        loop {
            let received = self.received().await;
            match received.export {
                Export::Traces(request) => {
                    self.put_back.append(&mut others);
                    return (request, received.headers);
                }
                Export::Metrics(_) => others.push_back(received),
            }
        }
    }

    pub(super) async fn metrics(&mut self) -> (ExportMetricsServiceRequest, HeaderMap) {
        let mut others = VecDeque::new();
        loop {
            let received = self.received().await;
            match received.export {
                Export::Metrics(request) => {
                    self.put_back.append(&mut others);
                    return (request, received.headers);
                }
                Export::Traces(_) => others.push_back(received),
            }
        }
    }

    /// Returns metrics if there are some already.
    pub(super) fn try_metrics(&mut self) -> Option<ExportMetricsServiceRequest> {
        match self.received.try_recv().ok()?.export {
            Export::Metrics(request) => Some(request),
            Export::Traces(_) => None,
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Shared) {
    let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    shared: Shared,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return Ok(post(request, path, shared).await);
    }
    let request = request.map(Body::new);
    if path.starts_with("/opentelemetry.proto.collector.trace.v1.TraceService/") {
        TraceServiceServer::new(shared).call(request).await
    } else {
        MetricsServiceServer::new(shared).call(request).await
    }
}

impl Shared {
    /// Counts an export, and hands it to the test if it is taken. Returns what it is answered with.
    async fn take(&self, received: Received) -> Behaviour {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let behaviour = *self.behaviour.lock().unwrap();
        match behaviour {
            Behaviour::Take | Behaviour::TakePart(_) => {
                let _ = self.sender.send(received);
            }
            Behaviour::Refuse(_) => {}
            Behaviour::Hang => std::future::pending().await,
        }
        behaviour
    }
}

fn refusal(code: u16) -> tonic::Status {
    tonic::Status::new(i32::from(code).into(), "no")
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, message) = request.into_parts();
        let export = Export::Traces(message);
        let received = Received { path: "grpc".into(), headers: metadata.into_headers(), export };
        match self.take(received).await {
            Behaviour::Refuse(code) => Err(refusal(code)),
            behaviour => Ok(tonic::Response::new(trace_answer(behaviour))),
        }
    }
}

#[tonic::async_trait]
impl MetricsService for Shared {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let (metadata, _, message) = request.into_parts();
        let export = Export::Metrics(message);
        let received = Received { path: "grpc".into(), headers: metadata.into_headers(), export };
        match self.take(received).await {
            Behaviour::Refuse(code) => Err(refusal(code)),
            behaviour => Ok(tonic::Response::new(metrics_answer(behaviour))),
        }
    }
}

fn trace_answer(behaviour: Behaviour) -> ExportTraceServiceResponse {
    let partial_success = match behaviour {
        Behaviour::TakePart(rejected_spans) => {
            Some(ExportTracePartialSuccess { rejected_spans, error_message: "too old".into() })
        }
        Behaviour::Take | Behaviour::Refuse(_) | Behaviour::Hang => None,
    };
    ExportTraceServiceResponse { partial_success }
}

fn metrics_answer(behaviour: Behaviour) -> ExportMetricsServiceResponse {
    let partial_success = match behaviour {
        Behaviour::TakePart(rejected_data_points) => Some(ExportMetricsPartialSuccess {
            rejected_data_points,
            error_message: "too old".into(),
        }),
        Behaviour::Take | Behaviour::Refuse(_) | Behaviour::Hang => None,
    };
    ExportMetricsServiceResponse { partial_success }
}

async fn post(
    request: Request<hyper::body::Incoming>,
    path: String,
    shared: Shared,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    assert_eq!(head.method, "POST");
    assert_eq!(head.headers["content-type"], "application/x-protobuf");
    let body = body.collect().await.unwrap().to_bytes();
    let traces = path.ends_with("/v1/traces");
    let export = if traces {
        Export::Traces(ExportTraceServiceRequest::decode(body).unwrap())
    } else {
        assert!(path.ends_with("/v1/metrics"), "{path}");
        Export::Metrics(ExportMetricsServiceRequest::decode(body).unwrap())
    };
    let behaviour = shared.take(Received { path, headers: head.headers, export }).await;
    let (status, answer) = match behaviour {
        Behaviour::Refuse(status) => (status, Vec::new()),
        behaviour if traces => (200, trace_answer(behaviour).encode_to_vec()),
        behaviour => (200, metrics_answer(behaviour).encode_to_vec()),
    };
    let body = Body::new(Full::new(Bytes::from(answer)));
    Response::builder().status(status).body(body).unwrap()
}

/// Keeps what is logged.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Returns the lines of a target.
    pub(super) fn lines(&self, target: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .filter(|line| line.contains(target))
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
