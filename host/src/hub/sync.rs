//! Sending heartbeats and records to the Hub: beside the calls, never in their way.
//!
//! A thread of its own, with a runtime of its own, reads what the store holds and sends it. Calls know
//! nothing of it. A Hub that is slow, gone, full or refuses costs a line in the log, and nothing else: what
//! it does not take stays in the store. Nothing of what was sent is remembered here; the Hub says what it
//! has. See decision 0013.

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use ultra_hub::wire::{HEARTBEAT_PERIOD_S_MIN, Host};
use ultra_store::{Numbers, Store};

use super::client::{Client, ClientError};
use super::clients::Clients;
use super::pace::{Failure, Mood, Signal};
use super::send::Sender;
use super::state::State;
use super::{beat, pace};
use crate::auth::Secret;
use crate::chain;
use crate::upstream::Definition;

/// Pace and patience.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    /// Heartbeats come at most this often.
    pub(super) heartbeat_min: Duration,
    /// After the first client came, upstreams need a moment until there is something to say of them.
    pub(super) first_client: Duration,
    /// The pause after a failure is random, up to this at first.
    pub(super) back_off_min: Duration,
    /// And up to this in the end.
    pub(super) back_off_max: Duration,
    /// What is new at the end may take this long.
    pub(super) last_send: Duration,
    /// Saying good-bye may take this long after that.
    pub(super) farewell: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_min: Duration::from_secs(HEARTBEAT_PERIOD_S_MIN.into()),
            first_client: Duration::from_secs(2),
            back_off_min: Duration::from_secs(1),
            back_off_max: Duration::from_secs(5 * 60),
            last_send: Duration::from_secs(1),
            // Together with the last records less than what `shutdown` waits.
            farewell: Duration::from_millis(900),
        }
    }
}

/// To which Hub, and what it is told of the gateway.
pub(crate) struct Options {
    /// Address of the Hub.
    pub(crate) url: String,
    /// `gw_…`
    pub(crate) gateway_id: String,
    /// `ugw_…`
    pub(crate) secret: Secret,
    /// Says whether the gateway is still linked. May block on the disk.
    pub(crate) is_linked: Arc<dyn Fn() -> bool + Send + std::marker::Sync>,
    /// When the gateway was linked, in nanoseconds since 1970. Records from before stay here.
    pub(crate) linked_unix_ns: i64,
    /// When this process began, in nanoseconds since 1970.
    pub(crate) started_unix_ns: i64,
    /// The database, and the numbers it had, before this process wrote to it.
    pub(crate) before: Option<(String, Numbers)>,
    /// Records are sent this often, heartbeats twice as often.
    pub(crate) interval: Duration,
    /// The machine.
    pub(crate) host: Host,
    /// The database, if other processes can use it too.
    pub(crate) database: Option<PathBuf>,
    /// Who is in front of the gateway.
    pub(crate) clients: Arc<Clients>,
    /// What is behind it.
    pub(crate) upstreams: watch::Receiver<Arc<[Definition]>>,
}

/// Sends to the Hub as long as it lives.
///
/// Dropping it ends that at once; [`Sync::shutdown`] sends what is new and says good-bye.
pub(crate) struct Sync {
    ends: Ends,
    limit: Duration,
}

/// How the thread is told to end, and tells that it has.
#[derive(Clone, Default)]
struct Ends {
    stop: CancellationToken,
    /// At once.
    kill: CancellationToken,
    done: CancellationToken,
}

impl Sync {
    /// Starts to send. What goes wrong is logged, and the gateway runs without the Hub.
    ///
    /// Returns at once, and connects in the background.
    pub(crate) fn start(options: Options, store: Arc<dyn Store>) -> Option<Self> {
        Self::start_with(options, store, Timing::default())
    }

    fn start_with(options: Options, store: Arc<dyn Store>, timing: Timing) -> Option<Self> {
        let ends = Ends::default();
        let limit = timing.last_send + timing.farewell + Duration::from_millis(100);
        let thread = ends.clone();
        let spawned = std::thread::Builder::new().name("hub".into()).spawn(move || {
            let _done = thread.done.clone().drop_guard();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "nothing is sent to the Hub: {error}"),
            };
            runtime.block_on(async {
                let kill = thread.kill.clone();
                let _ = kill.run_until_cancelled(run(options, store, timing, thread.stop)).await;
            });
            // A name that takes long to resolve must not hold up the end of the gateway.
            runtime.shutdown_background();
        });
        match spawned {
            Ok(_) => Some(Self { ends, limit }),
            Err(error) => {
                tracing::error!(%error, "nothing is sent to the Hub: {error}");
                None
            }
        }
    }

    /// Sends what is new and says good-bye, both within 2 s. Returns whether there was time enough.
    pub(crate) async fn shutdown(self) -> bool {
        self.ends.stop.cancel();
        timeout(self.limit, self.ends.done.cancelled()).await.is_ok()
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.ends.kill.cancel();
    }
}

/// What heartbeats and records have in common.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) timing: Timing,
    pub(super) store: Arc<dyn Store>,
    pub(super) client: Client,
    /// Of this process.
    pub(super) process: String,
    pub(super) state: Mutex<State>,
    pub(super) mood: Mood,
    /// Somebody wants to know what the Hub has.
    pub(super) beat_now: Notify,
    /// The Hub has said what it has.
    pub(super) heard: Notify,
    /// It has done so after it did not.
    pub(super) back: Notify,
    /// The gateway ends.
    pub(super) stop: CancellationToken,
    stopped_at: OnceLock<Instant>,
    /// The Hub has said its last word, or the gateway is not linked any more.
    pub(super) off: CancellationToken,
}

async fn run(options: Options, store: Arc<dyn Store>, timing: Timing, stop: CancellationToken) {
    let shared = match Shared::new(options, store, timing, stop) {
        Ok(shared) => shared,
        Err(error) => return tracing::warn!("nothing is sent to the Hub: {}", chain(&error)),
    };
    tokio::join!(beat::run(&shared), Sender::new(&shared).run());
    if !shared.off.is_cancelled() && shared.mood.is_good() {
        let end = shared.stopped_at() + shared.timing.last_send + shared.timing.farewell;
        let _ = timeout_at(end, beat::farewell(&shared)).await;
    }
}

impl Shared {
    fn new(
        mut options: Options,
        store: Arc<dyn Store>,
        timing: Timing,
        stop: CancellationToken,
    ) -> Result<Self, ClientError> {
        let client = Client::new(&options.url)?;
        let mut state = State::default();
        let now = || Some((store.database_id().ok()?, store.numbers().ok()?));
        if let Some((database, numbers)) = options.before.take().or_else(now) {
            state.begin(database, numbers);
        }
        Ok(Self {
            options,
            timing,
            store,
            client,
            process: uuid::Uuid::now_v7().to_string(),
            state: Mutex::new(state),
            mood: Mood::default(),
            beat_now: Notify::new(),
            heard: Notify::new(),
            back: Notify::new(),
            stop,
            stopped_at: OnceLock::new(),
            off: CancellationToken::new(),
        })
    }

    /// Returns the time between two heartbeats.
    pub(super) fn heartbeat_period(&self) -> Duration {
        (self.options.interval / 2).max(self.timing.heartbeat_min)
    }

    pub(super) fn back_off(&self) -> pace::BackOff {
        pace::BackOff::new(self.timing.back_off_min, self.timing.back_off_max)
    }

    /// Notes that something was taken.
    pub(super) fn taken(&self, signal: Signal) {
        if self.off.is_cancelled() {
            return;
        }
        self.mood.taken(signal, self.client.url().as_str());
    }

    /// Notes that something was not taken, and ends everything if it never will be.
    pub(super) fn failed(&self, signal: Signal, failure: &Failure) {
        if self.off.is_cancelled() {
            return;
        }
        self.mood.failed(signal, self.client.url().as_str(), failure);
        if failure.is_final() {
            // A gateway that is linked anew keeps to itself what it has now.
            self.store.hold_unsent(None);
            self.off.cancel();
        }
    }

    /// Returns whether the gateway is still linked, and ends everything if it is not: `ultra unlink` and
    /// `ultra logout` do not know which gateways run.
    pub(super) async fn is_linked(&self) -> bool {
        let is_linked = Arc::clone(&self.options.is_linked);
        let is_linked = tokio::task::spawn_blocking(move || is_linked()).await.unwrap_or(true);
        if !is_linked && !self.off.is_cancelled() {
            let url = self.client.url().as_str();
            tracing::info!(
                hub.url = url,
                "this gateway was unlinked: nothing is sent to the Hub at `{url}` any more"
            );
            self.off.cancel();
        }
        is_linked
    }

    /// Resolves when the gateway has ended, and what was new then has had its time: once, whatever is
    /// under way.
    pub(super) async fn over(&self) {
        self.stop.cancelled().await;
        sleep_until(self.stopped_at() + self.timing.last_send).await;
    }

    /// Returns when the end of the gateway was noticed.
    fn stopped_at(&self) -> Instant {
        *self.stopped_at.get_or_init(Instant::now)
    }
}
