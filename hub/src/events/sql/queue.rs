//! Batches that wait to be stored: how many may, and which comes first.
//!
//! What is small and what happens now do not wait behind what happened yesterday: each has a lane of its own.
//! Knows nothing of how a batch is stored.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::events::Waiting;

/// What waits in all lanes together, in bytes as they came.
const BYTES_MAX: usize = 96 * 1024 * 1024;

/// A batch costs as much as so many records, in addition to those it has.
const BATCH_COST: u64 = 20;

/// Groups of the last lane at the same time, of one batch each. That is how long all others wait at most.
const OLD_GROUPS_MAX: usize = 1;

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
    const ALL: [Self; 3] = [Self::Small, Self::Recent, Self::Old];

    fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Recent => "recent",
            Self::Old => "old",
        }
    }

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
    /// Groups that are not of small ones, stored at the same time. Others are left for those.
    pub(super) large_groups_max: usize,
    /// Of so many of those, one prefers the last lane: it must not wait forever either.
    pub(super) old_turn: u64,
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
    batches: [u64; 3],
    bytes: usize,
    /// Groups that are being stored.
    groups: [usize; 3],
    large_groups_taken: u64,
    /// The group before was of small ones. However many of them come, others have their turn.
    small_before: bool,
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

/// What was taken from one lane together.
#[derive(Debug)]
pub(super) struct Group<T> {
    pub(super) jobs: Vec<T>,
    lane: Lane,
    queue: Arc<Queue<T>>,
}

impl<T> Queue<T> {
    pub(super) fn new(portions: Portions) -> Self {
        let state = State {
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            costs: [0; 3],
            batches: [0; 3],
            bytes: 0,
            groups: [0; 3],
            large_groups_taken: 0,
            small_before: false,
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
        state.batches[lane as usize] += 1;
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
                let taken = state.take(self.portions);
                let is_empty = state.lanes.iter().all(VecDeque::is_empty);
                if let Some((lane, jobs)) = taken {
                    drop(state);
                    if !is_empty {
                        self.ready.notify_one();
                    }
                    return Some(Group { jobs, lane, queue: Arc::clone(self) });
                }
                if state.closed && is_empty {
                    self.ready.notify_one();
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Returns what is in each lane, on its way to it, or being stored.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let state = self.lock();
        let waiting = |lane: Lane| {
            let (batches, cost) = (state.batches[lane as usize], state.costs[lane as usize]);
            Waiting { lane: lane.as_str(), batches, records: cost - batches * BATCH_COST }
        };
        Lane::ALL.map(waiting).into()
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
    /// Returns jobs of one lane.
    fn take(&mut self, portions: Portions) -> Option<(Lane, Vec<T>)> {
        for lane in self.order(portions.old_turn) {
            let others = self.groups[Lane::Recent as usize] + self.groups[Lane::Old as usize];
            let (batches_max, has_room) = match lane {
                Lane::Small => (portions.batches_max, true),
                Lane::Recent => (portions.batches_max, others < portions.large_groups_max),
                Lane::Old => {
                    let own = self.groups[Lane::Old as usize];
                    (1, own < OLD_GROUPS_MAX && others < portions.large_groups_max)
                }
            };
            if !has_room || self.lanes[lane as usize].is_empty() {
                continue;
            }
            self.groups[lane as usize] += 1;
            self.small_before = lane == Lane::Small;
            self.large_groups_taken += u64::from(lane != Lane::Small);
            return Some((lane, self.first(lane, batches_max, portions.records_max)));
        }
        None
    }

    /// Returns the lanes, the one whose turn it is first.
    fn order(&self, old_turn: u64) -> [Lane; 3] {
        let is_old = self.large_groups_taken % old_turn == old_turn - 1;
        match (self.small_before, is_old) {
            (false, false) => [Lane::Small, Lane::Recent, Lane::Old],
            (false, true) => [Lane::Small, Lane::Old, Lane::Recent],
            (true, false) => [Lane::Recent, Lane::Old, Lane::Small],
            (true, true) => [Lane::Old, Lane::Recent, Lane::Small],
        }
    }

    fn first(&mut self, lane: Lane, batches_max: usize, records_max: u64) -> Vec<T> {
        let (mut jobs, mut taken) = (Vec::new(), 0);
        while jobs.len() < batches_max
            && let Some((records, job)) = self.lanes[lane as usize]
                .pop_front_if(|(records, _)| jobs.is_empty() || taken + *records <= records_max)
        {
            taken += records;
            jobs.push(job);
        }
        jobs
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.costs[self.lane as usize] -= self.cost;
        state.batches[self.lane as usize] -= 1;
        state.bytes -= self.bytes;
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        self.queue.lock().groups[self.lane as usize] -= 1;
        self.queue.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Portions =
        Portions { batches_max: 1, records_max: 1, large_groups_max: 2, old_turn: 8 };
    const MANY: Portions =
        Portions { batches_max: 64, records_max: 2000, large_groups_max: 1, old_turn: 8 };

    fn queue(portions: Portions) -> Arc<Queue<&'static str>> {
        Arc::new(Queue::new(portions))
    }

    /// Takes so many groups, one after the other.
    async fn taken(queue: &Arc<Queue<&'static str>>, groups: usize) -> Vec<Vec<&'static str>> {
        let mut taken = Vec::new();
        for _ in 0..groups {
            taken.push(queue.take().await.unwrap().jobs.clone());
        }
        taken
    }

    async fn is_waiting(queue: &Arc<Queue<&'static str>>) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(10), queue.take()).await.is_err()
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
    async fn small_ones_are_stored_together_recent_ones_too_and_old_ones_by_themselves() {
        let queue = queue(MANY);
        for _ in 0..3 {
            queue.push(Lane::Old, 1000, "old");
            queue.push(Lane::Recent, 1000, "recent");
            queue.push(Lane::Small, 10, "small");
        }

        let taken = taken(&queue, 6).await;

        assert_eq!(taken[..2], [vec!["small", "small", "small"], vec!["recent", "recent"]]);
        assert_eq!(taken[2..], [["recent"], ["old"], ["old"], ["old"]]);
    }

    #[tokio::test]
    async fn others_have_their_turn_however_many_small_ones_come() {
        let queue = queue(ONE);
        queue.push(Lane::Recent, 1000, "recent");
        for _ in 0..4 {
            queue.push(Lane::Small, 10, "small");
        }

        assert_eq!(taken(&queue, 3).await, [["small"], ["recent"], ["small"]]);
    }

    #[tokio::test]
    async fn large_batches_leave_room_for_small_ones() {
        let queue = queue(ONE);
        for _ in 0..3 {
            queue.push(Lane::Recent, 1000, "recent");
        }
        let groups = [queue.take().await.unwrap(), queue.take().await.unwrap()];

        // Two are being stored: a third one waits, and a small one does not.
        assert!(is_waiting(&queue).await);
        queue.push(Lane::Small, 1, "small");
        assert_eq!(queue.take().await.unwrap().jobs, ["small"]);
        drop(groups);
        assert_eq!(queue.take().await.unwrap().jobs, ["recent"]);
    }

    #[tokio::test]
    async fn old_batches_leave_room_for_recent_ones() {
        let queue = queue(ONE);
        queue.push(Lane::Old, 1000, "old");
        queue.push(Lane::Old, 1000, "old");
        let group = queue.take().await.unwrap();

        assert!(is_waiting(&queue).await);
        queue.push(Lane::Recent, 1000, "recent");
        assert_eq!(queue.take().await.unwrap().jobs, ["recent"]);
        drop(group);
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
        let old = Waiting { lane: "old", batches: 15, records: 15_000 };
        let none = |lane| Waiting { lane, batches: 0, records: 0 };
        assert_eq!(queue.waiting(), [none("small"), none("recent"), old]);
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
