//! The token a request carries, and what to do when it was refused for lack of one.

use std::sync::{Arc, Mutex};

use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};
use tokio::sync::{Notify, watch};
use ultra_store::Redactor;

use crate::auth::{Authorizer, Challenged, Refused, Secret, Server};
use crate::lock;
use crate::upstream::UpstreamError;

/// How tokens for a server are had.
#[derive(Clone)]
pub struct Auth {
    /// Has them.
    pub authorizer: Authorizer,
    /// The server, as it knows it.
    pub server: Server,
}

impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        self.server == other.server
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The tokens of one link.
#[derive(Debug)]
pub(super) struct Tokens {
    auth: Option<Auth>,
    redactor: Redactor,
    /// The header last used, and the token it is made of.
    last: Mutex<Option<(Secret, HeaderValue)>>,
    signed_in: Arc<SignedIn>,
}

/// Whether somebody has to sign in, and has done so.
#[derive(Debug, Default)]
pub(in crate::upstream) struct SignedIn {
    awaited: watch::Sender<Awaited>,
    done: Notify,
}

#[derive(Debug, Default)]
struct Awaited {
    /// Where somebody has to sign in.
    url: Option<Arc<str>>,
    /// Nobody has to any more, because somebody has.
    is_done: bool,
}

impl SignedIn {
    /// Waits until somebody has signed in, for whoever keeps the server there.
    pub(in crate::upstream) async fn notified(&self) {
        self.done.notified().await;
    }

    /// Returns where somebody has to sign in.
    pub(in crate::upstream) fn awaited(&self) -> Option<Arc<str>> {
        self.awaited.borrow().url.clone()
    }

    /// Waits until nobody has to sign in any more, and returns whether somebody has.
    pub(in crate::upstream) async fn ended(&self) -> bool {
        let mut awaited = self.awaited.subscribe();
        let ended = awaited.wait_for(|awaited| awaited.url.is_none()).await;
        ended.is_ok_and(|awaited| awaited.is_done)
    }

    fn begin(&self, url: &Arc<str>) {
        self.awaited.send_replace(Awaited { url: Some(Arc::clone(url)), is_done: false });
    }

    fn end(&self, url: &Arc<str>, is_done: bool) {
        if is_done {
            self.done.notify_one();
        }
        self.awaited.send_if_modified(|awaited| {
            let is_meant = awaited.url.as_ref() == Some(url);
            if is_meant {
                *awaited = Awaited { url: None, is_done };
            }
            is_meant
        });
    }
}

impl Tokens {
    pub(super) fn new(auth: Option<Auth>, redactor: Redactor, signed_in: Arc<SignedIn>) -> Self {
        Self { auth, redactor, last: Mutex::default(), signed_in }
    }

    /// Adds the token to a request, if there is one. Returns it.
    pub(super) async fn add(&self, headers: &mut HeaderMap) -> Option<Secret> {
        let Auth { authorizer, server } = self.auth.as_ref()?;
        let token = match Box::pin(authorizer.bearer(server)).await {
            Ok(token) => token?,
            Err(error) => {
                tracing::warn!(upstream = server.name(), "no token: {}", crate::chain(&error));
                return None;
            }
        };
        let mut last = lock(&self.last);
        let known = last.as_ref().filter(|(known, _)| *known == token);
        let header = match known {
            Some((_, header)) => header.clone(),
            None => {
                let mut header =
                    HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
                header.set_sensitive(true);
                self.redactor.learn([token.expose().to_owned()]);
                *last = Some((token.clone(), header.clone()));
                header
            }
        };
        headers.insert(AUTHORIZATION, header);
        Some(token)
    }

    /// Deals with a refusal by status 401 or 403. Returns whether the request is worth to be sent again.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::SignIn`] where the user has to do something first.
    pub(super) async fn refused<B>(
        &self,
        upstream: &str,
        response: &Response<B>,
        token: Option<&Secret>,
    ) -> Result<bool, UpstreamError> {
        let status = response.status();
        let Some(Auth { authorizer, server }) = &self.auth else { return Ok(false) };
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let www_authenticate =
            challenges.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        let refused = Refused { status: status.as_u16(), www_authenticate, token };
        match authorizer.challenged(server, refused).await {
            Ok(Challenged::Retry) => Ok(true),
            Ok(Challenged::Forbidden) => Ok(false),
            Ok(Challenged::SignIn(sign_in)) => {
                let url = Arc::<str>::from(sign_in.url());
                let error = UpstreamError::SignIn {
                    upstream: upstream.to_owned(),
                    url: url.as_ref().to_owned(),
                };
                let signed_in = Arc::clone(&self.signed_in);
                signed_in.begin(&url);
                tokio::spawn(async move { signed_in.end(&url, sign_in.done().await.is_ok()) });
                Err(error)
            }
            Err(error) => {
                let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                Err(UpstreamError::Http {
                    upstream: upstream.to_owned(),
                    status: status.as_u16(),
                    reason: format!("{status}: {}{hint}", crate::chain(&error)),
                })
            }
        }
    }
}
