//! What a plugin may use at most, and the CPU time and memory it has used.

use std::time::Duration;

use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::epoch::TICK;
use super::imports::Guest;

/// A component file may be this large: compiling it takes time that no deadline bounds.
pub const COMPONENT_BYTES_MAX: usize = 8 << 20;

/// A hook has this long: it runs inline on a thread that serves other calls too.
pub(super) const HOOK_TIME_MAX: Duration = Duration::from_millis(20);

/// `start` has this long: it may compile patterns and build tables.
pub(super) const START_TIME_MAX: Duration = Duration::from_millis(500);

/// One hook may call the gateway this often: at 0.1 µs each, a millisecond.
pub(super) const HOST_CALLS_MAX: u32 = 10_000;

/// One hook may write this many log lines; what is more is not written.
pub(super) const LOG_LINES_MAX: u32 = 100;

/// A log line, a reason or the text of a field may be this long; what is more is cut.
pub(super) const TEXT_BYTES_MAX: usize = 8 << 10;

/// A trace record or an audit event takes this many fields of a plugin; what is more is left out.
pub(super) const FIELDS_MAX: usize = 64;

/// Memory of one instance. Parsing a payload of 5 MB into a tree takes about 40 MB.
pub(super) const MEMORY_BYTES_MAX: usize = 64 << 20;

/// An instance that has grown beyond this is not kept for the next call.
pub(super) const MEMORY_BYTES_KEPT_MAX: usize = 16 << 20;

/// Elements of the tables of one instance.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// Core modules within one component: one, and what the encoder puts around it.
const INSTANCES_MAX: usize = 16;

/// Bytes the gateway copies out of an instance in one call: the largest payload, and a little more.
pub(super) const HOST_CALL_FUEL: usize = (32 << 20) + (64 << 10);

/// Handles an instance may hold. It is lent one.
pub(super) const HANDLES_MAX: usize = 256;

/// The memory one instance has, and whether it was refused more in the current hook.
#[derive(Debug, Default)]
pub(super) struct MemoryLimit {
    pub(super) bytes: usize,
    pub(super) refused: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.bytes - current.min(self.bytes) + desired;
        if total > MEMORY_BYTES_MAX {
            self.refused = true;
            return Ok(false);
        }
        self.bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        1
    }
}

/// Returns the epochs until half of a time limit is used up.
pub(super) fn half_in_epochs(limit: Duration) -> u64 {
    (limit.as_millis() / TICK.as_millis() / 2).max(1) as u64
}

/// Decides at half of a time limit, and from then on at every epoch, whether a hook goes on.
///
/// The clock on the wall says only that the limit may be near: on a busy machine most of that time
/// belongs to others. So the second half is measured in CPU time where the system tells it.
pub(super) fn deadline(guest: &mut Guest) -> UpdateDeadline {
    let half = TICK * guest.epochs_left as u32;
    match (guest.cpu_mark, thread_cpu_time()) {
        (None, Some(now)) => {
            guest.cpu_mark = Some(now);
            UpdateDeadline::Continue(guest.epochs_left)
        }
        (None, None) => {
            guest.cpu_mark = Some(Duration::ZERO);
            UpdateDeadline::Continue(guest.epochs_left)
        }
        // The scheduler brings the figure up to date every few milliseconds only: grant it a tick.
        (Some(mark), Some(now)) if now.saturating_sub(mark) + TICK < half => {
            UpdateDeadline::Continue(1)
        }
        (Some(_), _) => UpdateDeadline::Interrupt,
    }
}

/// Returns the CPU time of the current thread, on Linux.
fn thread_cpu_time() -> Option<Duration> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    schedstat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
