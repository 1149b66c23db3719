//! How often a gateway may send records, and what all of them may hold in memory while they arrive.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::id::GatewayId;

/// Batches of one gateway in a second, over some time. Of full ones that is more than a Hub takes of all; it
/// bounds those who send many small ones.
const BATCHES_PER_S: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// At once, after a pause.
const BATCHES_BURST: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// Gateways remembered before those that are quiet are forgotten.
const REMEMBERED: usize = 50_000;

/// What all batches that arrive or wait to be stored hold, in units of [`UNIT_BYTES`]: 256 MiB.
const UNITS: usize = 4096;
const UNIT_BYTES: usize = 64 * 1024;

/// Whoever finds no room comes again after this many seconds.
pub(super) const RETRY_S: u64 = 5;

/// How often each gateway may send, and how much at once.
#[derive(Debug)]
pub(crate) struct Room {
    often: DefaultKeyedRateLimiter<i64>,
    memory: Arc<Semaphore>,
}

/// A part of the memory.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    fn default() -> Self {
        let quota = Quota::per_second(BATCHES_PER_S).allow_burst(BATCHES_BURST);
        Self { often: RateLimiter::keyed(quota), memory: Arc::new(Semaphore::new(UNITS)) }
    }
}

impl Room {
    /// Counts a batch, or says when to come again.
    pub(super) fn check(&self, gateway: GatewayId) -> Result<(), ApiError> {
        if self.often.len() > REMEMBERED {
            self.often.retain_recent();
        }
        self.often.check_key(&gateway.number()).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            ApiError::RateLimited { retry_s: wait.as_secs() + 1 }
        })
    }

    /// Returns nothing of the memory, which can grow.
    pub(super) fn hold(&self) -> Held {
        Held { memory: Arc::clone(&self.memory), permit: None }
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
        let more = more.and_then(|more| Arc::clone(&self.memory).try_acquire_many_owned(more).ok());
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
        let check = |gateway| room.check(GatewayId::from_number(gateway));

        let taken = (0..1000).take_while(|_| check(1).is_ok()).count();

        assert!((200..400).contains(&taken), "{taken}");
        assert!(matches!(check(1), Err(ApiError::RateLimited { retry_s: 1 })));
        assert!(check(2).is_ok());
    }

    #[test]
    fn memory_is_shared_and_given_back() {
        let room = Room::default();
        let (mut first, mut second) = (room.hold(), room.hold());
        first.grow_to(1).unwrap();
        first.grow_to(UNITS * UNIT_BYTES - 1).unwrap();

        assert!(matches!(second.grow_to(1), Err(ApiError::Unavailable { .. })));
        drop(first);
        second.grow_to(UNITS * UNIT_BYTES).unwrap();
    }
}
