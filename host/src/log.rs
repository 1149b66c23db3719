//! The gateway's log, written by a thread of its own.
//!
//! A client that does not read our stderr must not stop its calls: when it falls behind, lines are
//! dropped and counted. Lines about calls come as facts and are worded by that thread.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::FormatTime;

use crate::config::LogLevel;
use crate::lock;
use crate::wasm::{CallLine, CallLog};

/// So much may wait to be written.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// What a line about a call counts as.
const CALL_LINE_BYTES: usize = 256;

/// After lines were written, so long is waited for others: they are written together, and calls that
/// follow each other closely need not wake the thread.
const LINGER: Duration = Duration::from_millis(5);

/// At the end, so long is waited for the rest to be written.
const LAST_WRITE: Duration = Duration::from_millis(500);

thread_local! {
    /// Of the thread that writes, while it words a line about a call.
    static WORDING: RefCell<Option<Wording>> = const { RefCell::new(None) };
}

struct Wording {
    unix_ns: i64,
    text: Vec<u8>,
}

/// Lines on their way out.
#[derive(Clone, Default)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Entry>,
    waiting_bytes: usize,
    /// Written, to be dropped by those who made them: names are shared, and counting those who share
    /// them is slow if two threads do it at a time.
    written: Vec<Entry>,
    writer: Writer,
    /// Somebody waits until all is written.
    flush: bool,
    dropped: u64,
}

/// What the thread that writes is doing.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// It looks for lines by itself, soon.
    #[default]
    Busy,
    /// It must be woken.
    Asleep,
}

enum Entry {
    Text(Box<[u8]>),
    Call(CallLine),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Call(_) => CALL_LINE_BYTES,
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Text(text) => to.extend_from_slice(text),
            Self::Call(line) => {
                let text = std::mem::take(to);
                WORDING.set(Some(Wording { unix_ns: line.unix_ns, text }));
                line.write();
                *to = WORDING.take().map(|wording| wording.text).unwrap_or_default();
            }
        }
    }
}

/// Starts the log of this process. It can have one.
pub fn start(level: LogLevel, ansi: bool, output: impl Write + Send + 'static) -> Log {
    let log = Log::default();
    let thread = log.clone();
    // If there can be no thread, there is no log; calls go on.
    let _ =
        std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.write_on(output));
    let level = match level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_timer(Clock)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(ansi)
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    log
}

impl Log {
    /// Waits until all is written.
    pub fn flush(&self) {
        let end = Instant::now() + LAST_WRITE;
        let mut state = self.lock();
        state.flush = true;
        self.shared.changed.notify_all();
        while state.flush && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self.wait(state, left);
        }
    }

    fn write_on(&self, mut output: impl Write) {
        let mut text = Vec::new();
        let mut entries = Vec::new();
        loop {
            let dropped = self.next(&mut entries);
            text.clear();
            for entry in &entries {
                entry.write(&mut text);
            }
            if dropped > 0 {
                let _ = writeln!(
                    text,
                    "({dropped} log lines were dropped: this is not read fast enough)"
                );
            }
            // If it is closed, nobody wants to know.
            let _ = output.write_all(&text);
        }
    }

    /// Waits for lines, and gives back those that were written. Returns how many were dropped.
    fn next(&self, entries: &mut Vec<Entry>) -> u64 {
        let mut state = self.lock();
        std::mem::swap(&mut state.written, entries);
        entries.clear();
        let linger = Instant::now() + LINGER;
        while !state.flush
            && let Some(left) = linger.checked_duration_since(Instant::now())
        {
            state = self.wait(state, left);
        }
        while state.waiting.is_empty() {
            if std::mem::take(&mut state.flush) {
                self.shared.changed.notify_all();
            }
            state.writer = Writer::Asleep;
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.writer = Writer::Busy;
        }
        state.waiting_bytes = 0;
        std::mem::swap(&mut state.waiting, entries);
        std::mem::take(&mut state.dropped)
    }

    fn push(&self, entry: Entry) {
        let mut state = self.lock();
        let bytes = entry.bytes();
        if state.waiting_bytes + bytes > WAITING_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.waiting_bytes += bytes;
        state.waiting.push(entry);
        let written = (state.written.pop(), state.written.pop());
        let asleep = state.writer == Writer::Asleep;
        drop(state);
        if asleep {
            self.shared.changed.notify_all();
        }
        drop(written);
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.shared.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl CallLog for Log {
    fn push(&self, line: CallLine) {
        self.push(Entry::Call(line));
    }
}

/// Takes one event's line.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let worded = WORDING.with_borrow_mut(|wording| {
            let Some(wording) = wording else { return false };
            wording.text.extend_from_slice(line);
            true
        });
        if !worded {
            self.push(Entry::Text(line.into()));
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

/// Tells when something happened, which for a line about a call is earlier than now.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut format::Writer<'_>) -> std::fmt::Result {
        let unix_ns = WORDING.with_borrow(|wording| Some(wording.as_ref()?.unix_ns));
        let at = unix_ns.map(|unix_ns| Timestamp::from_nanosecond(unix_ns.into()));
        let at = at.unwrap_or_else(|| Ok(Timestamp::now())).map_err(|_| std::fmt::Error)?;
        write!(writer, "{at:.6}")
    }
}
