//! One message to an HTTP server, and what comes back for it.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::body::Body;
use super::link::{EITHER, Events, Heard, Link, SESSION_ID};
use super::mirror;
use crate::lock;
use crate::mcp::{self, Era, Kind, Message};
use crate::upstream::UpstreamError;
use crate::wire::LINE_BYTES_MAX;

/// Of a response that is an error, so much is read to find out why.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A request that is refused for its token is sent so often: with the token there is, with one that was
/// refreshed, and with one for a wider scope.
const ATTEMPTS_MAX: usize = 3;

/// And so much of its text is told.
const REASON_BYTES_MAX: usize = 200;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METHOD: HeaderName = HeaderName::from_static(mcp::header::METHOD);
const NAME: HeaderName = HeaderName::from_static(mcp::header::NAME);

impl Link {
    /// Sends a message and hears what comes back; `id` is that of a request.
    pub(super) async fn post(&self, message: &Message, id: Option<u64>) {
        if let Err(heard) = self.try_post(message, id).await {
            self.hear(heard).await;
        }
    }

    async fn try_post(&self, message: &Message, id: Option<u64>) -> Result<(), Heard> {
        let mut attempts = 0;
        let (response, had_session) = loop {
            let mut request = self.request(message);
            let token = self.tokens.add(request.headers_mut()).await;
            let had_session = request.headers().contains_key(SESSION_ID);
            let response = match self.client.send(request).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => {
                    return Err(self.failed(id, |upstream| UpstreamError::Closed {
                        upstream,
                        reason: format!("it cannot be reached: {}", crate::chain(&error)),
                    }));
                }
                Err(error) => return Err(self.lost(id, &crate::chain(&error))),
            };
            attempts += 1;
            let may_need_token =
                matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !may_need_token {
                break (response, had_session);
            }
            match Box::pin(self.tokens.refused(&self.upstream, &response, token.as_ref())).await {
                Ok(true) if attempts < ATTEMPTS_MAX => {}
                Ok(_) => break (response, had_session),
                Err(error) => return Err(self.failed(id, |_| error)),
            }
        };
        if message.method() == "initialize" {
            lock(&self.state).session = response.headers().get(SESSION_ID).cloned();
        }
        match response.status() {
            StatusCode::OK => self.answered(response, id).await,
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT
                if id.is_none() || !self.is_streamable() =>
            {
                Ok(())
            }
            StatusCode::NOT_FOUND if had_session => Err(Heard::SessionGone(id)),
            // Boxed, like all that is rare: what a request may become is moved with it.
            status => Box::pin(self.refused(response, status, had_session, id)).await,
        }
    }

    fn request(&self, message: &Message) -> Request<Full<Bytes>> {
        let (endpoint, modern) = {
            let state = lock(&self.state);
            let modern = state.revision.is_some_and(|revision| revision.era() == Era::Modern);
            (state.endpoint.clone(), modern)
        };
        let uri = endpoint.as_ref().unwrap_or(&self.remote.uri);
        let mut request =
            self.head(Method::POST, uri).header(CONTENT_TYPE, JSON).header(ACCEPT, EITHER);
        if (modern || mcp::modern::RequestMeta::of(message).is_some())
            && message.kind() != Kind::Response
            && let Some(headers) = request.headers_mut()
        {
            headers.insert(METHOD, mirror::value(&message.method()));
            if let Some(name) = mcp::header::name(message) {
                headers.insert(NAME, mirror::value(&name));
            }
            let mirror = std::sync::Arc::clone(&lock(&self.mirror));
            for (name, value) in mirror.headers(message) {
                headers.extend(value.map(|value| (name.clone(), mirror::value(&value))));
            }
        }
        let body = Full::new(message.line().clone());
        request.body(body).unwrap_or_else(|_| unreachable!("its parts were checked"))
    }

    async fn answered(&self, response: Response<Incoming>, id: Option<u64>) -> Result<(), Heard> {
        let is = |kind: &[u8]| {
            let found = response.headers().get(CONTENT_TYPE);
            found.is_some_and(|found| found.as_bytes().starts_with(kind))
        };
        if is(b"text/event-stream") {
            let events = Events::of(response).map_err(|reason| self.lost(id, &reason))?;
            let events = Box::pin(self.events(events, id)).await;
            return events.map_err(|reason| self.lost(id, &reason));
        }
        let is_json = is(b"application/json");
        let mut body = Body::of(response).map_err(|error| self.lost(id, &error.to_string()))?;
        let text = match body.whole(LINE_BYTES_MAX).await {
            Ok(Some(text)) => text,
            Ok(None) => return Err(self.lost(id, "its answer is longer than 64 MiB")),
            Err(error) => return Err(self.lost(id, &crate::chain(&error))),
        };
        match id {
            Some(_) if is_json => match self.text(text, id).await {
                true => Ok(()),
                false => Err(self.lost(id, "its response holds no answer")),
            },
            // Over HTTP with SSE the answer comes by the event stream.
            Some(_) if lock(&self.state).endpoint.is_some() => Ok(()),
            Some(_) => Err(self.lost(id, "its response is neither JSON nor events")),
            None => Ok(()),
        }
    }

    /// Deals with a status that is no success: a JSON-RPC error in the body is the answer.
    async fn refused(
        &self,
        response: Response<Incoming>,
        status: StatusCode,
        had_session: bool,
        id: Option<u64>,
    ) -> Result<(), Heard> {
        let body = match Body::of(response) {
            Ok(mut body) => body.whole(ERROR_BYTES_MAX).await.ok().flatten().unwrap_or_default(),
            Err(_) => Bytes::new(),
        };
        let error = Message::parse(body.clone()).ok().filter(Message::is_error);
        if had_session && error.as_ref().is_some_and(|error| is_about_session(status, error)) {
            return Err(Heard::SessionGone(id));
        }
        if let (Some(number), Some(error)) = (id, error) {
            // With an error before the request was understood, its id may be missing.
            let mut line = mcp::error_line(Some(number.to_string().as_bytes()), &error.body());
            line.pop();
            self.text(line.into(), id).await;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&body);
        let text = text.lines().next().unwrap_or_default();
        let text = &text[..text.floor_char_boundary(REASON_BYTES_MAX)];
        let reason = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
        let status = status.as_u16();
        Err(self.failed(id, |upstream| UpstreamError::Http { upstream, status, reason }))
    }

    fn lost(&self, id: Option<u64>, reason: &str) -> Heard {
        self.failed(id, |upstream| UpstreamError::Lost { upstream, reason: reason.to_owned() })
    }

    fn failed(&self, id: Option<u64>, error: impl FnOnce(String) -> UpstreamError) -> Heard {
        let error = error(self.upstream.to_string());
        match id {
            Some(id) => Heard::Failed(id, error),
            None => Heard::NotTaken(error),
        }
    }
}

/// Returns whether a server says with a wrong status that it does not know the session: the TypeScript SDK's
/// own examples answer 400.
fn is_about_session(status: StatusCode, error: &Message) -> bool {
    let text = error.body_member("message").and_then(mcp::json::string).unwrap_or_default();
    // Said before the message was read: it has no id of ours.
    let is_unread = error.id().is_none();
    status == StatusCode::BAD_REQUEST && is_unread && text.to_ascii_lowercase().contains("session")
}
