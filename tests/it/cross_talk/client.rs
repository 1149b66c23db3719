//! A client of either era over HTTP, that notices whatever is not meant for it.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How a client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    Legacy,
    Modern,
}

/// A client, of which several requests may be open.
pub(super) struct Client {
    address: String,
    pub(super) era: Era,
    /// Begins everything that it tells anybody.
    pub(super) secret: String,
    info: Value,
    session: Option<String>,
}

impl Client {
    /// Begins a session, if the era has them.
    pub(super) async fn connect(address: &str, era: Era, name: &str, secret: String) -> Self {
        let info = json!({"name": name, "version": "1.0"});
        let mut client = Self { address: address.to_owned(), era, secret, info, session: None };
        if era == Era::Legacy {
            let params = json!({
                "protocolVersion": "2025-11-25", "capabilities": capabilities(), "clientInfo": client.info,
            });
            let hello =
                json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
            let mut wire = client.wire().await;
            let greeted = wire.post(&client, &hello).await;
            let session = greeted.headers().get("mcp-session-id").expect("a session");
            client.session = Some(session.to_str().unwrap().to_owned());
            let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            client.wire().await.notify(&client, &ready).await;
        }
        client
    }

    /// Opens a connection.
    pub(super) async fn wire(&self) -> Wire {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        // It ends with the sender.
        tokio::spawn(connection);
        Wire { sender }
    }

    /// Returns a call, with its id as progress token.
    pub(super) fn call(&self, id: u64, tool: &str, arguments: &Value) -> Value {
        let mut meta = json!({"progressToken": id});
        if self.era == Era::Modern {
            meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
            meta["io.modelcontextprotocol/clientInfo"] = self.info.clone();
            meta["io.modelcontextprotocol/clientCapabilities"] = capabilities();
            meta["io.modelcontextprotocol/logLevel"] = json!("debug");
        }
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    }

    fn head(&self, method: Method, message: Option<&Value>) -> http::request::Builder {
        let mut head = Request::builder()
            .method(method)
            .uri("/mcp")
            .header("host", &self.address)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if let Some(session) = &self.session {
            head = head.header("mcp-session-id", session);
        }
        match (self.era, message) {
            (Era::Modern, Some(message)) => head
                .header("mcp-protocol-version", "2026-07-28")
                .header("mcp-method", message["method"].as_str().unwrap())
                .header("mcp-name", message["params"]["name"].as_str().unwrap()),
            (Era::Legacy | Era::Modern, _) => head.header("mcp-protocol-version", "2025-11-25"),
        }
    }
}

fn capabilities() -> Value {
    json!({"elicitation": {"form": {}}})
}

/// A connection, for one request at a time.
pub(super) struct Wire {
    sender: SendRequest<Full<Bytes>>,
}

impl Wire {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    async fn post(&mut self, client: &Client, message: &Value) -> Response<Incoming> {
        let body = Full::new(message.to_string().into());
        self.send(client.head(Method::POST, Some(message)).body(body).unwrap()).await
    }

    /// Sends a request; what comes back has to be read to its end before the next one.
    pub(super) async fn request(&mut self, client: &Client, message: &Value) -> Messages {
        Messages::of(self.post(client, message).await)
    }

    /// Sends what has no answer.
    pub(super) async fn notify(&mut self, client: &Client, message: &Value) {
        let response = self.post(client, message).await;
        assert_eq!(response.status(), 202, "{message}");
        response.into_body().collect().await.unwrap();
    }

    /// Opens the stream of what belongs to no request.
    pub(super) async fn listen(&mut self, client: &Client) -> Messages {
        let request = client.head(Method::GET, None).body(Full::default()).unwrap();
        Messages::of(self.send(request).await)
    }
}

/// The messages in a response.
pub(super) struct Messages {
    body: Incoming,
    is_events: bool,
    read: Vec<u8>,
}

impl Messages {
    fn of(response: Response<Incoming>) -> Self {
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let is_events = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
        Self { body: response.into_body(), is_events, read: Vec::new() }
    }

    /// Returns the next message; none at the end.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) =
                memchr::memmem::find(&self.read, b"\n\n").filter(|_| self.is_events)
            {
                let event: Vec<_> = self.read.drain(..end + 2).collect();
                let data =
                    event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:"));
                // The first event of a stream may be empty, so that it can be resumed.
                if let Some(message) = data.filter(|data| !data.trim_ascii().is_empty()) {
                    return Some(serde_json::from_slice(message).unwrap());
                }
            }
            match self.body.frame().await {
                Some(frame) => self.read.extend(frame.unwrap().into_data().unwrap_or_default()),
                None if self.is_events || self.read.is_empty() => return None,
                None => {
                    return Some(serde_json::from_slice(&std::mem::take(&mut self.read)).unwrap());
                }
            }
        }
    }
}
