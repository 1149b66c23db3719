//! The beginning of a sign-in, and the end of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::{Authorizer, Challenged, is_newer};
use crate::auth::callback::Callback;
use crate::auth::discovery::{AuthorizationServer, Resource};
use crate::auth::fetch::Fetcher;
use crate::auth::files::FileLock;
use crate::auth::grant::{self, Grant};
use crate::auth::login::{self, Login, LoginError, Purpose};
use crate::auth::register::{self, Identity, Way};
use crate::auth::seat::Seat;
use crate::auth::vault::{Vault, VaultError};
use crate::auth::{AuthError, Secret, Server, SignIn};
use crate::chain;

/// The user may take this long. The page they sign in at has a limit of its own, often ten minutes.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// So often it is looked whether the sign-in that another process leads has ended.
const FOLLOW_PERIOD: Duration = Duration::from_millis(250);

/// Another process that begins a sign-in knows the URL within the time limits of a few requests.
const URL_TIMEOUT: Duration = Duration::from_secs(60);

/// What a sign-in has to bring.
pub(super) struct Need<'a> {
    pub(super) resource: Resource,
    /// Scopes the server's challenge names.
    pub(super) scopes: Option<&'a [String]>,
    /// The grant whose scopes do not suffice.
    pub(super) earlier: Option<Arc<Grant>>,
    /// The token that was refused.
    pub(super) used: Option<&'a Secret>,
}

impl Authorizer {
    /// Begins a sign-in, or follows the one that another process has begun.
    pub(super) async fn begin(
        &self,
        seat: &Arc<Seat>,
        server: &Server,
        fetcher: &Fetcher,
        need: Need<'_>,
    ) -> Result<Challenged, AuthError> {
        let path = self.shared.vault.lock_path("login", server.url())?;
        let end = Instant::now() + URL_TIMEOUT;
        let lock = loop {
            if let Some(lock) = FileLock::try_take(&path).map_err(VaultError::from)? {
                break lock;
            }
            // There is a note once the URL is known.
            if let Some(url) = FileLock::note_at(&path).map_err(VaultError::from)? {
                return Ok(Challenged::SignIn(self.follow(seat, server, &url, need.used)));
            }
            if Instant::now() >= end {
                return Err(AuthError::Busy { limit: URL_TIMEOUT });
            }
            tokio::time::sleep(FOLLOW_PERIOD).await;
        };
        lock.forget_note().map_err(VaultError::from)?;
        // Another process may have ended a sign-in just before.
        let grant = self.look(seat, server.url()).await?;
        if is_newer(grant.as_deref(), need.used, grant::now()) {
            return Ok(Challenged::Retry);
        }
        let login = self.prepare(server, fetcher, &need, grant.as_deref()).await?;
        lock.note(login.url.as_str()).map_err(VaultError::from)?;
        Ok(Challenged::SignIn(self.lead(seat, server, fetcher.clone(), login, lock)))
    }

    /// Finds the authorization server and becomes its client.
    async fn prepare(
        &self,
        server: &Server,
        fetcher: &Fetcher,
        need: &Need<'_>,
        known: Option<&Grant>,
    ) -> Result<Login, AuthError> {
        let issuers = &need.resource.issuers;
        let kept =
            issuers.iter().find(|issuer| known.is_some_and(|grant| grant.issuer == **issuer));
        let issuer = kept.or(issuers.first()).map_or("", String::as_str);
        if let Some(grant) = known
            && grant.issuer != issuer
            && server.oauth.client_id.as_ref() == Some(&grant.identity.id)
        {
            let (issuer, before) = (issuer.to_owned(), grant.issuer.clone());
            return Err(AuthError::Moved { issuer, before });
        }
        let authorization_server = need.resource.authorization_server(fetcher, issuer).await?;
        let earlier = need.earlier.as_ref().filter(|grant| grant.issuer == issuer);
        let scopes = login::scopes(
            need.scopes,
            &server.oauth.scopes,
            need.resource.scopes.as_deref(),
            earlier.map_or(&[], |grant| &grant.requested),
            &authorization_server,
        );
        let port = server.oauth.callback_port;
        let (callback, identity) = match Way::choose(&server.oauth, &authorization_server)? {
            Way::Known(identity) => (listen(port).await?, identity),
            Way::Register => self.registered(fetcher, &authorization_server, port, &scopes).await?,
        };
        let purpose = Purpose {
            server: server.url().to_owned(),
            resource: need.resource.resource.clone(),
            authorization_server,
            identity,
            scopes,
        };
        Login::new(fetcher, callback, purpose)
    }

    /// Returns the client we registered, or registers one; it comes with the port it was registered for.
    async fn registered(
        &self,
        fetcher: &Fetcher,
        server: &AuthorizationServer,
        port: Option<u16>,
        scopes: &[String],
    ) -> Result<(Callback, Identity), AuthError> {
        let issuer = server.issuer.clone();
        let records = self.blocking(Vault::load).await?;
        if let Some(known) = records.registrations.into_iter().find(|known| known.issuer == issuer)
            && known.expires_at.is_none_or(|end| grant::now() < end)
            && let Some(known_port) = Callback::port_of(&known.redirect_uri)
            && port.is_none_or(|port| port == known_port)
            && let Ok(callback) = Callback::listen(Some(known_port)).await
        {
            return Ok((callback, known.identity));
        }
        let callback = listen(port).await?;
        let made = register::register(fetcher, server, &callback.redirect_uri, scopes).await?;
        let identity = made.identity.clone();
        self.change(move |records| records.put_registration(made)).await?;
        Ok((callback, identity))
    }

    /// Sends the user to the browser and waits for the answer, in a task of its own.
    fn lead(
        &self,
        seat: &Arc<Seat>,
        server: &Server,
        fetcher: Fetcher,
        login: Login,
        lock: FileLock,
    ) -> SignIn {
        let (sign_in, announcer) = SignIn::new(login.url.as_str());
        seat.begin(sign_in.clone());
        self.show(seat, server, &login.url);
        let (this, seat, server) = (self.clone(), Arc::clone(seat), server.clone());
        self.shared.tasks.spawn(async move {
            let outcome = this.finish(&seat, &fetcher, login).await;
            let name = server.name();
            match &outcome {
                Ok(()) => tracing::info!(upstream = name, "signed in to `{name}`"),
                Err(error) => {
                    tracing::warn!(upstream = name, "not signed in to `{name}`: {}", chain(error));
                }
            }
            seat.end(outcome.is_ok());
            // A note without a lock is not read.
            let _ = lock.forget_note();
            drop(lock);
            announcer.announce(outcome.map_err(Arc::new));
        });
        sign_in
    }

    /// Tells the user where to sign in: once in a browser, always in the log.
    fn show(&self, seat: &Seat, server: &Server, url: &Url) {
        let name = server.name();
        tracing::info!(upstream = name, "sign in to `{name}` at {url}");
        if !seat.may_open() {
            return;
        }
        if let Err(error) = self.shared.browser.open(url) {
            tracing::warn!(upstream = name, "the browser cannot be opened: {error}");
        }
    }

    async fn finish(&self, seat: &Seat, fetcher: &Fetcher, login: Login) -> Result<(), AuthError> {
        let (issuer, client_id) = login.client();
        let granted = tokio::select! {
            granted = tokio::time::timeout(LOGIN_TIMEOUT, login.finish(fetcher)) => granted,
            () = self.shared.ending.cancelled() => return Err(AuthError::Ending),
        };
        match granted {
            Ok(Ok(granted)) => self.keep(seat, Arc::new(granted)).await,
            Ok(Err(LoginError::UnknownClient(error))) => {
                self.change(move |records| records.forget_client(&issuer, &client_id)).await?;
                Err(error)
            }
            Ok(Err(LoginError::Other(error))) => Err(error),
            Err(_) => Err(AuthError::Late { limit: LOGIN_TIMEOUT }),
        }
    }

    /// Waits for the sign-in that another process leads, in a task of its own.
    fn follow(
        &self,
        seat: &Arc<Seat>,
        server: &Server,
        url: &str,
        used: Option<&Secret>,
    ) -> SignIn {
        let (sign_in, announcer) = SignIn::new(url);
        seat.begin(sign_in.clone());
        let (this, seat, server) = (self.clone(), Arc::clone(seat), server.clone());
        let used = used.cloned();
        self.shared.tasks.spawn(async move {
            let outcome = tokio::select! {
                outcome = this.followed(&seat, &server, used.as_ref()) => outcome,
                () = this.shared.ending.cancelled() => Err(AuthError::Ending),
            };
            seat.end(outcome.is_ok());
            announcer.announce(outcome.map_err(Arc::new));
        });
        sign_in
    }

    async fn followed(
        &self,
        seat: &Seat,
        server: &Server,
        used: Option<&Secret>,
    ) -> Result<(), AuthError> {
        let path = self.shared.vault.lock_path("login", server.url())?;
        loop {
            tokio::time::sleep(FOLLOW_PERIOD).await;
            // Whoever led it has kept the tokens before the lock is free.
            let free = FileLock::try_take(&path).map_err(VaultError::from)?;
            // Of a process that was killed: nobody shall follow it now that the lock looks taken.
            let has_ended = free.is_some_and(|lock| lock.forget_note().is_ok());
            let grant = self.look(seat, server.url()).await?;
            if is_newer(grant.as_deref(), used, grant::now()) {
                return Ok(());
            }
            if has_ended {
                return Err(AuthError::Elsewhere);
            }
        }
    }
}

async fn listen(port: Option<u16>) -> Result<Callback, AuthError> {
    Callback::listen(port).await.map_err(|source| AuthError::Callback { port, source })
}
