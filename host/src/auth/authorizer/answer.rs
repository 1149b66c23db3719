//! What can be done about a refusal: nothing, another token, or a sign-in.

use std::sync::Arc;

use http::StatusCode;
use http::header::WWW_AUTHENTICATE;

use super::begin::Need;
use super::{Authorizer, Challenged, is_newer};
use crate::auth::challenge::Challenge;
use crate::auth::discovery;
use crate::auth::error::quoted;
use crate::auth::fetch::Fetcher;
use crate::auth::grant::{self, Grant, Remedy};
use crate::auth::seat::Seat;
use crate::auth::{AuthError, Secret, Server};

/// A refusal, read.
struct Refusal<'a> {
    status: u16,
    challenge: &'a Challenge,
    used: Option<&'a Secret>,
}

impl Authorizer {
    /// Answers a refusal: with a newer token, a refreshed one, or a sign-in.
    pub(super) async fn answer(
        &self,
        server: &Server,
        status: u16,
        challenge: &Challenge,
        used: Option<&Secret>,
    ) -> Result<Challenged, AuthError> {
        let seat = self.seat(server.url());
        let _turn = seat.turn.lock().await;
        let now = grant::now();
        let grant = self.look(&seat, server.url()).await?;
        if is_newer(grant.as_deref(), used, now) {
            return Ok(Challenged::Retry);
        }
        if let Some(sign_in) = seat.sign_in() {
            return Ok(Challenged::SignIn(sign_in));
        }
        if let Some(error) = seat.standing_error() {
            return Err(error);
        }
        let refusal = Refusal { status, challenge, used };
        self.remedy(&seat, server, grant, refusal).await.map_err(|error| seat.failed(error))
    }

    /// Asks whoever has to be asked about a refusal.
    async fn remedy(
        &self,
        seat: &Arc<Seat>,
        server: &Server,
        grant: Option<Arc<Grant>>,
        refusal: Refusal<'_>,
    ) -> Result<Challenged, AuthError> {
        let Refusal { status, challenge, used } = refusal;
        let now = grant::now();
        let fetcher = self.shared.http.around(&server.url).await;
        let named = challenge.resource_metadata.as_deref();
        let resource = discovery::resource(&fetcher, &server.url, named).await?;
        if let Some(grant) = &grant
            && status == 401
            && resource.issuers.contains(&grant.issuer)
        {
            match grant.remedy(now) {
                Remedy::Refresh => {
                    let next = self.refresh(seat, server, grant).await?;
                    if is_newer(next.as_deref(), used, now) {
                        return Ok(Challenged::Retry);
                    }
                }
                Remedy::SignIn => {}
                Remedy::None => {
                    let reason = challenge.error.as_deref().unwrap_or("it does not say why");
                    return Err(AuthError::Useless { reason: quoted(reason) });
                }
            }
        }
        let needed = challenge.scopes.as_deref();
        if let (403, Some(needed), Some(grant)) = (status, needed, &grant)
            && needed.iter().all(|scope| grant.requested.contains(scope))
        {
            let reason = format!("it lacks `{}`, which was asked for", needed.join(" "));
            return Err(AuthError::Useless { reason: quoted(&reason) });
        }
        let need =
            Need { resource, scopes: needed, earlier: grant.filter(|_| status == 403), used };
        self.begin(seat, server, &fetcher, need).await
    }

    /// Asks a server for something, to hear how it refuses.
    pub(super) async fn provoke(
        &self,
        fetcher: &Fetcher,
        server: &Server,
    ) -> Result<(StatusCode, Challenge), AuthError> {
        let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let answer = fetcher.post(&server.url, ping.to_vec()).await?;
        let headers = answer.headers().get_all(WWW_AUTHENTICATE);
        let headers: Vec<String> =
            headers.iter().filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect();
        Ok((answer.status(), Challenge::parse(&headers)))
    }
}
