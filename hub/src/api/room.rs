//! How often each asker may ask, and what all batches may hold in memory while they arrive.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// Batches of one gateway in a second, over some time, and at once after a pause. Of full ones that is more
/// than a Hub takes of all; it bounds those who send many small ones.
const BATCHES: Quota = Quota::per_second(number(50)).allow_burst(number(200));

/// Gateways that one person or deploy key links in a minute, and at once. A key that went out to thousands
/// of machines lets them in one after the other: those that are refused come again.
const LINKS: Quota = Quota::per_minute(number(600)).allow_burst(number(1000));

/// Pages of lists that the programs of one person read in a second, and at once.
const READS: Quota = Quota::per_second(number(20)).allow_burst(number(400));

/// Times that one gateway asks where it is. Each of its processes does so when it starts.
const SELVES: Quota = Quota::per_minute(number(120)).allow_burst(number(120));

/// Askers remembered before those that are quiet are forgotten.
const REMEMBERED: usize = 50_000;

const fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// What all batches that arrive or wait to be stored hold, in units of [`UNIT_BYTES`]: 256 MiB.
const UNITS: usize = 4096;
const UNIT_BYTES: usize = 64 * 1024;

/// Whoever finds no room comes again after this many seconds.
pub(super) const RETRY_S: u64 = 5;

/// How often each asker may ask, and how much all may send at once.
#[derive(Debug)]
pub(crate) struct Room {
    pub(super) batches: Often,
    pub(super) links: Often,
    pub(super) reads: Often,
    pub(super) selves: Often,
    /// One large batch is unpacked at a time, so that a hundred that come at once leave others a processor.
    pub(super) unpacking: Arc<Semaphore>,
    memory: Memory,
}

/// What is left of the memory for batches.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<Semaphore>);

/// How often each of many askers may ask.
#[derive(Debug)]
pub(super) struct Often(DefaultKeyedRateLimiter<i64>);

/// A part of the memory.
#[derive(Debug)]
pub(super) struct Held {
    memory: Memory,
    permit: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    fn default() -> Self {
        let often = |quota| Often(RateLimiter::keyed(quota));
        Self {
            batches: often(BATCHES),
            links: often(LINKS),
            reads: often(READS),
            selves: often(SELVES),
            unpacking: Arc::new(Semaphore::new(1)),
            memory: Memory(Arc::new(Semaphore::new(UNITS))),
        }
    }
}

impl Often {
    /// Counts a request of the asker with this id, or says when to come again.
    pub(super) fn check(&self, asker: i64) -> Result<(), ApiError> {
        if self.0.len() > REMEMBERED {
            self.0.retain_recent();
        }
        self.0.check_key(&asker).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            ApiError::RateLimited { retry_s: wait.as_secs() + 1 }
        })
    }
}

impl Room {
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }
}

impl Memory {
    /// Returns nothing of the memory, which can grow.
    pub(super) fn hold(&self) -> Held {
        Held { memory: self.clone(), permit: None }
    }
}

impl Held {
    /// Takes as much as so many bytes need, or says when to come again.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).ok();
        let more =
            more.and_then(|more| Arc::clone(&self.memory.0).try_acquire_many_owned(more).ok());
        let more = more.ok_or(ApiError::Unavailable { retry_s: RETRY_S })?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_may_send_so_often_and_another_one_too() {
        let room = Room::default();
        let check = |gateway| room.batches.check(gateway);

        let taken = (0..1000).take_while(|_| check(1).is_ok()).count();

        assert!((200..400).contains(&taken), "{taken}");
        assert!(matches!(check(1), Err(ApiError::RateLimited { retry_s: 1 })));
        assert!(check(2).is_ok());
    }

    #[test]
    fn memory_is_shared_and_given_back() {
        let room = Room::default();
        let (mut first, mut second) = (room.memory().hold(), room.memory().hold());
        first.grow_to(1).unwrap();
        first.grow_to(UNITS * UNIT_BYTES - 1).unwrap();

        assert!(matches!(second.grow_to(1), Err(ApiError::Unavailable { .. })));
        drop(first);
        second.grow_to(UNITS * UNIT_BYTES).unwrap();
    }
}
