//! Batches that wait to be stored: how many may, and which comes first.
//!
//! What is small and what happens now do not wait behind what happened yesterday: each has a lane of its own.
//! Knows nothing of how a batch is stored.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What waits in all lanes together, in bytes as they came.
const BYTES_MAX: usize = 96 * 1024 * 1024;

/// A batch costs as much as so many records, in addition to those it has.
const BATCH_COST: u64 = 20;

/// Of so many choices, one prefers the last lane: it must not wait forever either.
const OLD_TURN: u64 = 8;

/// Which of them; the first one comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// A few records, such as a gateway has each minute.
    Small,
    /// Many, of what happens now.
    Recent,
    /// Many, of what happened long ago.
    Old,
}

impl Lane {
    /// The cost of what may wait in this lane: two or three seconds of storing. Whoever is refused
    /// comes again.
    fn cost_max(self) -> u64 {
        match self {
            Self::Small => 20_000,
            Self::Recent => 24_000,
            Self::Old => 16_000,
        }
    }
}

/// What is taken from the queue at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portions {
    /// Batches.
    pub(super) batches_max: usize,
    /// Their records; a single batch may have more.
    pub(super) records_max: u64,
    /// Groups that are not only of small ones, stored at the same time. Others are left for those.
    pub(super) large_groups_max: usize,
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
    /// With the number of records of each.
    lanes: [VecDeque<(u64, T)>; 3],
    /// What is in the lanes, on its way to them, or being stored.
    costs: [u64; 3],
    bytes: usize,
    large_groups: usize,
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
    /// If not all of them are small.
    large: Option<Arc<Queue<T>>>,
}

impl<T> Queue<T> {
    pub(super) fn new(portions: Portions) -> Self {
        let state = State {
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            costs: [0; 3],
            bytes: 0,
            large_groups: 0,
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
        let is_full = state.costs[lane as usize] + cost > lane.cost_max();
        if is_full || state.bytes + bytes > BYTES_MAX {
            return None;
        }
        state.costs[lane as usize] += cost;
        state.bytes += bytes;
        Some(Ticket { queue: Arc::clone(self), lane, cost, bytes })
    }

    /// Puts a job with so many records into its lane.
    pub(super) fn push(&self, lane: Lane, records: u64, job: T) {
        self.lock().lanes[lane as usize].push_back((records, job));
        self.ready.notify_one();
    }

    /// Waits for jobs and takes some; nothing, when the queue was closed and is empty.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Group<T>> {
        loop {
            {
                let mut state = self.lock();
                let (jobs, large) = state.take(self.portions);
                let is_empty = state.lanes.iter().all(VecDeque::is_empty);
                if !jobs.is_empty() {
                    drop(state);
                    if !is_empty {
                        self.ready.notify_one();
                    }
                    let large = large.then(|| Arc::clone(self));
                    return Some(Group { jobs, large });
                }
                if state.closed && is_empty {
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
    /// Returns jobs, and whether some are of large batches.
    fn take(&mut self, portions: Portions) -> (Vec<T>, bool) {
        self.turn += 1;
        let mut jobs = Vec::new();
        self.move_from(Lane::Small, portions.batches_max, portions.records_max, &mut jobs);
        let small = jobs.len();
        if self.large_groups >= portions.large_groups_max {
            return (jobs, false);
        }
        // Beside small ones, one large batch at a time: that is how long the next small one waits.
        let room = portions.batches_max.saturating_sub(small);
        let room = if small == 0 { room } else { room.min(1) };
        let mut lanes = [Lane::Recent, Lane::Old];
        if self.turn.is_multiple_of(OLD_TURN) {
            lanes.reverse();
        }
        for lane in lanes {
            if jobs.len() == small {
                self.move_from(lane, room, portions.records_max, &mut jobs);
            }
        }
        let large = jobs.len() > small;
        self.large_groups += usize::from(large);
        (jobs, large)
    }

    fn move_from(&mut self, lane: Lane, batches_max: usize, records_max: u64, jobs: &mut Vec<T>) {
        let (mut batches, mut moved) = (0, 0);
        while batches < batches_max
            && let Some((records, job)) = self.lanes[lane as usize]
                .pop_front_if(|(records, _)| batches == 0 || moved + *records <= records_max)
        {
            batches += 1;
            moved += records;
            jobs.push(job);
        }
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.costs[self.lane as usize] -= self.cost;
        state.bytes -= self.bytes;
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        if let Some(queue) = self.large.take() {
            queue.lock().large_groups -= 1;
            queue.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Portions = Portions { batches_max: 1, records_max: 1, large_groups_max: 2 };
    const MANY: Portions = Portions { batches_max: 64, records_max: 2000, large_groups_max: 1 };

    fn queue(portions: Portions) -> Arc<Queue<&'static str>> {
        Arc::new(Queue::new(portions))
    }

    async fn taken(queue: &Arc<Queue<&'static str>>, groups: usize) -> Vec<Vec<&'static str>> {
        let mut taken = Vec::new();
        for _ in 0..groups {
            taken.push(queue.take().await.unwrap().jobs.clone());
        }
        taken
    }

    #[tokio::test]
    async fn what_is_small_comes_before_what_is_recent_and_that_before_what_is_old() {
        let queue = queue(ONE);
        queue.push(Lane::Old, 1000, "old");
        queue.push(Lane::Recent, 1000, "recent");
        queue.push(Lane::Small, 10, "small");

        assert_eq!(taken(&queue, 3).await, [["small"], ["recent"], ["old"]]);
    }

    #[tokio::test]
    async fn a_group_has_all_that_is_small_and_one_large_batch() {
        let queue = queue(MANY);
        for _ in 0..3 {
            queue.push(Lane::Old, 1000, "old");
            queue.push(Lane::Recent, 1000, "recent");
            queue.push(Lane::Small, 10, "small");
        }

        let taken = taken(&queue, 4).await;

        assert_eq!(taken[0], ["small", "small", "small", "recent"]);
        assert_eq!(taken[1..], [vec!["recent", "recent"], vec!["old", "old"], vec!["old"]]);
    }

    #[tokio::test]
    async fn large_batches_leave_room_for_small_ones() {
        let queue = queue(ONE);
        for _ in 0..3 {
            queue.push(Lane::Old, 1000, "old");
        }
        let groups = [queue.take().await.unwrap(), queue.take().await.unwrap()];

        // Two are being stored: a third one waits, and a small one does not.
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), queue.take());
        assert!(waiting.await.is_err());
        queue.push(Lane::Small, 1, "small");
        assert_eq!(queue.take().await.unwrap().jobs, ["small"]);
        drop(groups);
        assert_eq!(queue.take().await.unwrap().jobs, ["old"]);
    }

    #[tokio::test]
    async fn what_is_old_moves_however_much_is_recent() {
        let queue = queue(ONE);
        queue.push(Lane::Old, 1000, "old");
        for _ in 0..20 {
            queue.push(Lane::Recent, 1000, "recent");
        }

        assert!(taken(&queue, 8).await.contains(&vec!["old"]));
    }

    #[test]
    fn a_full_lane_refuses_and_another_one_does_not() {
        let queue = queue(MANY);
        let mut tickets = Vec::new();
        while let Some(ticket) = queue.admit(Lane::Old, 1000, 1) {
            tickets.push(ticket);
        }

        assert_eq!(tickets.len(), 15);
        assert!(queue.admit(Lane::Recent, 1000, 1).is_some());
        assert!(queue.admit(Lane::Small, 1, BYTES_MAX).is_none());
        tickets.pop();
        assert!(queue.admit(Lane::Old, 1000, 1).is_some());
    }

    #[tokio::test]
    async fn what_waits_is_still_taken_after_closing() {
        let queue = queue(MANY);
        queue.push(Lane::Recent, 1, "last");
        queue.close();

        assert_eq!(queue.take().await.unwrap().jobs, ["last"]);
        assert!(queue.take().await.is_none());
        assert!(queue.take().await.is_none());
    }
}
