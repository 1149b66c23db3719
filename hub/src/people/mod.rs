//! People: who they are, how they prove it, and what they may do.
//!
//! Knows nothing of gateways and records but who may see them, and that they go with their workspace. How pages
//! look is in [`crate::web::people`].

mod address;
pub(crate) mod admin_log;
mod attempts;
pub(crate) mod authority;
mod codes;
pub(crate) mod cookies;
mod delete;
mod entries;
pub(crate) mod gate;
pub(crate) mod grants;
pub(crate) mod invites;
pub(crate) mod keys;
mod mail;
pub(crate) mod members;
pub(crate) mod oidc;
mod options;
pub(crate) mod organization;
pub(crate) mod sessions;
pub(crate) mod setup;
pub(crate) mod sign_in;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod ticket;
pub(crate) mod tokens;

use std::net::IpAddr;
use std::sync::Arc;

use url::Url;

pub(crate) use admin_log::Act;
pub(crate) use gate::HubGate;
pub use mail::MailError;
pub use oidc::ProviderError;
pub use options::{OidcOptions, Options, OptionsError};
pub(crate) use sweep::sweep;
pub(crate) use tokens::Issued;

use crate::db::Database;
use crate::error::ApiError;
use attempts::Askers;
use mail::Mailer;
use oidc::Provider;

/// Everything about people, on one database.
pub(crate) struct People {
    database: Arc<dyn Database>,
    mailer: Mailer,
    oidc: Option<Provider>,
    public_url: Url,
    askers: Askers,
    #[cfg(test)]
    later_ms: std::sync::atomic::AtomicI64,
}

impl People {
    /// `public_url` is what people have in their browsers: `https://hub.example.com`.
    ///
    /// # Errors
    ///
    /// If mail or the identity provider cannot be set up as said.
    pub(crate) fn new(
        database: Arc<dyn Database>,
        options: Options,
        public_url: Url,
    ) -> Result<Self, OptionsError> {
        let is_web = matches!(public_url.scheme(), "https" | "http") && public_url.has_host();
        let is_plain = public_url.query().is_none() && public_url.fragment().is_none();
        if !is_web || !is_plain || public_url.path() != "/" {
            return Err(OptionsError::PublicUrl { url: public_url.into() });
        }
        Ok(Self {
            database,
            mailer: Mailer::new(options.smtp_url.as_deref(), options.mail_from.as_deref())?,
            oidc: options.oidc.map(Provider::new).transpose()?,
            public_url,
            askers: Askers::new(),
            #[cfg(test)]
            later_ms: 0.into(),
        })
    }

    /// Returns the address of a page.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.public_url)
    }

    /// What clients know this Hub by: its address without the last slash.
    pub(crate) fn issuer(&self) -> &str {
        self.public_url.as_str().trim_end_matches('/')
    }

    /// The public address.
    pub(crate) fn public_url(&self) -> &Url {
        &self.public_url
    }

    /// Whether mail goes to people, and not into the log.
    pub(crate) fn sends_mail(&self) -> bool {
        self.mailer.sends()
    }

    /// Waits until all mail is sent that is under way. For the end of the process.
    pub(crate) async fn finish(&self) {
        self.mailer.finish().await;
    }

    /// Counts a request of somebody without a session, and refuses if there were too many.
    pub(crate) fn check_asker(&self, address: IpAddr) -> Result<(), ApiError> {
        self.askers.check(address)
    }

    fn now_ms(&self) -> i64 {
        let now_ms = crate::clock::now_ms();
        #[cfg(test)]
        let now_ms = now_ms + self.later_ms.load(std::sync::atomic::Ordering::Relaxed);
        now_ms
    }
}

impl std::fmt::Debug for People {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("People")
            .field("public_url", &self.public_url.as_str())
            .finish_non_exhaustive()
    }
}

/// Returns the routes of people.
pub(crate) fn router(people: Arc<People>) -> axum::Router {
    crate::web::people::router(people)
}
