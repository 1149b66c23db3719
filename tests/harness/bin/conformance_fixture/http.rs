//! The HTTP server, on loopback only: limits, `Host` and `Origin`, one endpoint, and which era a request is of.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming as Body;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::legacy;
use crate::modern;
use crate::rpc::{Fault, INVALID_REQUEST, Incoming};
use crate::server::{Eras, Server};
use crate::sse::Events;

/// The path of the endpoint.
const ENDPOINT: &str = "/mcp";

/// More connections than any test has; further ones wait.
const CONNECTIONS_MAX: usize = 512;

/// A request may be this long: the suite's are a few hundred bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a client may take to send what it began to send.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type Response = hyper::Response<Either<Full<Bytes>, Events>>;

/// Serves until the listener fails. Connections, and tasks, end with the runtime.
pub(crate) async fn serve(listener: TcpListener, server: Arc<Server>) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| handle(Arc::clone(&server), request));
            // A connection that breaks is the client's way to end it.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn handle(
    server: Arc<Server>,
    request: hyper::Request<Body>,
) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    let headers = head.headers;
    if head.uri.path() != ENDPOINT {
        return Ok(refusal(StatusCode::NOT_FOUND, &format!("there is nothing but `{ENDPOINT}`")));
    }
    if !is_local(&headers) {
        return Ok(refusal(StatusCode::FORBIDDEN, "`Host` or `Origin` is not of this machine"));
    }
    Ok(match head.method {
        Method::POST => post(server, &headers, body).await,
        Method::GET if has_sessions(&server, &headers) => legacy::get(&server, &headers),
        Method::DELETE if has_sessions(&server, &headers) => legacy::delete(&server, &headers),
        _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "this is for POST"),
    })
}

async fn post(server: Arc<Server>, headers: &HeaderMap, body: Body) -> Response {
    if !accepts(headers, "application/json") || !accepts(headers, "text/event-stream") {
        let text = "`Accept` must list application/json and text/event-stream";
        return refusal(StatusCode::NOT_ACCEPTABLE, text);
    }
    if !mentions(headers, CONTENT_TYPE.as_str(), "application/json") {
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "`Content-Type` is application/json");
    }
    let body = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect());
    let bytes = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, "the body does not come"),
    };
    match (Incoming::parse(&bytes), server.eras) {
        (Err(fault), _) => json(StatusCode::BAD_REQUEST, &fault.response(None)),
        (Ok(Incoming::Request(request)), Eras::Both) if modern::is_modern(headers, &request) => {
            modern::answer(server, headers, request).await
        }
        (Ok(Incoming::Request(request)), Eras::Modern) => {
            modern::answer(server, headers, request).await
        }
        (Ok(Incoming::Notification { .. }), Eras::Modern) => empty(StatusCode::ACCEPTED),
        (Ok(Incoming::Response { .. }), Eras::Modern) => {
            refusal(StatusCode::BAD_REQUEST, "clients are not asked, so they do not answer")
        }
        (Ok(message), Eras::Both | Eras::Legacy) => legacy::post(server, headers, message).await,
    }
}

/// Returns whether GET and DELETE mean something: a session, or that one is missing.
fn has_sessions(server: &Server, headers: &HeaderMap) -> bool {
    server.eras != Eras::Modern && !mentions(headers, "MCP-Protocol-Version", modern::REVISION)
}

/// Returns whether a request was meant for this machine: a page that had its name resolved to loopback
/// says its own (DNS rebinding).
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).is_some_and(is_loopback);
    let origin = text(ORIGIN).is_none_or(|origin| {
        let scheme = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        scheme.is_some_and(is_loopback)
    });
    host && origin
}

fn is_loopback(authority: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| match authority.strip_prefix(name) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(is_port),
        None => false,
    })
}

pub(crate) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    mentions(headers, ACCEPT.as_str(), media_type) || mentions(headers, ACCEPT.as_str(), "*/*")
}

fn mentions(headers: &HeaderMap, name: &str, text: &str) -> bool {
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(text)))
}

/// Returns a message as the whole answer.
pub(crate) fn json(status: StatusCode, message: &Value) -> Response {
    let mut response = hyper::Response::new(Either::Left(message.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a media type"));
    response
}

/// Returns a refusal that is of HTTP, and of no request.
pub(crate) fn refusal(status: StatusCode, text: &str) -> Response {
    json(status, &Fault::new(INVALID_REQUEST, text).response(None))
}

pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = hyper::Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

/// Returns a stream.
pub(crate) fn events(events: Events) -> Response {
    let mut response = hyper::Response::new(Either::Right(events));
    for (name, value) in [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        response.headers_mut().insert(name, value.parse().expect("visible ASCII"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for (authority, local) in [
            ("localhost", true),
            ("localhost:80", true),
            ("127.0.0.1:4000", true),
            ("[::1]:4000", true),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("localhost:80@evil.example", false),
            ("evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(authority), local, "{authority}");
        }
    }
}
