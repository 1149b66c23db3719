//! Batches that wait to be stored: how many may, and which comes first.
//!
//! What happens now has a lane of its own, so that it does not wait behind yesterday. Knows nothing of how a
//! batch is stored.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What waits in both lanes together, in bytes as they came.
const BYTES_MAX: usize = 96 * 1024 * 1024;

/// What waits of what happens now: three or four seconds of storing.
const LIVE_MAX: u64 = 40_000;

/// What waits of what happened long ago. Its gateways come again.
const BACKLOG_MAX: u64 = 16_000;

/// A batch costs as much as so many records, in addition to those it has.
const BATCH_COST: u64 = 20;

/// Of so many choices, one prefers the backlog: it must not wait forever either.
const BACKLOG_TURN: u64 = 8;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Live,
    Backlog,
}

/// What is taken from the queue at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portions {
    /// Batches.
    pub(super) batches_max: usize,
    /// Records of the live lane; a single batch may have more.
    pub(super) live_max: u64,
    /// Records of the backlog, when there is nothing live beside them.
    pub(super) backlog_max: u64,
    /// Groups with something of the backlog that are stored at the same time.
    pub(super) backlog_groups_max: usize,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Notify,
    portions: Portions,
}

#[derive(Debug)]
struct State<T> {
    live: VecDeque<(u64, T)>,
    backlog: VecDeque<(u64, T)>,
    /// What is in the lanes, on its way to them, or being stored.
    live_cost: u64,
    backlog_cost: u64,
    bytes: usize,
    backlog_groups: usize,
    turn: u64,
    closed: bool,
}

/// A place in the queue. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket<T> {
    queue: Arc<Queue<T>>,
    lane: Lane,
    cost: u64,
    bytes: usize,
}

/// What was taken from the queue together.
#[derive(Debug)]
pub(super) struct Group<T> {
    pub(super) jobs: Vec<T>,
    backlog: Option<Arc<Queue<T>>>,
}

impl<T> Queue<T> {
    pub(super) fn new(portions: Portions) -> Self {
        let state = State {
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            live_cost: 0,
            backlog_cost: 0,
            bytes: 0,
            backlog_groups: 0,
            turn: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), ready: Notify::new(), portions }
    }

    /// Reserves a place; nothing, if there is none.
    pub(super) fn admit(
        self: &Arc<Self>,
        lane: Lane,
        records: u64,
        bytes: usize,
    ) -> Option<Ticket<T>> {
        let mut state = self.lock();
        let cost = records + BATCH_COST;
        let (waiting, most) = match lane {
            Lane::Live => (&mut state.live_cost, LIVE_MAX),
            Lane::Backlog => (&mut state.backlog_cost, BACKLOG_MAX),
        };
        if *waiting + cost > most {
            return None;
        }
        *waiting += cost;
        if state.bytes + bytes > BYTES_MAX {
            *state.cost(lane) -= cost;
            return None;
        }
        state.bytes += bytes;
        Some(Ticket { queue: Arc::clone(self), lane, cost, bytes })
    }

    /// Puts a job with so many records into its lane.
    pub(super) fn push(&self, lane: Lane, records: u64, job: T) {
        let mut state = self.lock();
        match lane {
            Lane::Live => state.live.push_back((records, job)),
            Lane::Backlog => state.backlog.push_back((records, job)),
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Waits for jobs and takes some; nothing, when the queue was closed and is empty.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Group<T>> {
        loop {
            {
                let mut state = self.lock();
                let (jobs, backlog) = state.take(self.portions);
                if !jobs.is_empty() {
                    let more = !state.live.is_empty() || !state.backlog.is_empty();
                    drop(state);
                    if more {
                        self.ready.notify_one();
                    }
                    let backlog = backlog.then(|| Arc::clone(self));
                    return Some(Group { jobs, backlog });
                }
                if state.closed && state.live.is_empty() && state.backlog.is_empty() {
                    self.ready.notify_one();
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Lets [`Self::take`] end.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing below panics with the lock held but an overflow, and then counts are only too high.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn cost(&mut self, lane: Lane) -> &mut u64 {
        match lane {
            Lane::Live => &mut self.live_cost,
            Lane::Backlog => &mut self.backlog_cost,
        }
    }

    /// Returns jobs, and whether some are of the backlog.
    fn take(&mut self, portions: Portions) -> (Vec<T>, bool) {
        let mut jobs = Vec::new();
        self.turn += 1;
        let backlog_first = portions.batches_max == 1 && self.turn.is_multiple_of(BACKLOG_TURN);
        let backlog_may = self.backlog_groups < portions.backlog_groups_max;
        let mut live = 0;
        if !(backlog_first && backlog_may && !self.backlog.is_empty()) {
            while jobs.len() < portions.batches_max
                && let Some((records, job)) = self
                    .live
                    .pop_front_if(|(records, _)| live == 0 || live + *records <= portions.live_max)
            {
                live += records;
                jobs.push(job);
            }
        }
        // Beside what is live, one batch at a time: that is how long the next live one waits.
        let most = if live == 0 { portions.backlog_max } else { 0 };
        let (before, mut taken) = (jobs.len(), 0);
        while backlog_may
            && jobs.len() < portions.batches_max
            && let Some((records, job)) =
                self.backlog.pop_front_if(|(records, _)| taken == 0 || taken + *records <= most)
        {
            taken += records.max(1);
            jobs.push(job);
        }
        let backlog = jobs.len() > before;
        self.backlog_groups += usize::from(backlog);
        (jobs, backlog)
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        *state.cost(self.lane) -= self.cost;
        state.bytes -= self.bytes;
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        if let Some(queue) = self.backlog.take() {
            queue.lock().backlog_groups -= 1;
            queue.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Portions =
        Portions { batches_max: 1, live_max: 1000, backlog_max: 1000, backlog_groups_max: 2 };
    const MANY: Portions =
        Portions { batches_max: 64, live_max: 4000, backlog_max: 2000, backlog_groups_max: 1 };

    fn queue(portions: Portions) -> Arc<Queue<&'static str>> {
        Arc::new(Queue::new(portions))
    }

    #[tokio::test]
    async fn what_happens_now_comes_before_what_happened_long_ago() {
        let queue = queue(ONE);
        queue.push(Lane::Backlog, 1000, "old");
        queue.push(Lane::Live, 10, "new");

        let taken = [queue.take().await.unwrap(), queue.take().await.unwrap()];

        assert_eq!(taken.map(|group| group.jobs[0]), ["new", "old"]);
    }

    #[tokio::test]
    async fn a_group_has_all_that_is_live_and_one_batch_of_the_backlog() {
        let queue = queue(MANY);
        for _ in 0..3 {
            queue.push(Lane::Backlog, 1000, "old");
        }
        for records in [1500, 1500, 1500] {
            queue.push(Lane::Live, records, "new");
        }

        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(queue.take().await.unwrap().jobs.clone());
        }

        assert_eq!(taken, [vec!["new", "new", "old"], vec!["new", "old"], vec!["old"]]);
    }

    #[tokio::test]
    async fn the_backlog_leaves_room_and_still_moves() {
        let queue = queue(ONE);
        for _ in 0..4 {
            queue.push(Lane::Backlog, 1000, "old");
        }
        let first = queue.take().await.unwrap();
        let second = queue.take().await.unwrap();
        // Two are being stored: a third waits, however long nothing live comes.
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), queue.take());
        assert!(waiting.await.is_err());
        drop(first);
        assert_eq!(queue.take().await.unwrap().jobs, ["old"]);
        drop(second);

        for _ in 0..20 {
            queue.push(Lane::Live, 1, "new");
        }
        let mut order = Vec::new();
        for _ in 0..20 {
            order.push(queue.take().await.unwrap().jobs[0]);
        }

        assert_eq!(order.iter().filter(|lane| **lane == "old").count(), 1);
    }

    #[test]
    fn a_full_lane_refuses_and_the_other_one_does_not() {
        let queue = queue(MANY);
        let mut tickets = Vec::new();
        while let Some(ticket) = queue.admit(Lane::Backlog, 1000, 1) {
            tickets.push(ticket);
        }

        assert_eq!(tickets.len(), 15);
        assert!(queue.admit(Lane::Live, 1000, 1).is_some());
        assert!(queue.admit(Lane::Live, 1, BYTES_MAX).is_none());
        tickets.pop();
        assert!(queue.admit(Lane::Backlog, 1000, 1).is_some());
    }

    #[tokio::test]
    async fn what_waits_is_still_taken_after_closing() {
        let queue = queue(MANY);
        queue.push(Lane::Live, 1, "last");
        queue.close();

        assert_eq!(queue.take().await.unwrap().jobs, ["last"]);
        assert!(queue.take().await.is_none());
        assert!(queue.take().await.is_none());
    }
}
