//! Tokens for calls: found, renewed once for everybody, or asked for.

mod answer;
mod begin;
mod renew;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::challenge::Challenge;
use super::discovery;
use super::fetch::{self, Http};
use super::grant::{self, Grant};
use super::key::Protection;
use super::seat::{Known, Seat};
use super::vault::{Records, Vault, VaultError};
use super::{AuthError, Browser, Options, Secret, Server, SignIn};
use crate::{chain, lock};

/// At the end, a refresh that is under way may take this long: its token would be lost.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Has the tokens of all servers. One per process; clones are the same.
#[derive(Clone)]
pub struct Authorizer {
    shared: Arc<Shared>,
}

struct Shared {
    vault: Vault,
    http: Http,
    browser: Browser,
    seats: Mutex<HashMap<String, Arc<Seat>>>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// How a server refused a request.
#[derive(Debug, Clone)]
pub struct Refused<'a> {
    /// 401 or 403.
    pub status: u16,
    /// All its `WWW-Authenticate` headers.
    pub www_authenticate: Vec<String>,
    /// The token the request carried.
    pub token: Option<&'a Secret>,
}

/// What can be done about a refusal.
#[derive(Debug, Clone)]
pub enum Challenged {
    /// There is another token now: send the request again with [`Authorizer::bearer`].
    Retry,
    /// Somebody has to sign in; the browser is open if there is one.
    SignIn(SignIn),
    /// No token would change it.
    Forbidden,
}

/// Somebody who signed in to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// URL of the server.
    pub server: String,
    /// The authorization server.
    pub issuer: String,
    /// The client that was used there.
    pub client_id: String,
    /// What was granted.
    pub scopes: Vec<String>,
    /// When somebody signed in, in seconds since 1970.
    pub signed_in_at: u64,
    /// When the access token ends, if it does.
    pub expires_at: Option<u64>,
    /// Whether it is renewed without asking anybody.
    pub is_renewable: bool,
}

impl Authorizer {
    /// Makes one. Nothing is read or asked before it is needed.
    pub fn new(options: Options) -> Self {
        let shared = Shared {
            vault: Vault::new(options.directory, options.keys),
            http: Http::new(),
            browser: options.browser,
            seats: Mutex::default(),
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the token for the next request to a server; nothing if nobody has signed in.
    ///
    /// A token that ends soon is renewed beside the calls, one that has ended is waited for; once for
    /// all calls and all processes. Tokens that cannot be read are as good as none, because most servers
    /// want none; one that does answers 401, and [`Self::challenged`] says why there is none.
    ///
    /// # Errors
    ///
    /// The token has ended, and there is no other because somebody on the way gives no answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not end a refresh that is under way: its refresh token is used up.
    pub async fn bearer(&self, server: &Server) -> Result<Option<Secret>, AuthError> {
        let seat = self.seat(server.url());
        match seat.known(grant::now()) {
            Known::Token(token) => Ok(token),
            Known::Aging(token) => {
                let (this, server) = (self.clone(), server.clone());
                self.shared.tasks.spawn(async move {
                    if let Err(error) = this.renewed(&seat, &server).await {
                        let name = server.name();
                        tracing::debug!(
                            upstream = name,
                            "no look at the tokens: {}",
                            chain(&error)
                        );
                    }
                    seat.renewed();
                });
                Ok(token)
            }
            Known::Nothing => {
                let (this, server, ours) = (self.clone(), server.clone(), Arc::clone(&seat));
                let name = server.name().to_owned();
                match self.owned(async move { this.renewed(&ours, &server).await }).await {
                    Err(AuthError::Vault(error)) => {
                        tracing::warn!(upstream = name, "no token for `{name}`: {}", chain(&error));
                        seat.saw(None);
                        Ok(None)
                    }
                    grant => Ok(grant?.map(|grant| grant.access_token.clone())),
                }
            }
        }
    }

    /// Does what can be done about a 401 or a 403 of a server.
    ///
    /// At most one sign-in per server is under way, in all processes of the user.
    ///
    /// # Errors
    ///
    /// Why neither another token nor a sign-in can be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait, not what was begun.
    pub async fn challenged(
        &self,
        server: &Server,
        refused: Refused<'_>,
    ) -> Result<Challenged, AuthError> {
        let Refused { status, www_authenticate, token } = refused;
        let challenge = Challenge::parse(&www_authenticate);
        if status == 403 && challenge.missing_scopes().is_none() {
            return Ok(Challenged::Forbidden);
        }
        let (this, server, used) = (self.clone(), server.clone(), token.cloned());
        self.owned(async move { this.answer(&server, status, &challenge, used.as_ref()).await })
            .await
    }

    /// Begins a sign-in that a user asks for; nothing if somebody has signed in already.
    ///
    /// # Errors
    ///
    /// Why none can begin.
    pub async fn sign_in(&self, server: &Server) -> Result<Option<SignIn>, AuthError> {
        let (this, server) = (self.clone(), server.clone());
        self.owned(async move {
            let fetcher = this.shared.http.around(&server.url).await;
            let (status, challenge) = this.provoke(&fetcher, &server).await?;
            let named = challenge.resource_metadata.as_deref();
            if status != StatusCode::UNAUTHORIZED
                && discovery::resource(&fetcher, &server.url, named).await?.is_legacy
            {
                return Err(AuthError::Open { url: fetch::shown(&server.url) });
            }
            Ok(match this.answer(&server, 401, &challenge, None).await? {
                Challenged::SignIn(sign_in) => Some(sign_in),
                Challenged::Retry | Challenged::Forbidden => None,
            })
        })
        .await
    }

    /// Forgets all about signing in to a server, given its URL; returns whether there was anything.
    ///
    /// # Errors
    ///
    /// The tokens cannot be read or written.
    pub async fn sign_out(&self, url: &str) -> Result<bool, AuthError> {
        let key = url.to_owned();
        let was_there = self.change(move |records| records.forget(&key)).await?;
        self.seat(url).saw(None);
        Ok(was_there)
    }

    /// Returns who has signed in where.
    ///
    /// # Errors
    ///
    /// The tokens cannot be read.
    pub async fn accounts(&self) -> Result<Vec<Account>, AuthError> {
        let records = self.blocking(Vault::load).await?;
        Ok(records.grants.iter().map(Account::of).collect())
    }

    /// Returns who can read the tokens; nothing if there are none.
    ///
    /// # Errors
    ///
    /// That cannot be told.
    pub async fn protection(&self) -> Result<Option<Protection>, AuthError> {
        self.blocking(Vault::protection).await
    }

    /// Ends sign-ins, and waits a moment for refreshes.
    pub async fn close(&self) {
        self.shared.ending.cancel();
        self.shared.tasks.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.shared.tasks.wait()).await;
    }
}

/// How it is done.
impl Authorizer {
    fn seat(&self, key: &str) -> Arc<Seat> {
        let mut seats = lock(&self.shared.seats);
        if let Some(seat) = seats.get(key) {
            return Arc::clone(seat);
        }
        Arc::clone(seats.entry(key.to_owned()).or_default())
    }

    /// Runs what must not end because a caller goes away.
    async fn owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AuthError>> + Send + 'static,
    ) -> Result<T, AuthError> {
        if self.shared.ending.is_cancelled() {
            return Err(AuthError::Ending);
        }
        self.shared.tasks.spawn(work).await.unwrap_or(Err(AuthError::Ending))
    }

    /// Runs what waits for the disk or the keychain, beside the thread that calls run on.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, AuthError> {
        let shared = Arc::clone(&self.shared);
        let done = self.shared.tasks.spawn_blocking(move || work(&shared.vault)).await;
        Ok(done.map_err(|_| AuthError::Ending)??)
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Records) -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        self.blocking(move |vault| vault.update(change)).await
    }
}

/// Returns whether there is a valid token other than the one that was refused.
fn is_newer(grant: Option<&Grant>, used: Option<&Secret>, now: u64) -> bool {
    grant.is_some_and(|grant| grant.is_valid(now) && Some(&grant.access_token) != used)
}

impl Account {
    fn of(grant: &Grant) -> Self {
        Self {
            server: grant.server.clone(),
            issuer: grant.issuer.clone(),
            client_id: grant.identity.id.clone(),
            scopes: grant.granted.clone(),
            signed_in_at: grant.signed_in_at,
            expires_at: grant.expires_at,
            is_renewable: grant.refresh_token.is_some(),
        }
    }
}
