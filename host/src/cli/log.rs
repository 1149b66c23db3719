//! The gateway's log: lines on stderr, written by a thread of their own.
//!
//! A client that does not read our stderr must not stop its calls: when it falls behind, lines are
//! dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Environment, LogLevel};

/// So much may wait to be written.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// At the end, so long is waited for the rest to be written.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Lines on their way to stderr.
#[derive(Clone, Default)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    dropped: u64,
}

/// Starts the log.
pub(super) fn start(level: LogLevel, environment: &Environment) -> Log {
    let log = Log::default();
    let thread = log.clone();
    // If there can be no thread, there is no log; calls go on.
    let _ = std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.write_on());
    let level = match level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && environment.get("NO_COLOR").is_none())
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    log
}

impl Log {
    /// Waits until all is written.
    pub(super) fn flush(&self) {
        let end = Instant::now() + LAST_WRITE;
        let mut state = self.lock();
        while (!state.waiting.is_empty() || state.writing) && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn write_on(&self) {
        let mut text = Vec::new();
        loop {
            text.clear();
            {
                let mut state = self.lock();
                state.writing = false;
                self.shared.changed.notify_all();
                while state.waiting.is_empty() {
                    state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut text, &mut state.waiting);
                state.writing = true;
                if std::mem::take(&mut state.dropped) > 0 {
                    text.extend_from_slice(b"(log lines were dropped: stderr is not read)\n");
                }
            }
            if io::stderr().write_all(&text).is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one event's line.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > BUFFER_BYTES_MAX {
            state.dropped += 1;
        } else {
            let idle = state.waiting.is_empty() && !state.writing;
            state.waiting.extend_from_slice(line);
            if idle {
                self.shared.changed.notify_all();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
