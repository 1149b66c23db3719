//! A server that answers as a test says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// What a server was asked.
pub(super) struct Request {
    pub(super) path: String,
    pub(super) body: Bytes,
}

/// What it answers.
pub(super) struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    pub(super) fn json(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned() }
    }
}

/// Starts a server that ends with the runtime of the test.
pub(super) async fn serve(
    answer: impl Fn(Request) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let Answer { status, body } = answer(Request { path, body });
                    let response = http::Response::builder().status(status);
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
                }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}
