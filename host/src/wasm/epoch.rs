//! The clock of deadlines: raises the engine's epoch while hooks run, and sleeps while none do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// Time between two epochs. Short enough for deadlines of 20 ms, long enough to cost nothing.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// The clock stops when no hook began for so many ticks: longer than any deadline, so that it never
/// stops under a hook.
const IDLE_TICKS: u32 = 400;

/// The thread that raises epochs. Ends when this is dropped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// A hook began since the clock last looked.
    used: AtomicBool,
    /// The clock has stopped, or is about to.
    stopped: AtomicBool,
    /// The engine is gone.
    ended: AtomicBool,
}

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ultra-epochs".into())
            .spawn(move || run(&engine, &of_thread))?;
        Ok(Self { thread: thread.thread().clone(), shared })
    }

    /// Says that a hook begins.
    pub(super) fn hook_begins(&self) {
        // Reading first keeps the line shared between cores. A hook that reads a `true` which is just
        // being cleared is fine: the clock stops a whole idle period later, after any deadline.
        if !self.shared.used.load(Ordering::Relaxed) {
            self.shared.used.store(true, Ordering::SeqCst);
        }
        if self.shared.stopped.load(Ordering::SeqCst) {
            self.shared.stopped.store(false, Ordering::SeqCst);
            self.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn run(engine: &Engine, shared: &Shared) {
    let mut ticks = 0;
    while !shared.ended.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        engine.increment_epoch();
        ticks += 1;
        if ticks < IDLE_TICKS {
            continue;
        }
        ticks = 0;
        if shared.used.swap(false, Ordering::SeqCst) {
            continue;
        }
        // Either a hook that begins now sees `stopped` and wakes this thread, or its mark is seen here.
        shared.stopped.store(true, Ordering::SeqCst);
        if shared.used.load(Ordering::SeqCst) {
            shared.stopped.store(false, Ordering::SeqCst);
        }
        while shared.stopped.load(Ordering::SeqCst) && !shared.ended.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_clock_stops_when_idle_and_goes_on_with_the_next_hook() {
        let shared = Arc::new(Shared::default());
        let engine = Engine::default();
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || run(&engine, &of_thread));
        let ticker = Ticker { shared, thread: thread.thread().clone() };
        let patience = Instant::now() + Duration::from_secs(60);

        while !ticker.shared.stopped.load(Ordering::SeqCst) {
            assert!(Instant::now() < patience, "the clock did not stop");
            thread::yield_now();
        }
        ticker.hook_begins();
        let goes = !ticker.shared.stopped.load(Ordering::SeqCst);
        drop(ticker);

        assert!(goes);
        thread.join().unwrap();
    }
}
