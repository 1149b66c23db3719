//! A sign-in as those see it who wait for it.

use std::sync::Arc;

use tokio::sync::watch;

use super::AuthError;

/// How a sign-in ended; nothing while it goes on.
type Outcome = Option<Result<(), Arc<AuthError>>>;

/// A sign-in that somebody has to go through, in a browser.
#[derive(Debug, Clone)]
pub struct SignIn {
    url: Arc<str>,
    outcome: watch::Receiver<Outcome>,
}

/// Tells those who wait.
pub(super) struct Announcer(watch::Sender<Outcome>);

impl SignIn {
    pub(super) fn new(url: &str) -> (Self, Announcer) {
        let (sender, outcome) = watch::channel(None);
        (Self { url: url.into(), outcome }, Announcer(sender))
    }

    /// Returns where to sign in: an `http` or `https` URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until somebody has signed in; then the token is there.
    ///
    /// # Errors
    ///
    /// Why nobody has, as for all others who wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait, not the sign-in.
    pub async fn done(mut self) -> Result<(), Arc<AuthError>> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(Arc::new(AuthError::Ending)),
        }
    }
}

impl Announcer {
    pub(super) fn announce(self, outcome: Result<(), Arc<AuthError>>) {
        self.0.send_replace(Some(outcome));
    }
}
