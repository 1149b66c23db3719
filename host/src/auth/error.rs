//! Why somebody is not signed in, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use super::fetch::FetchError;
use super::vault::VaultError;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A token must not be sent to such a server.
    #[error("`{name}` cannot be signed in to: {reason}")]
    Server {
        /// Its name in the config.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Somebody on the way to a token gives no answer, or must not be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What a server says about signing in does not hold.
    #[error("`{url}` {reason}")]
    Metadata {
        /// Who said it, without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The authorization server takes no client that we could be.
    #[error("`{issuer}` knows no client `ultra`: {reason}")]
    Unregistered {
        /// The authorization server.
        issuer: String,
        /// Why.
        reason: String,
    },
    /// The client's credentials belong to another authorization server.
    #[error("the server now trusts `{issuer}`, but `oauth.client_id` was used at `{before}`")]
    Moved {
        /// The authorization server it names now.
        issuer: String,
        /// The one it named before.
        before: String,
    },
    /// The authorization server, or who signed in there, said no.
    #[error("`{issuer}` refuses: {reason}")]
    Denied {
        /// The authorization server.
        issuer: String,
        /// Its error code and what it says about it.
        reason: String,
    },
    /// An answer that may come from somebody else.
    #[error("the answer to the sign-in at `{issuer}` is not trusted: {reason}")]
    Untrusted {
        /// The authorization server that was asked.
        issuer: String,
        /// Why.
        reason: &'static str,
    },
    /// The callback cannot be listened for.
    #[error("cannot listen on 127.0.0.1{} for the end of the sign-in", port.map(|port| format!(":{port}")).unwrap_or_default())]
    Callback {
        /// `oauth.callback_port`.
        port: Option<u16>,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody signed in.
    #[error("nobody signed in within {} min", limit.as_secs() / 60)]
    Late {
        /// How long it was waited.
        limit: Duration,
    },
    /// Another gateway led the sign-in, and it came to nothing.
    #[error("the sign-in that another gateway began has failed")]
    Elsewhere,
    /// The server takes calls from anybody.
    #[error("`{url}` does not ask anybody to sign in")]
    Open {
        /// The server, without its query.
        url: String,
    },
    /// The server does not accept what its authorization server just gave out.
    #[error("the server refuses the token it was just given: {reason}")]
    Useless {
        /// What it refuses it for.
        reason: String,
    },
    /// Another process keeps the tokens busy.
    #[error("another gateway holds the tokens for more than {} s", limit.as_secs())]
    Busy {
        /// How long it was waited.
        limit: Duration,
    },
    /// The tokens cannot be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The same as a moment ago; nobody was asked again.
    #[error(transparent)]
    Earlier(Arc<Self>),
    /// The gateway is ending.
    #[error("the gateway is ending")]
    Ending,
}

impl AuthError {
    /// Returns what to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Server { .. } => Some("use its `https://` URL"),
            Self::Unregistered { .. } => Some(
                "register a client there and set `oauth.client_id` of the server, and `oauth.client_secret` if it has one",
            ),
            Self::Moved { .. } => {
                Some("if that is right, run `ultra auth logout` for the server and sign in again")
            }
            Self::Denied { .. } | Self::Late { .. } | Self::Elsewhere | Self::Untrusted { .. } => {
                Some("run `ultra auth login` for the server to try again")
            }
            Self::Callback { .. } => Some("`oauth.callback_port` of the server names another port"),
            Self::Useless { .. } => {
                Some("ask whoever runs the server; `oauth.scopes` names what to ask for")
            }
            Self::Vault(error) => error.hint(),
            Self::Earlier(error) => error.hint(),
            Self::Fetch(_)
            | Self::Metadata { .. }
            | Self::Open { .. }
            | Self::Busy { .. }
            | Self::Ending => None,
        }
    }

    /// Returns whether asking again at once would only take as long again.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::Busy { .. })
    }
}

/// Returns what somebody else says, as it may stand in a line of ours.
pub(super) fn quoted(text: &str) -> String {
    /// So much of it is worth a line.
    const CHARS_MAX: usize = 200;
    text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}
