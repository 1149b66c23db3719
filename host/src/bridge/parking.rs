//! A modern client on a server that asks something in the middle of a call: one of the legacy era, or any
//! other while interceptors see what is asked.
//!
//! The client cannot be asked, so it gets what was asked as the result of its request, and the call
//! stays open upstream until the client makes the request again, with the answers.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::seal::{Inner, STATE_TTL, Seal, digest};
use crate::aggregator::Answer;
use crate::downstream::{OpenRequest, Question};
use crate::lock;
use crate::mcp::{Message, json};
use crate::pipeline::{CallError, Outcome};

/// A client may leave so many calls open.
const PARKED_MAX: usize = 256;

/// After a question, others are waited for so long: they are put to the client together.
const GATHER: Duration = Duration::from_millis(10);

/// A call that is open upstream. Dropping it cancels it there.
pub(crate) struct Running {
    /// Not looked at while the call is parked: then it waits for its client.
    answer: Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send>>,
    /// The request that began it: what belongs to the call comes to it.
    began: Arc<OpenRequest>,
    /// What was asked and is not answered: key, who asked, and under which id.
    asked: Vec<(String, Question)>,
    last_key: u64,
    /// Ends it if its client does not come back.
    timer: Option<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let asked = std::mem::take(&mut self.asked).into_iter().map(|(_, question)| question);
        for question in asked.chain(self.began.refuse_questions()) {
            question.give_up("its request has ended");
        }
    }
}

/// Calls that wait for their client.
#[derive(Debug, Default)]
pub struct Parking {
    calls: Mutex<HashMap<u64, Running>>,
}

impl Parking {
    /// Returns whether no call waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.calls).is_empty()
    }

    /// Takes back what an upstream asked and does not want to know any more.
    pub(crate) fn withdraw(&self, is_meant: impl Fn(&Question) -> bool) {
        let withdrawn: Vec<_> = lock(&self.calls)
            .values_mut()
            .flat_map(|running| running.asked.extract_if(.., |(_, question)| is_meant(question)))
            .collect();
        drop(withdrawn);
    }

    /// Gives up the calls that wait: their client is gone.
    pub fn clear(&self) {
        let calls = std::mem::take(&mut *lock(&self.calls));
        drop(calls);
    }
}

/// Who calls what: what a state is sealed for.
pub(crate) struct Place<'a> {
    pub(crate) seal: &'a Seal,
    pub(crate) principal: &'a str,
    pub(crate) upstream: &'a str,
    pub(crate) method: &'a str,
    pub(crate) params: &'a Bytes,
    /// The params as the client sent them.
    pub(crate) sent: &'a Bytes,
}

/// Takes up a call that has begun.
pub(crate) fn start(
    open: &Arc<OpenRequest>,
    call: impl Future<Output = Result<Answer, CallError>> + Send + 'static,
) -> Running {
    open.keep_questions();
    Running {
        answer: Box::pin(call),
        began: Arc::clone(open),
        asked: Vec::new(),
        last_key: 0,
        timer: None,
    }
}

/// Takes up the call a request goes on with, and passes its answers on; none if it begins a new one.
pub(crate) fn resume(
    place: &Place<'_>,
    open: &Arc<OpenRequest>,
) -> Result<Option<Running>, CallError> {
    let Some(range) = json::member(place.params, "requestState") else { return Ok(None) };
    let sealed = json::string(&place.params[range]).unwrap_or_default();
    let request = digest(place.method, place.sent);
    let gone = || CallError::InvalidParams {
        reason: "the call that `requestState` names has ended; make the request anew".to_owned(),
    };
    let elsewhere = || CallError::InvalidParams {
        reason:
            "the call that `requestState` names waits at another gateway process, or at one that \
            has ended; go on there, or make the request anew"
                .to_owned(),
    };
    let number = match place.seal.open(place.principal, place.upstream, request, &sealed)? {
        Inner::Parked { process, number } if process == place.seal.process => number,
        Inner::Parked { .. } => return Err(elsewhere()),
        Inner::Upstream(_) => return Err(gone()),
    };
    let session = open.session().ok_or(CallError::Cancelled)?;
    let mut running = lock(&session.parked.calls).remove(&number).ok_or_else(gone)?;
    running.timer = None;
    let token = json::at_path(place.params, &["_meta", "progressToken"]);
    let token = token.map(|range| place.params.slice(range));
    running.began.continue_in(open, token.clone());
    if let Some((connection, id)) = running.began.went_to() {
        connection.retoken(id, token);
    }
    let responses = json::member(place.params, "inputResponses");
    let responses = responses.map_or(&b"{}"[..], |range| &place.params[range]);
    let response = |key: &str| {
        json::member(responses, key).map(|range| Bytes::copy_from_slice(&responses[range]))
    };
    let (answered, asked): (Vec<_>, _) =
        running.asked.drain(..).partition(|(key, _)| response(key).is_some());
    running.asked = asked;
    for (key, question) in answered {
        let json = response(&key).unwrap_or_default();
        question.answer(Outcome::Result { json, tool_error: false }, None);
    }
    Ok(Some(running))
}

impl Running {
    /// Waits for the answer, or for something that the client has to be asked first.
    pub(crate) async fn answer(mut self, place: &Place<'_>) -> Result<Answer, CallError> {
        if self.asked.is_empty() {
            tokio::select! {
                biased;
                answer = &mut self.answer => return answer,
                questions = self.began.asked() => self.note(questions),
            }
        }
        // A server that wants to know several things asks for all of them at once. It may also have gone
        // on without an answer.
        tokio::select! {
            biased;
            answer = &mut self.answer => return answer,
            () = sleep(GATHER) => {}
        }
        let questions = self.began.questions();
        self.note(questions);
        let session = self.began.session().ok_or(CallError::Cancelled)?;
        let requests: Vec<_> = self
            .asked
            .iter()
            .map(|(key, question)| input_request(key, question.message()))
            .collect();
        let parking = &session.parked;
        // Of no use to guess: another session may have a call with the same params.
        let number = rand::random();
        let waiting = Arc::downgrade(&session);
        self.timer = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(STATE_TTL).await;
            if let Some(session) = waiting.upgrade() {
                let outdated = lock(&session.parked.calls).remove(&number);
                drop(outdated);
            }
        })));
        {
            let mut calls = lock(&parking.calls);
            if calls.len() >= PARKED_MAX {
                return Err(CallError::Busy { limit: PARKED_MAX });
            }
            calls.insert(number, self);
        }
        let request = digest(place.method, place.sent);
        let inner = Inner::Parked { process: place.seal.process, number };
        let state = place.seal.seal(place.principal, place.upstream, request, inner);
        let json = format!(
            r#"{{"resultType":"input_required","inputRequests":{{{}}},"requestState":"{state}"}}"#,
            requests.join(",")
        );
        Ok((Outcome::Result { json: json.into(), tool_error: false }, None))
    }

    fn note(&mut self, questions: Vec<Question>) {
        for question in questions {
            self.last_key += 1;
            self.asked.push((format!("request-{}", self.last_key), question));
        }
    }
}

fn input_request(key: &str, message: &Message) -> String {
    let method = json::quote(&message.method());
    match &message.body()[..] {
        b"" => format!(r#""{key}":{{"method":{method}}}"#),
        params => {
            format!(r#""{key}":{{"method":{method},"params":{}}}"#, String::from_utf8_lossy(params))
        }
    }
}

/// Returns how a call ended that has an answer.
pub(crate) fn outcome(message: &Message) -> Outcome {
    let json: Bytes = message.body();
    match message.is_error() {
        true => Outcome::Rpc { json },
        false => {
            Outcome::Result { tool_error: message.body_member("isError") == Some(b"true"), json }
        }
    }
}
