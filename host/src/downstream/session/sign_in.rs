//! A call that failed because somebody has to sign in first: a client that can open URLs is asked to have
//! its user do that.

use std::sync::Arc;

use super::{Client, Session};
use crate::bridge;
use crate::downstream::reply;
use crate::lock;
use crate::mcp::Era;
use crate::pipeline::{Exchange, Outcome};
use crate::upstream::UpstreamError;

impl Session {
    /// Asks a client that can open URLs to have its user sign in, if that is why its call failed. Returns
    /// what it is answered.
    pub(super) fn ask_to_sign_in(
        self: &Arc<Self>,
        client: &Client,
        exchange: &Exchange,
        error: &UpstreamError,
    ) -> Option<Outcome> {
        let UpstreamError::SignIn { upstream, url } = error else { return None };
        if !client.aggregator.client_can("elicitation", "url") {
            return None;
        }
        let era = self.era();
        match era {
            Era::Legacy => self.tell_of_sign_in(client, upstream, url),
            Era::Modern => {
                let may_ask =
                    matches!(&*exchange.method, "tools/call" | "prompts/get" | "resources/read");
                // Once: a client that has been there would come back at once, and again.
                if !may_ask || bridge::was_asked_to_sign_in(&exchange.params) {
                    return None;
                }
            }
        }
        Some(reply::sign_in(upstream, url, era))
    }

    /// Tells the client when somebody has signed in there.
    fn tell_of_sign_in(self: &Arc<Self>, client: &Client, upstream: &str, url: &str) {
        let upstreams = client.aggregator.upstreams();
        let Some(upstream) = upstreams.iter().find(|known| *known.name == *upstream) else {
            return;
        };
        // Calls that fail meanwhile wait for the same.
        if !lock(&self.signing_in).insert(url.to_owned()) {
            return;
        }
        let (this, upstream, url) = (Arc::clone(self), Arc::clone(upstream), url.to_owned());
        self.tasks.spawn(async move {
            let signed_in = upstream.signed_in();
            if this.setup.shutdown.run_until_cancelled(signed_in).await == Some(true) {
                this.send(&[reply::signed_in(&url)]);
            }
            lock(&this.signing_in).remove(&url);
        });
    }
}
