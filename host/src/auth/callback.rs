//! Waits on this machine for the browser to come back from the authorization server (RFC 8252, section
//! 7.3).
//!
//! Whatever runs here can connect too, and so can pages in the user's browser. Only a request with the
//! `state` of this sign-in counts, once; nothing else ends the wait.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

const PATH: &str = "/callback";

/// A code has a few hundred characters.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Browsers connect in advance and then say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECTIONS_MAX: usize = 32;

/// Where the browser comes back to.
pub(crate) struct Callback {
    listener: TcpListener,
    /// As the authorization server is told.
    pub(crate) redirect_uri: String,
}

/// What the authorization server gave the browser to bring back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Return {
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) error_description: String,
    /// RFC 9207.
    pub(crate) iss: Option<String>,
}

impl Callback {
    /// Listens on a port, or on any that is free.
    pub(crate) async fn listen(port: Option<u16>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, redirect_uri: format!("http://127.0.0.1:{port}{PATH}") })
    }

    /// Returns the port of a redirect URI that an earlier [`Callback`] had.
    pub(super) fn port_of(redirect_uri: &str) -> Option<u16> {
        Url::parse(redirect_uri).ok()?.port()
    }

    /// Waits for the browser to bring `state` back.
    pub(crate) async fn wait(self, state: &str) -> Return {
        let host =
            self.redirect_uri.trim_start_matches("http://").trim_end_matches(PATH).to_owned();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                        let request = Request::new(host.clone(), state.to_owned());
                        connections.spawn(request.serve(stream));
                    }
                    // The connection is closed; whoever means it comes again.
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(served) = connections.join_next() => {
                    if let Ok(Some(came_back)) = served {
                        return came_back;
                    }
                }
            }
        }
    }
}

/// One connection's request, and what it is compared with.
struct Request {
    host: String,
    state: String,
}

impl Request {
    fn new(host: String, state: String) -> Self {
        Self { host, state }
    }

    /// Answers one request; returns what it brought if it is the one that is waited for.
    async fn serve(self, mut stream: TcpStream) -> Option<Return> {
        let head = timeout(HEAD_TIMEOUT, read_head(&mut stream)).await.ok()?.ok()?;
        let judged = self.judge(&head);
        let (status, text) = match &judged {
            Ok(Return { error: None, .. }) => {
                ("200 OK", "Ultra has your answer. You can close this window.")
            }
            Ok(_) => ("200 OK", "Signing in was refused. You can close this window."),
            Err(status) => (*status, "This is not the sign-in that Ultra waits for."),
        };
        // Without the page the user may wonder; the answer has arrived all the same.
        let _ = timeout(HEAD_TIMEOUT, respond(&mut stream, status, text)).await;
        judged.ok()
    }

    /// Returns what a request brings, or the status it is refused with.
    fn judge(&self, head: &str) -> Result<Return, &'static str> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (words.next(), words.next().unwrap_or_default());
        let mut hosts = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim())
        });
        // Another name for this address is somebody's who rebinds it.
        if hosts.next() != Some(self.host.as_str()) || hosts.next().is_some() {
            return Err("403 Forbidden");
        }
        if method != Some("GET") {
            return Err("405 Method Not Allowed");
        }
        let url =
            Url::parse(&format!("http://{}{target}", self.host)).map_err(|_| "400 Bad Request")?;
        if url.path() != PATH {
            return Err("404 Not Found");
        }
        self.read_query(&url).ok_or("400 Bad Request")
    }

    fn read_query(&self, url: &Url) -> Option<Return> {
        let mut came_back = Return::default();
        let mut state = None;
        for (name, value) in url.query_pairs() {
            let place = match &*name {
                "state" => &mut state,
                "code" => &mut came_back.code,
                "error" => &mut came_back.error,
                "iss" => &mut came_back.iss,
                "error_description" => {
                    came_back.error_description = value.into_owned();
                    continue;
                }
                _ => continue,
            };
            // RFC 6749, section 3.1: no parameter twice.
            if place.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        let is_ours = state.is_some_and(|state| is_same(&state, &self.state));
        (is_ours && came_back.code.is_some() != came_back.error.is_some()).then_some(came_back)
    }
}

/// Compares in a time that does not tell how much is right.
fn is_same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && differences == 0
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::with_capacity(1_024);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(io::Error::other)
}

async fn respond(stream: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    let page = format!("<!doctype html><meta charset=utf-8><title>Ultra</title><p>{text}</p>\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\ncontent-security-policy: \
         default-src 'none'\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(target: &str, rest: &str) -> Result<Return, &'static str> {
        let request = Request::new("127.0.0.1:7".into(), "right".into());
        request.judge(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:7\r\n{rest}\r\n"))
    }

    #[test]
    fn answer_with_the_right_state_is_taken() {
        let code = judge("/callback?state=right&code=a%20b&iss=https%3A%2F%2Fas.test&x=1", "");
        let error = judge("/callback?error=access_denied&error_description=no&state=right", "");

        let expected = Return {
            code: Some("a b".into()),
            iss: Some("https://as.test".into()),
            ..Return::default()
        };
        assert_eq!(code, Ok(expected));
        let expected = Return {
            error: Some("access_denied".into()),
            error_description: "no".into(),
            ..Return::default()
        };
        assert_eq!(error, Ok(expected));
    }

    #[test]
    fn anything_else_is_refused_and_ends_nothing() {
        for target in [
            "/callback",
            "/callback?code=x",
            "/callback?code=x&state=",
            "/callback?code=x&state=wrong",
            "/callback?code=x&state=righ",
            "/callback?code=x&state=right&state=right",
            "/callback?code=x&code=y&state=right",
            "/callback?code=x&error=y&state=right",
            "/callback?state=right",
            "",
            "//x",
        ] {
            assert!(judge(target, "").is_err(), "{target}");
        }
        assert_eq!(judge("/?code=x&state=right", ""), Err("404 Not Found"));
        assert_eq!(
            judge("/callback?code=x&state=right", "Host: evil.test\r\n"),
            Err("403 Forbidden")
        );
        let rebound = Request::new("127.0.0.1:7".into(), "right".into());
        let head = "GET /callback?code=x&state=right HTTP/1.1\r\nHost: evil.test:7\r\n\r\n";
        assert_eq!(rebound.judge(head), Err("403 Forbidden"));
        let posted = Request::new("127.0.0.1:7".into(), "right".into());
        let head = "POST /callback?code=x&state=right HTTP/1.1\r\nHost: 127.0.0.1:7\r\n\r\n";
        assert_eq!(posted.judge(head), Err("405 Method Not Allowed"));
    }

    /// Sends bytes and returns the first line of the answer.
    async fn send(redirect_uri: &str, head: &str) -> String {
        let port = Callback::port_of(redirect_uri).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn silent_and_wrong_connections_do_not_keep_the_right_one_out() {
        let callback = Callback::listen(None).await.unwrap();
        let uri = callback.redirect_uri.clone();
        let port = Callback::port_of(&uri).unwrap();
        let waiting = tokio::spawn(async move { callback.wait("right").await });
        let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let host = format!("Host: 127.0.0.1:{port}\r\n\r\n");

        let wrong = send(&uri, &format!("GET /callback?code=x&state=no HTTP/1.1\r\n{host}")).await;
        let right =
            send(&uri, &format!("GET /callback?code=x&state=right HTTP/1.1\r\n{host}")).await;

        assert_eq!(wrong, "HTTP/1.1 400 Bad Request");
        assert_eq!(right, "HTTP/1.1 200 OK");
        assert_eq!(waiting.await.unwrap().code.as_deref(), Some("x"));
    }
}
