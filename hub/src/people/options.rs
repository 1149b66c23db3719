//! What whoever starts the Hub says about people: how mail is sent, and who else knows them.

use super::mail::MailError;
use super::oidc::ProviderError;

/// How people prove who they are. By default with codes that are written to the log.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `smtps://user:password@host:port`.
    pub smtp_url: Option<String>,
    /// Where mail comes from; needed with `smtp_url`.
    pub mail_from: Option<String>,
    /// An identity provider.
    pub oidc: Option<OidcOptions>,
}

/// An identity provider that speaks OpenID Connect.
#[derive(Clone)]
pub struct OidcOptions {
    /// As it calls itself, such as `https://accounts.example.com`.
    pub issuer: String,
    /// What the provider calls this Hub.
    pub client_id: String,
    /// What the Hub proves it with; nothing if the provider knows it as a public client.
    pub client_secret: Option<String>,
    /// Whoever has a verified address in this domain becomes a Member by signing in.
    pub join_domain: Option<String>,
}

impl std::fmt::Debug for OidcOptions {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcOptions")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("join_domain", &self.join_domain)
            .finish_non_exhaustive()
    }
}

/// Why the Hub does not start with them.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The public address has a path, or is no address of a web site.
    #[error(
        "the public address `{url}` is not one such as `https://hub.example.com`; a path is not possible"
    )]
    PublicUrl {
        /// The address.
        url: String,
    },
    /// Mail.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The identity provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}
