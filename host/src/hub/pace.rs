//! When the Hub is asked again, and what is said about it in the log: once when it takes nothing, once
//! when it does again.

use std::sync::Mutex;
use std::time::Duration;

use ultra_store::StoreError;

use super::batch::BatchError;
use super::client::ClientError;
use crate::{chain, lock};

/// A Hub that wants to be left alone for longer is asked all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Hub(#[from] ClientError),
    #[error("the records cannot be read")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// An answer after which nothing is different from before.
    #[error("the Hub's answer makes no sense: {reason}")]
    Senseless { reason: &'static str },
}

impl Failure {
    /// Returns whether the Hub has said its last word.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Hub(ClientError::Refused { .. } | ClientError::Address { .. }))
    }

    /// Returns whether it can only pass when something is changed, here or there.
    fn is_fault(&self) -> bool {
        match self {
            Self::Hub(error) => matches!(error, ClientError::Invalid { .. }),
            Self::Store(_) | Self::Batch(_) => true,
            Self::Senseless { .. } => false,
        }
    }

    /// Returns whether nobody answered.
    pub(super) fn is_away(&self) -> bool {
        matches!(self, Self::Hub(ClientError::Away { .. }))
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Hub(error) => error.retry_after(),
            Self::Store(_) | Self::Batch(_) | Self::Senseless { .. } => None,
        }
    }
}

/// Pauses after failures: random, so that the gateways of a Hub do not come back all at once.
#[derive(Debug)]
pub(super) struct BackOff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl BackOff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// Begins anew after a success; returns whether there were failures before.
    pub(super) fn reset(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Returns how long to wait after one more failure.
    pub(super) fn next(&mut self, failure: &Failure) -> Duration {
        let longest = self.min.saturating_mul(2u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let pause = longest.mul_f64(rand::random());
        match failure.retry_after() {
            Some(told) => pause.max(stretched(told)),
            None => pause,
        }
    }
}

/// Returns how long a Hub that said this is left alone: at least as long, and not until the same moment as
/// others do.
pub(super) fn stretched(told: Duration) -> Duration {
    told.min(RETRY_AFTER_MAX).mul_f64(1.0 + rand::random::<f64>() / 4.0)
}

/// Returns a period, a fifth longer or shorter by chance.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.8..1.2))
}

/// What is sent, and so can fail.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Heartbeats,
    Records,
}

/// Whether the Hub takes what it gets, and what was said about that.
#[derive(Debug, Default)]
pub(super) struct Mood(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    heartbeats_fail: bool,
    records_fail: bool,
    /// The log has a line about it.
    is_said: bool,
    is_fault_said: bool,
}

impl State {
    fn fails(&mut self, signal: Signal) -> &mut bool {
        match signal {
            Signal::Heartbeats => &mut self.heartbeats_fail,
            Signal::Records => &mut self.records_fail,
        }
    }
}

impl Mood {
    /// Notes that something was taken.
    pub(super) fn taken(&self, signal: Signal, url: &str) {
        let mut state = lock(&self.0);
        *state.fails(signal) = false;
        if !state.heartbeats_fail && !state.records_fail && state.is_said {
            *state = State::default();
            tracing::info!(hub.url = url, "the Hub at `{url}` takes records again");
        }
    }

    /// Notes that something was not taken.
    pub(super) fn failed(&self, signal: Signal, url: &str, failure: &Failure) {
        let mut state = lock(&self.0);
        if matches!(signal, Signal::Heartbeats) {
            // Only when records are taken again is all as it was.
            state.records_fail = true;
        }
        *state.fails(signal) = true;
        let reason = chain(failure);
        if failure.is_final() {
            tracing::warn!(
                hub.url = url,
                "nothing is sent to the Hub any more: {reason}; run `ultra link` to link this gateway again, and restart its client"
            );
        } else if failure.is_fault() {
            if !std::mem::replace(&mut state.is_fault_said, true) {
                state.is_said = true;
                tracing::error!(hub.url = url, "records wait for the Hub at `{url}`: {reason}");
            }
        } else if !std::mem::replace(&mut state.is_said, true) {
            tracing::warn!(
                hub.url = url,
                "the Hub at `{url}` takes nothing for now: {reason}; records are kept and sent later"
            );
        }
    }

    /// Returns whether the Hub took what it got last.
    pub(super) fn is_good(&self) -> bool {
        let state = lock(&self.0);
        !state.heartbeats_fail && !state.records_fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(300);

    fn busy(retry_after: Option<Duration>) -> Failure {
        Failure::Hub(ClientError::Busy { retry_after, message: String::new() })
    }

    #[test]
    fn pauses_become_longer_up_to_a_limit() {
        let mut longest = [Duration::ZERO; 12];
        for _ in 0..400 {
            let mut back_off = BackOff::new(MIN, MAX);
            for longest in &mut longest {
                *longest = back_off.next(&busy(None)).max(*longest);
            }
        }

        for (at, longest) in longest.into_iter().enumerate() {
            let limit = MIN.saturating_mul(1 << at).min(MAX);
            assert!(longest <= limit && longest > limit / 2, "{at}: {longest:?}");
        }
    }

    #[test]
    fn what_the_hub_says_is_the_least() {
        let told = Duration::from_secs(40);
        let mut back_off = BackOff::new(MIN, MAX);

        for _ in 0..4 {
            let pause = back_off.next(&busy(Some(told)));
            assert!(pause >= told && pause <= told * 5 / 4, "{pause:?}");
        }
        let day = Duration::from_secs(86_400);
        assert!(back_off.next(&busy(Some(day))) <= RETRY_AFTER_MAX * 5 / 4);
    }

    #[test]
    fn a_period_differs_by_a_fifth() {
        let periods: Vec<_> = (0..1_000).map(|_| jittered(Duration::from_secs(10))).collect();

        let (min, max) = (*periods.iter().min().unwrap(), *periods.iter().max().unwrap());
        assert!(min >= Duration::from_secs(8) && min < Duration::from_millis(8_400), "{min:?}");
        assert!(max <= Duration::from_secs(12) && max > Duration::from_millis(11_600), "{max:?}");
    }
}
