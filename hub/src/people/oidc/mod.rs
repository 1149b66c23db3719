//! Sign-in at an identity provider: OpenID Connect, a code with PKCE, bound to the browser.
//!
//! A provider says who somebody is. Whether they may come in, and as what, is said here: it makes nobody more
//! than a Member.

mod fetch;
mod id_token;
mod provider;
mod signature;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use url::Url;

pub(super) use provider::Provider;
pub use provider::ProviderError;

use super::People;
use super::address::{self, Email};
use super::admin_log::{self, Act};
use super::authority::Scope;
use super::members::join;
use super::sessions::Device;
use super::sign_in::Method;
use super::ticket::Ticket;
use crate::access::{Account, Role};
use crate::db::{DbError, Transaction, values};
use crate::error::{ApiError, chain};
use fetch::FetchError;
use id_token::Claims;
use provider::OidcError;

/// To sign in at the provider: they may have to look for their phone.
const VALID_MS: i64 = 15 * 60_000;

/// What a code of a provider may have.
const CODE_BYTES_MAX: usize = 4096;

const AGAIN: &str = "this sign-in was not begun in this browser, or too long ago; begin again";

/// What came back from the provider.
#[derive(Debug, Default)]
pub(crate) struct Callback<'a> {
    pub(crate) state: &'a str,
    pub(crate) code: Option<&'a str>,
    pub(crate) issuer: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
}

impl People {
    /// Whether there is an identity provider.
    pub(crate) fn has_oidc(&self) -> bool {
        self.oidc.is_some()
    }

    /// Begins a sign-in at the provider; returns where to go.
    pub(crate) async fn begin_oidc(
        &self,
        browser: &Ticket,
        return_to: &str,
    ) -> Result<Url, ApiError> {
        let provider = self.oidc.as_ref().ok_or(ApiError::NotFound("identity provider"))?;
        let metadata = provider.metadata().await.map_err(unavailable)?;
        let (state, nonce, verifier) = (Ticket::new(), Ticket::new(), Ticket::new());
        let sql = "INSERT INTO flows (hash, nonce, verifier, return_to, expires_ms) VALUES ($1, $2, $3, $4, $5)";
        let (hash, until_ms) = (bound(&state, browser), self.now_ms() + VALID_MS);
        let row = values![hash, nonce.reveal(), verifier.reveal(), return_to, until_ms];
        self.database.execute(sql, &row).await?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.reveal()));
        let mut url = metadata.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.options.client_id)
            .append_pair("redirect_uri", &self.oidc_redirect())
            .append_pair("scope", "openid email profile")
            .append_pair("state", state.reveal())
            .append_pair("nonce", nonce.reveal())
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Signs in whoever comes back; returns their session and where they wanted to go.
    pub(crate) async fn finish_oidc(
        &self,
        browser: Option<&Ticket>,
        callback: &Callback<'_>,
        device: &Device,
    ) -> Result<(Ticket, String), ApiError> {
        let provider = self.oidc.as_ref().ok_or(ApiError::NotFound("identity provider"))?;
        let again = || ApiError::Invalid(AGAIN.to_owned());
        let (state, browser) = Ticket::parse(callback.state).zip(browser).ok_or_else(again)?;
        let mut transaction = self.database.begin().await?;
        let sql =
            "DELETE FROM flows WHERE hash = $1 RETURNING nonce, verifier, return_to, expires_ms";
        let row =
            transaction.row(sql, &values![bound(&state, browser)]).await?.ok_or_else(again)?;
        transaction.commit().await?;
        if row.get::<i64>(3)? <= self.now_ms() {
            return Err(again());
        }
        if callback.issuer.is_some_and(|issuer| issuer != provider.options.issuer) {
            let reason = "somebody else answered than the identity provider";
            self.note_stranger("unknown", reason, device.address).await;
            return Err(ApiError::Invalid(reason.to_owned()));
        }
        let code = callback.code.filter(|code| !code.is_empty() && code.len() <= CODE_BYTES_MAX);
        let Some(code) = code.filter(|_| callback.error.is_none()) else {
            let reason = "the identity provider did not let them in";
            self.note_stranger("unknown", reason, device.address).await;
            return Err(ApiError::Invalid(
                "the identity provider did not let you in; begin again".to_owned(),
            ));
        };
        let (nonce, verifier): (String, String) = (row.get(0)?, row.get(1)?);
        let claims = provider.claims(code, &verifier, &self.oidc_redirect(), &nonce).await;
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                let (reason, refusal) = failed(error);
                // Who it was, nobody knows: what a token says that is not accepted is worth nothing.
                self.note_stranger("unknown", reason, device.address).await;
                return Err(refusal);
            }
        };
        match self.sign_in_as(&claims, provider, device).await? {
            Ok(session) => Ok((session, row.get(2)?)),
            Err(reason) => {
                self.note_stranger(
                    claims.email.as_deref().unwrap_or(&claims.sub),
                    reason,
                    device.address,
                )
                .await;
                Err(ApiError::Forbidden(
                    "people who are members or invited, with a verified e-mail address,",
                ))
            }
        }
    }

    /// Finds who that is; the inner error is why they may not come in.
    async fn sign_in_as(
        &self,
        claims: &Claims,
        provider: &Provider,
        device: &Device,
    ) -> Result<Result<Ticket, &'static str>, ApiError> {
        let Some(Ok(email)) = claims.email.as_deref().map(Email::parse) else {
            return Ok(Err("no e-mail address"));
        };
        if !claims.is_verified() {
            return Ok(Err("the e-mail address is not verified"));
        }
        let mut transaction = self.database.begin().await?;
        let issuer = provider.options.issuer.as_str();
        let linked = linked(&mut *transaction, issuer, &claims.sub).await?;
        let account = match linked {
            Some(known) => self.admit(&mut *transaction, &Email::parse(&known)?).await?,
            None if is_taken(&mut *transaction, issuer, &email).await? => {
                return Ok(Err("the address belongs to another identity of this provider"));
            }
            None => match self.admit(&mut *transaction, &email).await? {
                Some(account) => Some(account),
                None => self.auto_join(&mut *transaction, &email, provider, device).await?,
            },
        };
        let Some(mut account) = account else { return Ok(Err("neither a member nor invited")) };
        let sql = "INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)
             ON CONFLICT (issuer, subject) DO NOTHING";
        transaction.execute(sql, &values![issuer, &claims.sub, account.id]).await?;
        let told = address::told(claims.name.as_deref().unwrap_or_default());
        if account.name.is_empty() && !told.is_empty() {
            let sql = "UPDATE users SET name = $1 WHERE id = $2";
            transaction.execute(sql, &values![&told, account.id]).await?;
            account.name = told;
        }
        let session = self.begin_session(&mut *transaction, &account, Method::Oidc, device).await?;
        transaction.commit().await?;
        Ok(Ok(session))
    }

    /// Makes whoever has an address in the domain that may join a Member of the first organization.
    ///
    /// Not somebody who has an account: they may have been removed.
    async fn auto_join(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
        provider: &Provider,
        device: &Device,
    ) -> Result<Option<Account>, ApiError> {
        if provider.options.join_domain.as_deref() != Some(email.domain()) {
            return Ok(None);
        }
        let known =
            transaction.row("SELECT 1 FROM users WHERE email = $1", &values![email]).await?;
        let sql = "SELECT id FROM organizations ORDER BY created_ms, id LIMIT 1";
        let first = transaction.row(sql, &[]).await?.filter(|_| known.is_none());
        let Some(first) = first else { return Ok(None) };
        let (organization, now_ms) = (first.get(0)?, self.now_ms());
        let account = self.account(transaction, email, "").await?;
        join(
            transaction,
            account.id,
            organization,
            Scope::Organization(organization),
            Role::Member,
            now_ms,
        )
        .await?;
        let act = Act::new("member.joined", email.as_str()).of(&account.id.to_string());
        let act = act.with("role", Role::Member.as_str()).by(&account).from(device.address);
        admin_log::write(transaction, organization, now_ms, &act).await?;
        Ok(Some(account))
    }

    fn oidc_redirect(&self) -> String {
        self.url("sign-in/oidc/callback")
    }
}

/// Returns the address of the account that belongs to a subject of a provider.
async fn linked(
    transaction: &mut dyn Transaction,
    issuer: &str,
    subject: &str,
) -> Result<Option<String>, DbError> {
    let sql = "SELECT u.email FROM identities i JOIN users u ON u.id = i.user_id
         WHERE i.issuer = $1 AND i.subject = $2";
    let row = transaction.row(sql, &values![issuer, subject]).await?;
    row.map(|row| row.get(0)).transpose()
}

/// Whether the account with this address belongs to some subject of this provider.
///
/// An address that went to somebody new, as happens in companies, does not take the account along.
async fn is_taken(
    transaction: &mut dyn Transaction,
    issuer: &str,
    email: &Email,
) -> Result<bool, DbError> {
    let sql = "SELECT 1 FROM identities i JOIN users u ON u.id = i.user_id WHERE i.issuer = $1 AND u.email = $2";
    Ok(transaction.row(sql, &values![issuer, email]).await?.is_some())
}

/// What is stored of a sign-in: found only with what came back and what the browser kept.
fn bound(state: &Ticket, browser: &Ticket) -> [u8; 32] {
    Sha256::new().chain_update(state.hash()).chain_update(browser.hash()).finalize().into()
}

/// Returns why somebody is not signed in: for the Admin Log, and for them.
fn failed(error: OidcError) -> (&'static str, ApiError) {
    match error {
        OidcError::Token(_) => {
            tracing::warn!(error = chain(&error), "an ID token is not accepted");
            let message = "the identity provider's answer is not accepted; the log says why";
            ("the ID token is not accepted", ApiError::Invalid(message.to_owned()))
        }
        OidcError::Fetch(FetchError::Status { status, .. }) if status.is_client_error() => {
            tracing::error!(error = chain(&error), "the identity provider takes no code from us");
            let message = "the identity provider did not accept this sign-in; begin again";
            ("the identity provider took no code from us", ApiError::Invalid(message.to_owned()))
        }
        OidcError::Fetch(_) | OidcError::Metadata(_) => {
            ("the identity provider cannot be used", unavailable(error))
        }
    }
}

fn unavailable(error: OidcError) -> ApiError {
    tracing::error!(error = chain(&error), "the identity provider cannot be used");
    ApiError::Unavailable { retry_s: 30 }
}
