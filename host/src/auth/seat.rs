//! What one process knows about one server, so that a call with a good token waits for nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::AuthError;
use super::grant::Grant;
use super::secret::Secret;
use super::sign_in::SignIn;
use crate::lock;

/// What is on disk is looked at this often, beside the calls: another process may have signed out.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Who gave no answer is left alone so long: each of many calls would wait for the next silence.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A server's place.
#[derive(Default)]
pub(super) struct Seat {
    /// Held by whoever talks to somebody about this server.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was on disk, and when.
    seen: Option<(Option<Arc<Grant>>, Instant)>,
    sign_in: Option<SignIn>,
    /// The browser was opened since somebody signed in last.
    was_opened: bool,
    /// Somebody looks, or refreshes, beside the calls.
    is_renewing: bool,
    /// Nobody on the way to a token gave an answer, and until when nobody is asked again.
    silence: Option<(Arc<AuthError>, Instant)>,
}

/// What a call can go by.
pub(super) enum Known {
    /// A token, or that there is none.
    Token(Option<Secret>),
    /// The same, and somebody should look whether that still holds.
    Aging(Option<Secret>),
    /// Nothing before somebody has looked.
    Nothing,
}

impl Seat {
    /// Returns what is known, without looking.
    pub(super) fn known(&self, now: u64) -> Known {
        let mut state = lock(&self.state);
        let Some((grant, at)) = &state.seen else { return Known::Nothing };
        if grant.as_ref().is_some_and(|grant| !grant.is_valid(now)) {
            return Known::Nothing;
        }
        let token = grant.as_ref().map(|grant| grant.access_token.clone());
        let may_ask = state.silence.as_ref().is_none_or(|(_, end)| Instant::now() >= *end);
        let is_due = may_ask && grant.as_ref().is_some_and(|grant| grant.is_due(now));
        if state.is_renewing || !(is_due || at.elapsed() >= LOOK_PERIOD) {
            return Known::Token(token);
        }
        state.is_renewing = true;
        Known::Aging(token)
    }

    /// Notes what is on disk.
    pub(super) fn saw(&self, grant: Option<Arc<Grant>>) {
        lock(&self.state).seen = Some((grant, Instant::now()));
    }

    /// Notes that nobody looks any more.
    pub(super) fn renewed(&self) {
        lock(&self.state).is_renewing = false;
    }

    /// Notes an error, and returns it; if it took long to find out, it stands for a while.
    pub(super) fn failed(&self, error: AuthError) -> AuthError {
        if !error.is_silence() {
            return error;
        }
        let error = Arc::new(error);
        let end = Instant::now() + RETRY_AFTER;
        lock(&self.state).silence = Some((Arc::clone(&error), end));
        AuthError::Earlier(error)
    }

    /// Returns the error that still stands.
    pub(super) fn standing_error(&self) -> Option<AuthError> {
        let state = lock(&self.state);
        let (error, end) = state.silence.as_ref()?;
        (Instant::now() < *end).then(|| AuthError::Earlier(Arc::clone(error)))
    }

    /// Returns the sign-in that is under way.
    pub(super) fn sign_in(&self) -> Option<SignIn> {
        lock(&self.state).sign_in.clone()
    }

    /// Notes a sign-in that begins.
    pub(super) fn begin(&self, sign_in: SignIn) {
        lock(&self.state).sign_in = Some(sign_in);
    }

    /// Notes that no sign-in is under way. The next one may open the browser if somebody signed in.
    pub(super) fn end(&self, signed_in: bool) {
        let mut state = lock(&self.state);
        state.sign_in = None;
        state.was_opened &= !signed_in;
    }

    /// Returns whether the browser may be opened, once.
    pub(super) fn may_open(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).was_opened, true)
    }
}
