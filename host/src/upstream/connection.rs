//! One connection to an upstream: our ids, the calls that are open, their deadlines. Knows JSON-RPC
//! and no transport.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Listener, UpstreamError};
use crate::lock;
use crate::mcp::{self, Era, Message, Revision};
use crate::wire::{NotQueued, Outlet};

/// However much progress a call reports, it ends after this many times its timeout.
const TIMEOUT_FACTOR_MAX: u32 = 6;

/// Progress tokens of tasks are remembered for this many tasks; then the oldest is forgotten.
const TASK_TOKENS_MAX: usize = 1024;

/// Whoever made a call. The listener knows what it is; what belongs to the call comes with it.
pub trait Origin: Any + std::fmt::Debug + Send + Sync {
    /// Returns who hears what belongs to the call.
    fn listener(&self) -> Weak<dyn Listener>;
}

/// A connection to an upstream.
pub struct Connection {
    upstream: Arc<str>,
    outlet: Arc<dyn Outlet>,
    /// Negotiated with the upstream; none before.
    revision: OnceLock<Revision>,
    last_id: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Calls without an answer, by our id. Ids rise, so the first is the oldest.
    calls: BTreeMap<u64, OpenCall>,
    /// Progress tokens of calls that went on as tasks, and who hears of those.
    task_tokens: BTreeMap<u64, (Bytes, Option<Weak<dyn Listener>>)>,
    /// Requests of the upstream that the client has not answered.
    asked: usize,
    /// Why there is no connection any more.
    lost: Option<Arc<str>>,
}

struct OpenCall {
    answer: oneshot::Sender<Result<Message, UpstreamError>>,
    origin: Option<Arc<dyn Origin>>,
    /// The caller's own progress token, as raw JSON.
    progress_token: Option<Bytes>,
    /// When the upstream last reported progress.
    active: Instant,
}

/// How a call may end without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without progress, the call is given up after this long.
    pub timeout: Duration,
    /// The upstream is told when it is given up. `initialize` must not be cancelled (basic/utilities/cancellation).
    pub cancels: bool,
}

/// What belongs to a call besides its line.
#[derive(Debug, Default)]
pub struct Sender {
    /// The caller's own progress token, as raw JSON.
    pub progress_token: Option<Bytes>,
    /// Whoever made the call.
    pub origin: Option<Arc<dyn Origin>>,
}

impl Connection {
    /// Returns a connection whose messages leave through `outlet`.
    pub fn new(upstream: Arc<str>, outlet: Arc<dyn Outlet>) -> Self {
        Self {
            upstream,
            outlet,
            revision: OnceLock::new(),
            last_id: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// Notes what was negotiated.
    pub fn negotiated(&self, revision: Revision) {
        let _ = self.revision.set(revision);
    }

    /// Returns the era the upstream lives in.
    pub fn era(&self) -> Era {
        self.revision.get().map_or(Era::Legacy, |revision| revision.era())
    }

    /// Sends one call and waits for its answer, which may be an error of the upstream's own.
    ///
    /// `compose` makes the line, in pieces, from our id; the id serves as the progress token too.
    /// `sent` learns the id before the line leaves.
    ///
    /// # Errors
    ///
    /// - [`UpstreamError::Closed`]: gone before the call was sent. Safe to retry.
    /// - [`UpstreamError::Lost`], [`UpstreamError::Deadline`]: the tool may have run. Never retry.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future sends `notifications/cancelled`, unless [`Connection::forget`] was called.
    pub async fn call(
        &self,
        patience: Patience,
        sender: Sender,
        compose: impl FnOnce(u64) -> Vec<Bytes>,
        sent: impl FnOnce(u64),
    ) -> Result<Message, UpstreamError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let line = compose(id);
        let (answer, mut answered) = oneshot::channel();
        let started = Instant::now();
        {
            let mut open = self.lock();
            if let Some(reason) = &open.lost {
                return Err(self.closed(reason));
            }
            let Sender { progress_token, origin } = sender;
            open.calls.insert(id, OpenCall { answer, origin, progress_token, active: started });
        }
        let guard = CallGuard { connection: self, id, cancels: patience.cancels };
        sent(id);
        if let Err(reason) = self.outlet.push(&line) {
            self.forget(id);
            return Err(self.closed(match reason {
                NotQueued::Full => "it does not read its input",
                NotQueued::Closed => "its input is closed",
            }));
        }
        let end = started + patience.timeout * TIMEOUT_FACTOR_MAX;
        let mut deadline = started + patience.timeout;
        loop {
            if let Ok(answer) = timeout_at(deadline, &mut answered).await {
                return answer
                    .unwrap_or_else(|_| Err(self.lost_error("the connection was dropped")));
            }
            match self.active(id).map(|active| (active + patience.timeout).min(end)) {
                Some(later) if later > Instant::now() => deadline = later,
                Some(_) => {
                    drop(guard);
                    let upstream = self.upstream.to_string();
                    return Err(UpstreamError::Deadline { upstream, limit: deadline - started });
                }
                None => deadline = end,
            }
        }
    }

    /// Returns when a call was last heard of; now, while the upstream waits for the client.
    fn active(&self, id: u64) -> Option<Instant> {
        let open = self.lock();
        let active = open.calls.get(&id)?.active;
        Some(if open.asked > 0 { Instant::now() } else { active })
    }

    /// Hands a response to the call it belongs to. Returns false if there is none (any more).
    pub fn answer(&self, response: Message) -> bool {
        let Some(call) = response.id_number().and_then(|id| {
            let mut open = self.lock();
            let call = open.calls.remove(&id)?;
            let token =
                call.progress_token.clone().filter(|_| response.body_member("task").is_some());
            if let Some(token) = token {
                // A task's progress goes on under the call's token (2025-11-25, basic/utilities/tasks).
                let listener = call.origin.as_ref().map(|origin| origin.listener());
                open.task_tokens.insert(id, (token, listener));
                if open.task_tokens.len() > TASK_TOKENS_MAX {
                    open.task_tokens.pop_first();
                }
            }
            Some(call)
        }) else {
            return false;
        };
        call.answer.send(Ok(response)).is_ok()
    }

    /// Returns the caller's own token for one of ours, and notes that the call is alive. `None` for
    /// a token that is unknown or late.
    pub fn progress(&self, token: &[u8]) -> Option<(Bytes, Option<Arc<dyn Origin>>)> {
        let id = number(token)?;
        let mut open = self.lock();
        match open.calls.get_mut(&id) {
            Some(call) => {
                call.active = Instant::now();
                Some((call.progress_token.clone()?, call.origin.clone()))
            }
            None => open.task_tokens.get(&id).map(|(token, _)| (token.clone(), None)),
        }
    }

    /// Returns who hears of the progress under one of our tokens.
    pub fn listener(&self, token: &[u8]) -> Option<Arc<dyn Listener>> {
        let id = number(token)?;
        let open = self.lock();
        let listener = match open.calls.get(&id) {
            Some(call) => call.origin.as_ref()?.listener(),
            None => open.task_tokens.get(&id)?.1.clone()?,
        };
        listener.upgrade()
    }

    /// Returns whoever made a call; without an id, the caller if there is but one, else the last one.
    pub fn origin(&self, id: Option<u64>) -> Option<Arc<dyn Origin>> {
        let open = self.lock();
        match id {
            Some(id) => open.calls.get(&id)?.origin.clone(),
            None => open.calls.values().rev().find_map(|call| call.origin.clone()),
        }
    }

    /// From now on, the caller knows a call's progress by another token.
    pub fn retoken(&self, id: u64, token: Option<Bytes>) {
        if let Some(call) = self.lock().calls.get_mut(&id) {
            call.progress_token = token;
        }
    }

    /// Returns whoever made the one open call that somebody made; none if there are several.
    pub fn only_origin(&self) -> Option<Arc<dyn Origin>> {
        let open = self.lock();
        let mut origins = open.calls.values().filter_map(|call| call.origin.as_ref());
        let first = origins.next()?;
        origins.next().is_none().then(|| Arc::clone(first))
    }

    /// Ends a call that gets no answer.
    pub fn fail(&self, id: u64, error: UpstreamError) {
        let call = self.lock().calls.remove(&id);
        if let Some(call) = call {
            let _ = call.answer.send(Err(error));
        }
    }

    /// Returns our id of the oldest open call.
    pub fn oldest(&self) -> Option<u64> {
        self.lock().calls.first_key_value().map(|(id, _)| *id)
    }

    /// Fails all open calls and refuses further ones.
    pub fn lose(&self, reason: &str) {
        let calls = {
            let mut open = self.lock();
            open.lost = Some(reason.into());
            std::mem::take(&mut open.calls)
        };
        self.outlet.close();
        for call in calls.into_values() {
            let _ = call.answer.send(Err(self.lost_error(reason)));
        }
    }

    /// Sends a line that needs no answer. A peer that is gone or does not read misses it.
    pub fn send(&self, line: &[Bytes]) {
        let _ = self.outlet.push(line);
    }

    /// Forgets a call: its answer is dropped, and the upstream is not told.
    pub fn forget(&self, id: u64) -> bool {
        self.lock().calls.remove(&id).is_some()
    }

    /// Notes that the upstream waits for the client, and calls must be patient.
    pub fn asks(&self) {
        self.lock().asked += 1;
    }

    /// Notes that the client has answered.
    pub fn asked(&self) {
        let mut open = self.lock();
        open.asked = open.asked.saturating_sub(1);
        let now = Instant::now();
        for call in open.calls.values_mut() {
            call.active = now;
        }
    }

    /// Returns the number of open calls that somebody made, not counting our own.
    pub fn open_calls(&self) -> usize {
        self.lock().calls.values().filter(|call| call.origin.is_some()).count()
    }

    fn closed(&self, reason: &str) -> UpstreamError {
        UpstreamError::Closed { upstream: self.upstream.to_string(), reason: reason.to_owned() }
    }

    fn lost_error(&self, reason: &str) -> UpstreamError {
        UpstreamError::Lost { upstream: self.upstream.to_string(), reason: reason.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

fn number(token: &[u8]) -> Option<u64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Cancels a call that nobody waits for any more.
struct CallGuard<'a> {
    connection: &'a Connection,
    id: u64,
    cancels: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if self.connection.forget(self.id) && self.cancels {
            let params =
                format!(r#"{{"requestId":{},"reason":"given up by the gateway"}}"#, self.id);
            let line = mcp::notification_line("notifications/cancelled", params.as_bytes());
            self.connection.send(&[line.into()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Outbox;

    const PATIENCE: Patience = Patience { timeout: Duration::from_secs(60), cancels: true };

    fn connection() -> (Arc<Connection>, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::default());
        let outlet: Arc<dyn Outlet> = Arc::<Outbox>::clone(&outbox);
        (Arc::new(Connection::new("files".into(), outlet)), outbox)
    }

    fn compose(id: u64) -> Vec<Bytes> {
        vec![mcp::request_line(id, "tools/call", b"{}").into()]
    }

    fn message(text: String) -> Message {
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[tokio::test]
    async fn an_answer_reaches_its_call_and_a_late_one_nobody() {
        let (connection, _outbox) = connection();
        let answered = async {
            tokio::task::yield_now().await;
            assert!(
                connection.answer(message(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#.into()))
            );
            assert!(!connection.answer(message(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into())));
        };

        let (answer, ()) =
            tokio::join!(connection.call(PATIENCE, Sender::default(), compose, |_| {}), answered);

        assert_eq!(answer.unwrap().body(), r#"{"a":1}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_keeps_a_call_alive_but_not_for_ever() {
        let (connection, _outbox) = connection();
        let sender = Sender { progress_token: Some(Bytes::from_static(b"\"t\"")), origin: None };
        let progressing = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                if connection.progress(b"1").is_none() {
                    break;
                }
            }
        };
        let started = Instant::now();

        let (answer, ()) =
            tokio::join!(connection.call(PATIENCE, sender, compose, |_| {}), progressing);

        assert!(matches!(answer.unwrap_err(), UpstreamError::Deadline { .. }));
        assert!(started.elapsed() >= Duration::from_secs(360));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_is_cancelled_upstream() {
        let (connection, outbox) = connection();

        let answer = connection.call(PATIENCE, Sender::default(), compose, |_| {}).await;

        assert!(matches!(answer.unwrap_err(), UpstreamError::Deadline { .. }));
        outbox.close();
        let mut written = Vec::new();
        outbox.write_to(&mut written).await.unwrap();
        let written = String::from_utf8(written).unwrap();
        assert!(
            written.ends_with(
                "\"params\":{\"requestId\":1,\"reason\":\"given up by the gateway\"}}\n"
            ),
            "{written}"
        );
    }

    #[tokio::test]
    async fn open_calls_fail_when_the_connection_is_lost() {
        let (connection, _outbox) = connection();
        let lost = async {
            tokio::task::yield_now().await;
            connection.lose("it exited with code 3");
        };

        let (answer, ()) =
            tokio::join!(connection.call(PATIENCE, Sender::default(), compose, |_| {}), lost);

        assert_eq!(
            answer.unwrap_err().to_string(),
            "upstream `files` ended during the call: it exited with code 3"
        );
        let next = connection.call(PATIENCE, Sender::default(), compose, |_| {}).await;
        assert!(matches!(next.unwrap_err(), UpstreamError::Closed { .. }));
    }
}
