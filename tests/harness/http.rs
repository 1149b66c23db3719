//! A client of a gateway over Streamable HTTP that hides nothing: each request can be looked at while its
//! answer comes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::session::PATIENCE;

/// An MCP endpoint of a gateway.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: SocketAddr,
    path: &'static str,
    /// Connections that can be used again.
    idle: Arc<Mutex<Vec<BufReader<TcpStream>>>>,
}

/// A session of the legacy era.
#[derive(Debug, Clone)]
pub struct HttpSession {
    endpoint: Endpoint,
    /// `Mcp-Session-Id`.
    pub id: String,
    next_id: Arc<AtomicU64>,
}

/// A response, and the messages in it.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
    endpoint: Endpoint,
    /// None when all is read.
    connection: Option<BufReader<TcpStream>>,
    length: Option<usize>,
    is_events: bool,
    text: Vec<u8>,
}

impl Endpoint {
    /// Returns the endpoint of all servers of the gateway that listens here.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, path: "/mcp", idle: Arc::default() }
    }

    /// Begins a session.
    ///
    /// # Panics
    ///
    /// If the gateway begins none.
    pub async fn session(&self, capabilities: Value) -> HttpSession {
        let session = self.initialize(capabilities).await;
        session.notify("notifications/initialized", json!({})).await;
        session
    }

    /// Begins a session and says no more.
    ///
    /// # Panics
    ///
    /// If the gateway begins none.
    pub async fn initialize(&self, capabilities: Value) -> HttpSession {
        let mut response = self.begin(capabilities).await;
        let answer = response.next().await;
        let Some(id) = response.session.take() else { panic!("no session: {answer:?}") };
        HttpSession { endpoint: self.clone(), id, next_id: Arc::new(AtomicU64::new(1)) }
    }

    /// Asks for a session.
    pub async fn begin(&self, capabilities: Value) -> Response {
        let client = json!({"name": "harness", "version": "1.0"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        self.post("", &message).await
    }

    /// Makes a request of the modern era.
    pub async fn modern(&self, method: &str, params: Value, capabilities: Value) -> Response {
        let mut params = params;
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        params["_meta"]["io.modelcontextprotocol/clientInfo"] =
            json!({"name": "harness", "version": "1.0"});
        let mut headers = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n");
        if let Some(name) = params["name"].as_str() {
            headers.push_str(&format!("Mcp-Name: {name}\r\n"));
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.post(&headers, &message).await
    }

    async fn post(&self, headers: &str, message: &Value) -> Response {
        self.send("POST", headers, &message.to_string()).await
    }

    /// Sends a request and reads the head of its response.
    ///
    /// # Panics
    ///
    /// If there is none within [`PATIENCE`].
    async fn send(&self, method: &str, headers: &str, body: &str) -> Response {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let answered = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => BufReader::new(TcpStream::connect(self.address).await?),
            };
            let head = format!(
                "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n",
                self.path,
                self.address,
                body.len()
            );
            connection.get_mut().write_all(format!("{head}{body}").as_bytes()).await?;
            self.head(connection).await
        };
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => panic!("{method} {body}: {error}"),
            Err(_) => panic!("waited {PATIENCE:?} for a response to {method} {body}"),
        }
    }

    async fn head(&self, mut connection: BufReader<TcpStream>) -> std::io::Result<Response> {
        let mut line = String::new();
        connection.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut response = Response {
            status: status.ok_or(std::io::ErrorKind::UnexpectedEof)?,
            session: None,
            endpoint: self.clone(),
            connection: None,
            length: None,
            is_events: false,
            text: Vec::new(),
        };
        loop {
            line.clear();
            connection.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => response.length = value.parse().ok(),
                "content-type" => response.is_events = value.starts_with("text/event-stream"),
                "mcp-session-id" => response.session = Some(value.to_owned()),
                _ => {}
            }
        }
        response.connection = Some(connection);
        Ok(response)
    }
}

impl HttpSession {
    /// Makes a request; its answer is still to be read. `params` may have a progress token.
    pub async fn send(&self, method: &str, params: Value) -> Response {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.endpoint.post(&self.headers(), &message).await
    }

    /// Makes a request and returns its answer.
    pub async fn request(&self, method: &str, params: Value) -> Value {
        self.send(method, params).await.answer().await
    }

    /// Calls a tool and returns the answer.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Value {
        self.request("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Sends a notification.
    pub async fn notify(&self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.endpoint.post(&self.headers(), &message).await.all().await;
    }

    /// Answers a request of the gateway.
    pub async fn answer(&self, request: &Value, result: Value) {
        let message = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
        self.endpoint.post(&self.headers(), &message).await.all().await;
    }

    /// Listens to what belongs to no request.
    pub async fn listen(&self) -> Response {
        self.endpoint.send("GET", &self.headers(), "").await
    }

    /// Ends the session.
    pub async fn delete(&self) {
        self.endpoint.send("DELETE", &self.headers(), "").await.all().await;
    }

    fn headers(&self) -> String {
        format!("Mcp-Session-Id: {}\r\nMCP-Protocol-Version: 2025-11-25\r\n", self.id)
    }
}

impl Response {
    /// Waits for the next message; none at the end.
    ///
    /// # Panics
    ///
    /// If nothing comes within [`PATIENCE`].
    pub async fn next(&mut self) -> Option<Value> {
        match tokio::time::timeout(PATIENCE, self.read_next()).await {
            Ok(next) => next,
            Err(_) => panic!("waited {PATIENCE:?} for a message"),
        }
    }

    /// Waits for a message of this method, passing over others.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub async fn until(&mut self, method: &str) -> Value {
        while let Some(message) = self.next().await {
            if message["method"] == method {
                return message;
            }
        }
        panic!("the stream ended before `{method}`")
    }

    /// Returns all messages that are left.
    pub async fn all(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    /// Returns the last message.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn answer(self) -> Value {
        let status = self.status;
        self.all().await.pop().unwrap_or_else(|| panic!("no message, with status {status}"))
    }

    async fn read_next(&mut self) -> Option<Value> {
        loop {
            if self.is_events {
                while let Some(end) = memchr::memmem::find(&self.text, b"\n\n") {
                    let event: Vec<u8> = self.text.drain(..end + 2).collect();
                    let event = String::from_utf8_lossy(&event).into_owned();
                    let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                    let message = data.and_then(|data| serde_json::from_str(data).ok());
                    if message.is_some() {
                        return message;
                    }
                }
            }
            if !self.read_more().await {
                return serde_json::from_slice(&std::mem::take(&mut self.text)).ok();
            }
        }
    }

    /// Reads another piece of the body. Returns false at the end.
    async fn read_more(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let read = match self.length {
            Some(length) => {
                self.text.resize(length, 0);
                connection.read_exact(&mut self.text).await.map(|_| 0)
            }
            // Without either there is no body.
            None if !self.is_events => Ok(0),
            None => read_chunk(connection, &mut self.text).await,
        };
        match read {
            Ok(0) => {
                let mut idle = self.endpoint.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.extend(self.connection.take());
                self.length.is_some_and(|length| length > 0)
            }
            Ok(_) => true,
            Err(_) => {
                self.connection = None;
                false
            }
        }
    }
}

async fn read_chunk(
    connection: &mut BufReader<TcpStream>,
    text: &mut Vec<u8>,
) -> std::io::Result<usize> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let length =
        usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
    let start = text.len();
    text.resize(start + length + 2, 0);
    connection.read_exact(&mut text[start..]).await?;
    text.truncate(start + length);
    Ok(length)
}
