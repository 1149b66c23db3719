//! Tokens found on disk, and renewed there: by one process, for all.

use std::sync::Arc;
use std::time::Duration;

use super::Authorizer;
use crate::auth::files::FileLock;
use crate::auth::grant::{self, Grant};
use crate::auth::seat::Seat;
use crate::auth::token::TokenEndpoint;
use crate::auth::vault::{Vault, VaultError};
use crate::auth::{AuthError, Server};
use crate::chain;

/// Another process refreshes within the time limits of two requests.
const REFRESH_LOCK_TIMEOUT: Duration = Duration::from_secs(70);

impl Authorizer {
    /// Looks what is on disk.
    pub(super) async fn look(
        &self,
        seat: &Seat,
        server: &str,
    ) -> Result<Option<Arc<Grant>>, AuthError> {
        let key = server.to_owned();
        let records = self.blocking(Vault::load).await?;
        let found = records.grant(&key).cloned().map(Arc::new);
        let is_of_use =
            |grant: &Arc<Grant>| grant.is_valid(grant::now()) || grant.refresh_token.is_some();
        seat.saw(found.clone().filter(is_of_use));
        Ok(found)
    }

    /// Writes a grant; it is on disk when this returns.
    pub(super) async fn keep(&self, seat: &Seat, grant: Arc<Grant>) -> Result<(), AuthError> {
        let record = Grant::clone(&grant);
        self.change(move |records| records.put_grant(record)).await?;
        seat.saw(Some(grant));
        Ok(())
    }

    /// Returns a grant that holds, renewed if it is time.
    pub(super) async fn renewed(
        &self,
        seat: &Seat,
        server: &Server,
    ) -> Result<Option<Arc<Grant>>, AuthError> {
        let _turn = seat.turn.lock().await;
        let now = grant::now();
        let Some(grant) = self.look(seat, server.url()).await? else { return Ok(None) };
        let valid = || Some(Arc::clone(&grant)).filter(|grant| grant.is_valid(grant::now()));
        if !grant.is_due(now) || grant.refresh_token.is_none() {
            return Ok(valid());
        }
        if let Some(error) = seat.standing_error() {
            return valid().map(Some).ok_or(error);
        }
        let refreshed = self.refresh(seat, server, &grant).await;
        match (refreshed.map_err(|error| seat.failed(error)), valid()) {
            (Err(error), Some(grant)) => {
                let name = server.name();
                tracing::warn!(
                    upstream = name,
                    "the token for `{name}` is not renewed yet: {}",
                    chain(&error)
                );
                Ok(Some(grant))
            }
            (refreshed, _) => refreshed,
        }
    }

    /// Uses a grant's refresh token, unless another process has done so meanwhile.
    ///
    /// Returns what is left if the authorization server refuses: nothing, once the access token has
    /// ended too.
    pub(super) async fn refresh(
        &self,
        seat: &Seat,
        server: &Server,
        stale: &Grant,
    ) -> Result<Option<Arc<Grant>>, AuthError> {
        let path = self.shared.vault.lock_path("refresh", server.url())?;
        let limit = REFRESH_LOCK_TIMEOUT;
        let lock = FileLock::take(&path, limit).await.map_err(VaultError::from)?;
        let _lock = lock.ok_or(AuthError::Busy { limit })?;
        let Some(grant) = self.look(seat, server.url()).await? else { return Ok(None) };
        if grant.access_token != stale.access_token {
            return Ok(Some(grant));
        }
        let Some(refresh_token) = &grant.refresh_token else { return Ok(None) };
        let fetcher = self.shared.http.around(&server.url).await;
        let endpoint = TokenEndpoint {
            url: &grant.token_endpoint,
            identity: &grant.identity,
            resource: &grant.resource,
        };
        let error = match endpoint.refresh(&fetcher, refresh_token).await {
            Ok(tokens) => {
                let next = grant.renewed(tokens, grant::now());
                self.change(move |records| records.replace_grant(&grant, next)).await?;
                // What is there now, if somebody signed in or out meanwhile.
                return self.look(seat, server.url()).await;
            }
            Err(error) => error,
        };
        if !error.is_final() {
            return Err(error.at(&grant.issuer));
        }
        let is_forgotten = error.is_unknown_client();
        let name = server.name();
        tracing::info!(
            upstream = name,
            "`{name}` has to be signed in to again: {}",
            error.at(&grant.issuer)
        );
        let spent = Grant { refresh_token: None, ..Grant::clone(&grant) };
        self.change(move |records| {
            if is_forgotten {
                records.forget_client(&grant.issuer, &grant.identity.id);
            }
            records.replace_grant(&grant, spent);
        })
        .await?;
        let left = self.look(seat, server.url()).await?;
        Ok(left.filter(|grant| grant.is_valid(grant::now())))
    }
}
