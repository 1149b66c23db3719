//! Staying awake while messages come thick and fast.
//!
//! A thread that sleeps in `epoll_wait` takes tens of microseconds to be woken on a virtual machine or
//! a laptop that saves power: more than everything else the gateway does with a call. So while lines
//! follow each other closely, the message path looks for the next one without sleeping, for as long
//! as sleeping and waking would take. A single call finds it asleep, and costs nothing more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Lines that follow each other within this time are a rush.
const GAP_MAX: Duration = Duration::from_micros(200);

/// In a rush, the next line is looked for this long before the thread sleeps.
const AWAKE_MAX: Duration = Duration::from_micros(50);

/// Whether messages come thick and fast.
#[derive(Debug)]
pub struct Rush {
    start: Instant,
    /// When the last line came, in nanoseconds since `start`.
    last: AtomicU64,
    on: AtomicBool,
    begins: Notify,
}

impl Default for Rush {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            on: AtomicBool::new(false),
            begins: Notify::new(),
        }
    }
}

impl Rush {
    /// Notes that a line came.
    pub fn line(&self) {
        let now = self.now();
        let gap = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        if gap < GAP_MAX.as_nanos() as u64 && !self.on.swap(true, Ordering::Relaxed) {
            self.begins.notify_one();
        }
    }

    /// Keeps the thread that polls it awake during each rush. Never returns.
    pub async fn stay_awake(&self) {
        loop {
            self.begins.notified().await;
            while self.now().saturating_sub(self.last.load(Ordering::Relaxed))
                < AWAKE_MAX.as_nanos() as u64
            {
                tokio::task::yield_now().await;
            }
            self.on.store(false, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}
