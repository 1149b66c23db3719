//! How often a gateway may send records.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::ApiError;
use crate::id::GatewayId;

/// Batches of one gateway in a second, over some time. Of full ones that is more than a Hub takes of all; it
/// bounds those who send many small ones.
const BATCHES_PER_S: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// At once, after a pause.
const BATCHES_BURST: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// Gateways remembered before those that are quiet are forgotten.
const REMEMBERED: usize = 50_000;

/// How often each gateway may send.
#[derive(Debug)]
pub(crate) struct Room(DefaultKeyedRateLimiter<i64>);

impl Default for Room {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_second(BATCHES_PER_S).allow_burst(BATCHES_BURST)))
    }
}

impl Room {
    /// Counts a batch, or says when to come again.
    pub(super) fn check(&self, gateway: GatewayId) -> Result<(), ApiError> {
        if self.0.len() > REMEMBERED {
            self.0.retain_recent();
        }
        self.0.check_key(&gateway.number()).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            ApiError::RateLimited { retry_s: wait.as_secs() + 1 }
        })
    }
}
