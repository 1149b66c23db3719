//! Who gets a place where there are not enough of them, and who gives one up. Pure.
//!
//! Whoever signs in may open as much as they like, but not at the cost of others.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// A place that somebody has.
pub(super) struct Place<Id, Worth> {
    pub(super) id: Id,
    /// Whose it is.
    pub(super) subject: Option<Arc<str>>,
    pub(super) is_in_use: bool,
    /// Of places alike, the one worth least is given up first.
    pub(super) worth: Worth,
}

/// What there is for a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room<Id> {
    /// A place.
    Free,
    /// The place that this one gives up.
    Of(Id),
    /// Nothing.
    None,
}

/// Returns what there is for one more of this subject, where there are `limit` places.
///
/// While there are several subjects, each has half of the places at most. A place that is not in use is given
/// up first, by whoever has most places. One in use is only given up by a subject that has more than the
/// newcomer's even then.
pub(super) fn room<Id, Worth: Ord>(
    limit: usize,
    subject: Option<&Arc<str>>,
    places: Vec<Place<Id, Worth>>,
) -> Room<Id> {
    let mut counts = HashMap::<_, usize>::new();
    for place in &places {
        *counts.entry(place.subject.clone()).or_default() += 1;
    }
    let own = counts.get(&subject.cloned()).copied().unwrap_or_default();
    let has_share = own < places.len() && own >= half(limit);
    if !has_share && places.len() < limit {
        return Room::Free;
    }
    let may_go = |place: &Place<Id, Worth>| match (has_share, place.is_in_use) {
        (true, is_in_use) => !is_in_use && place.subject.as_ref() == subject,
        (false, true) => counts[&place.subject] > own + 1,
        (false, false) => true,
    };
    places
        .into_iter()
        .filter(may_go)
        .map(|place| {
            let rank = (place.is_in_use, Reverse(counts[&place.subject]), place.worth);
            (rank, place.id)
        })
        .min_by(|(one, _), (other, _)| one.cmp(other))
        .map_or(Room::None, |(_, id)| Room::Of(id))
}

/// Returns how many of so many places a subject has at most, while there are others.
pub(super) fn half(limit: usize) -> usize {
    (limit / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the room for one more of a subject among four, which is a letter. A capital one is in use; the
    /// first are worth least.
    fn room_for(subject: &str, places: &str) -> Room<usize> {
        let subject = Some(Arc::from(subject));
        let place = |(id, char): (usize, char)| Place {
            id,
            subject: Some(char.to_ascii_lowercase().to_string().into()),
            is_in_use: char.is_ascii_uppercase(),
            worth: id,
        };
        room(4, subject.as_ref(), places.chars().enumerate().map(place).collect())
    }

    #[test]
    fn no_subject_crowds_out_another() {
        for (subject, places, expected) in [
            // Alone, one has all places.
            ("b", "BBB", Room::Free),
            ("b", "BbbB", Room::Of(1)),
            ("b", "BBBB", Room::None),
            // With others, half of them; and one's own make room.
            ("b", "aBB", Room::None),
            ("b", "aBb", Room::Of(2)),
            // Who has most makes room first.
            ("c", "abbb", Room::Of(1)),
            ("c", "aBBB", Room::Of(0)),
            // Even if all that is in use, but not down to what the newcomer would have.
            ("a", "BBBB", Room::Of(0)),
            ("a", "ABBB", Room::Of(1)),
            ("a", "AABB", Room::None),
            ("c", "AABB", Room::Of(0)),
            ("e", "ABCD", Room::None),
        ] {
            assert_eq!(room_for(subject, places), expected, "{subject} among {places}");
        }
    }
}
