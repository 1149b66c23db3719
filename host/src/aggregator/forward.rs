//! The way of a request to its upstream and of the answer back, whatever eras both live in.

use std::sync::Arc;

use bytes::Bytes;

use super::{Aggregator, Edit, LEARNED_MAX};
use crate::bridge::{self, Place};
use crate::downstream::OpenRequest;
use crate::lock;
use crate::mcp::{Era, Message, json, modern};
use crate::pipeline::{CallError, Outcome};
use crate::upstream::{Connection, Patience, Sender, Upstream, UpstreamError};

/// A request on its way to an upstream.
pub struct Forward<'a> {
    /// Where it goes.
    pub upstream: &'a Arc<Upstream>,
    /// As the client sent it.
    pub message: &'a Message,
    /// Its method.
    pub method: &'a str,
    /// What the stages made of its params.
    pub params: &'a Bytes,
    /// What is ours in them.
    pub edit: Option<Edit>,
    /// Who waits for the answer.
    pub open: &'a Arc<OpenRequest>,
}

/// The answer of an upstream, and the message it came in.
pub type Answer = (Outcome, Option<Message>);

impl Aggregator {
    /// Sends a request to an upstream and waits for the answer, whatever eras both live in.
    pub async fn forward(&self, request: &Forward<'_>) -> Result<Answer, CallError> {
        let mut again = false;
        let has = |key| request.message.body_member(key).is_some();
        if request.open.meta().is_some()
            && has("inputResponses")
            && bridge::is_signing_in(request.params)
        {
            request.upstream.signed_in().await;
        }
        loop {
            let connection = request.upstream.connection().await?;
            match self.forward_over(&connection, request).await {
                // It was not looked at: the connection was gone before.
                Err(CallError::Upstream(UpstreamError::Closed { .. })) if !again => again = true,
                answer => return answer,
            }
        }
    }

    async fn forward_over(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<Answer, CallError> {
        let Forward { upstream, method, params, open, .. } = request;
        let owner = self.surroundings.caller.owner();
        let place = Place {
            seal: &self.seal,
            principal: &owner,
            upstream: &upstream.name,
            method,
            params,
            sent: &request.message.body(),
        };
        let (outcome, response) = match (open.meta(), connection.era()) {
            (None, era)
                if matches!(&**method, "resources/subscribe" | "resources/unsubscribe")
                    && (era == Era::Modern || upstream.is_shared()) =>
            {
                self.subscribed(method, params, upstream);
                self.say_wants(upstream);
                return Ok((
                    Outcome::Result { json: Bytes::from_static(b"{}"), tool_error: false },
                    None,
                ));
            }
            (None, Era::Legacy) => answer(self.once(connection, request, params, unchanged).await?),
            (None, Era::Modern) => self.by_rounds(connection, request).await?,
            (Some(_), Era::Modern) if open.shows_questions() => {
                let running = match bridge::resume(&place, open)? {
                    Some(running) => running,
                    None => bridge::start(open, Self::shown_rounds(connection, request)?),
                };
                let (outcome, response) = running.answer(&place).await?;
                (self.named(&place, upstream, outcome), response)
            }
            (Some(_), Era::Modern) => {
                let params = bridge::without_sign_in(&bridge::open_state(&place)?);
                let (outcome, response) =
                    answer(self.with_headers(connection, request, &params, unchanged).await?);
                let outcome = match outcome {
                    Outcome::Result { json, tool_error } => {
                        Outcome::Result { json: bridge::seal_state(&place, &json), tool_error }
                    }
                    outcome => outcome,
                };
                (self.named(&place, upstream, outcome), response)
            }
            (Some(meta), Era::Legacy) => {
                // As it was sent: there the members are known, and need not be looked for.
                let goes_on = request.message.body_member("requestState").is_some();
                let resumed = if goes_on { bridge::resume(&place, open)? } else { None };
                let running = match resumed {
                    Some(running) => running,
                    None => {
                        if let Some(level) = &meta.log_level {
                            self.log_from(upstream, connection, level);
                        }
                        let call = self.once(connection, request, params, |params| {
                            modern::without_meta(&params).into()
                        });
                        bridge::start(open, async { Ok(answer(call.await?)) })
                    }
                };
                running.answer(&place).await?
            }
        };
        if let Some(response) = response.as_ref().filter(|response| !response.is_error()) {
            self.learn(upstream, response);
        }
        let era = open.meta().map_or(Era::Legacy, |_| Era::Modern);
        let outcome = match outcome {
            Outcome::Rpc { json } if era != connection.era() => {
                Outcome::Rpc { json: bridge::error(method, &json, era) }
            }
            outcome => outcome,
        };
        Ok((outcome, response))
    }

    /// Asks a modern client what a modern server wants to know, and shows the interceptors each question
    /// by itself: the call waits here for its answers, as that of a legacy server does.
    fn shown_rounds(
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<impl Future<Output = Result<Answer, CallError>> + Send + 'static, CallError> {
        let session = request.open.session().ok_or(CallError::Cancelled)?;
        let aggregator = session.aggregator().cloned().ok_or(CallError::Cancelled)?;
        let (connection, upstream) = (Arc::clone(connection), Arc::clone(request.upstream));
        let (message, open) = (request.message.clone(), Arc::clone(request.open));
        let (method, params) = (request.method.to_owned(), bridge::without_sign_in(request.params));
        // Their places are others now.
        let edit = request.edit.clone().and_then(|edit| {
            let range = json::at_path(&params, edit.path)?;
            Some(Edit { range, ..edit })
        });
        Ok(async move {
            let (upstream, message, open) = (&upstream, &message, &open);
            let (method, params) = (&*method, &params);
            let request = Forward { upstream, message, method, params, edit, open };
            aggregator.by_rounds(&connection, &request).await
        })
    }

    /// Asks the client what a modern server wants to know, as often as it wants to know something.
    async fn by_rounds(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<Answer, CallError> {
        let Forward { upstream, open, .. } = request;
        let level = lock(&self.learned)
            .log_level
            .as_ref()
            .and_then(|params| json::member(params, "level").map(|range| params.slice(range)));
        let is_modern = open.meta().is_some();
        let mut params = request.params.clone();
        let mut round = 0;
        loop {
            let (sender, level) = (Arc::clone(&self.surroundings), level.clone());
            let translate = move |params: Bytes| match is_modern {
                true => params,
                false => sender.modern(&params, level.as_deref()),
            };
            let message = self.with_headers(connection, request, &params, translate).await?;
            if !bridge::is_input_required(&message) {
                let (outcome, response) = answer(message);
                let outcome = match outcome {
                    Outcome::Result { json, tool_error } if !is_modern => {
                        Outcome::Result { json: bridge::plain(&json), tool_error }
                    }
                    outcome => outcome,
                };
                return Ok((outcome, response));
            }
            params = bridge::next_round(&upstream.name, round, &params, &message, open).await?;
            round += 1;
        }
    }

    /// Does as [`Self::once`] for a server of the modern era. One that wants other headers than we knew of
    /// has refused the call before it looked at it, so its tools are listed anew and it is called again
    /// (2026-07-28, basic/transports).
    async fn with_headers(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
        params: &Bytes,
        translate: impl FnOnce(Bytes) -> Bytes + Clone + Send + 'static,
    ) -> Result<Message, UpstreamError> {
        let answer = self.once(connection, request, params, translate.clone()).await?;
        let is_refused = answer.is_error()
            && answer.body_member("code") == Some(modern::HEADER_MISMATCH.to_string().as_bytes());
        if is_refused
            && request.method == "tools/call"
            && request.upstream.mirror_anew(connection).await
        {
            return self.once(connection, request, params, translate).await;
        }
        Ok(answer)
    }

    /// Sends a request as it is but for what is ours in it, and waits for the answer.
    fn once(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
        params: &Bytes,
        translate: impl FnOnce(Bytes) -> Bytes + Send + 'static,
    ) -> impl Future<Output = Result<Message, UpstreamError>> + Send + 'static {
        let connection = Arc::clone(connection);
        let (message, open) = (request.message.clone(), Arc::clone(request.open));
        let params = params.clone();
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        let is_same = params.as_ptr() == request.params.as_ptr();
        let name = request.edit.clone().and_then(|Edit { path, range, quoted }| {
            let range = if is_same { Some(range) } else { json::at_path(&params, path) };
            Some((range?, quoted))
        });
        async move {
            let token_range = json::at_path(&params, &["_meta", "progressToken"]);
            let sender = Sender {
                progress_token: token_range
                    .clone()
                    .map(|range| open.token().unwrap_or_else(|| params.slice(range))),
                origin: Some(Arc::<OpenRequest>::clone(&open)),
            };
            let compose = |id: u64| {
                let id = Bytes::from(id.to_string());
                let token = token_range.map(|range| (range, id.clone()));
                let mut edits: Vec<_> = name.into_iter().chain(token).collect();
                edits.sort_by_key(|(range, _)| range.start);
                let params = match edits.is_empty() {
                    true => params.clone(),
                    false => json::splice(&params, &edits).into(),
                };
                let params = translate(params);
                message.with(Some(&id), (!params.is_empty()).then_some(&params))
            };
            connection.call(patience, sender, compose, |id| open.sent(&connection, id)).await
        }
    }

    /// Remembers whose the resources and tasks are that a result names.
    fn learn(&self, upstream: &Arc<Upstream>, response: &Message) {
        if let Some(task) = response.body_member("task")
            && let Some(range) = json::member(task, "taskId")
            && let Some(id) = json::string(&task[range])
        {
            self.learn_task(upstream, id.into_owned());
        }
        if let Some(content) = response.body_member("content")
            && memchr::memmem::find(content, b"\"uri\"").is_some()
        {
            let uris = json::elements(content).filter_map(|range| {
                let item = &content[range];
                let uri = json::member(item, "uri")
                    .or_else(|| json::at_path(item, &["resource", "uri"]))?;
                json::string(&item[uri]).map(std::borrow::Cow::into_owned)
            });
            let mut learned = lock(&self.learned);
            for uri in uris {
                if learned.resources.len() < LEARNED_MAX {
                    learned.resources.insert(uri, Arc::clone(upstream));
                }
            }
        }
    }
}

fn answer(message: Message) -> Answer {
    (bridge::outcome(&message), Some(message))
}

fn unchanged(params: Bytes) -> Bytes {
    params
}
