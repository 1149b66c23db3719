//! One request to this machine over HTTP/1.1.

use anyhow::Context;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends a request with an absolute URL, and returns the beginning of its answer.
///
/// # Errors
///
/// There is no answer.
pub async fn exchange(mut request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
    let authority = request.uri().authority().context("a URL with a host")?.to_string();
    let target = request.uri().path_and_query().context("a URL with a path")?.as_str();
    let target = target.parse::<Uri>()?;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, HeaderValue::from_str(&authority)?);
    let stream = TcpStream::connect(&authority).await.context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await.context("no answer")
}
