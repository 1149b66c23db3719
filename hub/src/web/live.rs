//! Tells pages that there is something new: a number that changes, as server-sent events.
//!
//! What is new a page fetches itself, so that there is one way to see records, with one gate.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::HeaderName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Site;
use super::visit::Visit;
use crate::error::ApiError;
use crate::events::{Found, Records};
use crate::id::WorkspaceId;
use crate::server::Closing;

/// Between two looks at the records, for all pages of a workspace together.
const PERIOD: Duration = Duration::from_secs(2);

/// Looks of a page. Then it asks anew, and passes the gate anew.
const LOOKS: u32 = 60;

/// Pages that listen at the same time. Further ones are told no, and stay as they are until reloaded.
const LISTENERS_MAX: usize = 1024;

/// What pages that listen share.
#[derive(Clone)]
pub(super) struct Live {
    room: Arc<Semaphore>,
    revisions: Arc<Mutex<HashMap<WorkspaceId, (Instant, i64)>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LISTENERS_MAX)), revisions: Arc::default() }
    }
}

impl Live {
    /// Returns the revision of a workspace; asks the records only if nobody did lately.
    async fn revision(&self, records: &dyn Records, workspace: WorkspaceId) -> Found<i64> {
        let now = Instant::now();
        {
            let mut known = self.revisions.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, (asked, _)| now.duration_since(*asked) < PERIOD / 2);
            if let Some((_, revision)) = known.get(&workspace) {
                return Ok(*revision);
            }
        }
        let revision = records.revision(workspace).await?;
        let mut known = self.revisions.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(workspace, (now, revision));
        Ok(revision)
    }
}

/// A page that listens.
struct Listener {
    live: Live,
    records: Arc<dyn Records>,
    workspace: WorkspaceId,
    /// What it was told last.
    told: Option<i64>,
    looks: u32,
    closing: Closing,
    _permit: OwnedSemaphorePermit,
}

/// `/w/{workspace}/live`
pub(super) async fn live(
    State(site): State<Site>,
    closing: Option<Extension<Closing>>,
    visit: Visit,
) -> Response {
    let Ok(permit) = Arc::clone(&site.live.room).try_acquire_owned() else {
        return ApiError::Unavailable { retry_s: 60 }.into_response();
    };
    let listener = Listener {
        live: site.live,
        records: site.web.records,
        workspace: visit.workspace(),
        told: None,
        looks: 0,
        closing: closing.map(|Extension(closing)| closing).unwrap_or_default(),
        _permit: permit,
    };
    let events = stream::unfold(listener, |mut listener| async move {
        let revision = listener.next().await?;
        let event = Event::default().retry(PERIOD).data(revision.to_string());
        Some((Ok::<_, Infallible>(event), listener))
    });
    // Proxies that gather an answer before they pass it on would never pass it on.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    (unbuffered, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

impl Listener {
    /// Waits for the next number; none when it is time to ask anew.
    async fn next(&mut self) -> Option<i64> {
        while self.looks < LOOKS {
            if self.looks > 0 {
                self.closing.0.run_until_cancelled(tokio::time::sleep(PERIOD)).await?;
            }
            self.looks += 1;
            // A database that is away for a moment is no news.
            let revision = self.live.revision(&*self.records, self.workspace).await.ok();
            if revision.is_some() && revision != self.told {
                self.told = revision;
                return revision;
            }
        }
        None
    }
}
