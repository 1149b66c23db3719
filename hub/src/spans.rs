//! A set of numbers, kept as the runs it is made of. Knows nothing of streams or databases.

use crate::wire::Span;

/// Numbers of a stream: runs that rise, and are apart from each other by at least one number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// Reads what [`Self::to_json`] wrote; nothing, if it is something else.
    pub fn parse(json: &str) -> Option<Self> {
        serde_json::from_str::<Vec<Span>>(json).ok().map(Self::from_iter)
    }

    /// Writes the set as `[[1, 5000], [9001, 9400]]`.
    pub fn to_json(&self) -> String {
        let mut json = String::from("[");
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            json.push_str(&format!("{comma}[{first},{last}]"));
        }
        json.push(']');
        json
    }

    /// Returns how many runs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the highest number.
    pub fn last(&self) -> Option<i64> {
        self.0.last().map(|span| span.1)
    }

    /// Returns whether a number is in the set.
    pub fn contains(&self, number: i64) -> bool {
        let at = self.0.partition_point(|span| span.1 < number);
        self.0.get(at).is_some_and(|span| span.0 <= number)
    }

    /// Returns whether all numbers of another set are in this one.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|span| self.missing(*span).next().is_none())
    }

    /// Adds the numbers from the first to the second. A run that ends before it begins has none.
    pub fn add(&mut self, (first, last): Span) {
        if first > last {
            return;
        }
        // Those that touch the new one become one with it.
        let from = self.0.partition_point(|span| span.1 < first.saturating_sub(1));
        let to = self.0.partition_point(|span| span.0 <= last.saturating_add(1));
        let touched = &self.0[from..to];
        let first = touched.first().map_or(first, |span| span.0.min(first));
        let last = touched.last().map_or(last, |span| span.1.max(last));
        self.0.splice(from..to, [(first, last)]);
    }

    /// Returns the runs of `within` that are not in the set, by rising number.
    pub fn missing(&self, within: Span) -> impl Iterator<Item = Span> {
        let (first, last) = within;
        let from = self.0.partition_point(|span| span.1 < first);
        let mut spans = self.0[from..].iter();
        // Nothing comes after the greatest number.
        let mut next = Some(first);
        std::iter::from_fn(move || {
            while let Some(first) = next.filter(|first| *first <= last) {
                let Some(span) = spans.next().filter(|span| span.0 <= last) else {
                    next = None;
                    return Some((first, last));
                };
                next = span.1.checked_add(1);
                if first < span.0 {
                    return Some((first, span.0 - 1));
                }
            }
            None
        })
    }

    /// Returns what is missing from 1 to the highest number.
    pub fn gaps(&self) -> Vec<Span> {
        self.last().map_or_else(Vec::new, |last| self.missing((1, last)).collect())
    }

    /// Returns the runs.
    pub fn into_vec(self) -> Vec<Span> {
        self.0
    }

    /// Returns the runs.
    pub fn as_slice(&self) -> &[Span] {
        &self.0
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut set = Self::default();
        for span in spans {
            set.add(span);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn spans(spans: &[Span]) -> Spans {
        Spans::from_iter(spans.iter().copied())
    }

    #[test]
    fn runs_that_touch_become_one() {
        let cases: [(&[Span], Span, &[Span]); 9] = [
            (&[], (1, 5), &[(1, 5)]),
            (&[(1, 5)], (6, 7), &[(1, 7)]),
            (&[(6, 7)], (1, 5), &[(1, 7)]),
            (&[(1, 5)], (7, 9), &[(1, 5), (7, 9)]),
            (&[(1, 5), (7, 9)], (6, 6), &[(1, 9)]),
            (&[(1, 2), (5, 6), (9, 10), (20, 30)], (4, 15), &[(1, 2), (4, 15), (20, 30)]),
            (&[(1, 10)], (3, 4), &[(1, 10)]),
            (&[(3, 4)], (1, 10), &[(1, 10)]),
            (&[(3, 4)], (9, 8), &[(3, 4)]),
        ];

        for (before, added, after) in cases {
            let mut set = spans(before);
            set.add(added);
            assert_eq!(set.as_slice(), after, "{before:?} + {added:?}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let set = spans(&[(3, 5), (9, 9), (12, 20)]);
        let cases: [(Span, &[Span]); 8] = [
            ((1, 25), &[(1, 2), (6, 8), (10, 11), (21, 25)]),
            ((3, 5), &[]),
            ((4, 9), &[(6, 8)]),
            ((6, 8), &[(6, 8)]),
            ((13, 14), &[]),
            ((20, 21), &[(21, 21)]),
            ((30, 40), &[(30, 40)]),
            ((5, 4), &[]),
        ];

        for (within, missing) in cases {
            assert_eq!(set.missing(within).collect::<Vec<_>>(), missing, "{within:?}");
        }
        assert_eq!(set.gaps(), [(1, 2), (6, 8), (10, 11)]);
        assert_eq!(Spans::default().gaps(), []);
    }

    #[test]
    fn the_greatest_numbers_are_numbers_too() {
        let mut set = spans(&[(i64::MAX, i64::MAX)]);
        set.add((i64::MAX - 1, i64::MAX - 1));
        set.add((i64::MIN, i64::MIN));

        assert_eq!(set.as_slice(), [(i64::MIN, i64::MIN), (i64::MAX - 1, i64::MAX)]);
        let missing: Vec<_> = set.missing((i64::MAX - 2, i64::MAX)).collect();
        assert_eq!(missing, [(i64::MAX - 2, i64::MAX - 2)]);
        assert_eq!(set.missing((i64::MAX, i64::MAX)).next(), None);
    }

    #[test]
    fn a_set_knows_its_numbers() {
        let set = spans(&[(3, 5), (9, 9)]);

        let found: Vec<_> = (1..12).filter(|number| set.contains(*number)).collect();
        assert_eq!((found, set.last(), set.len()), (vec![3, 4, 5, 9], Some(9), 2));
        assert!(set.covers(&spans(&[(4, 5), (9, 9)])) && set.covers(&Spans::default()));
        assert!(!set.covers(&spans(&[(4, 6)])));
    }

    #[test]
    fn a_set_is_read_as_it_was_written() {
        for set in [spans(&[]), spans(&[(1, 1)]), spans(&[(1, 5000), (9001, 9400)])] {
            assert_eq!(Spans::parse(&set.to_json()), Some(set));
        }
        assert_eq!(spans(&[(1, 2), (4, 4)]).to_json(), "[[1,2],[4,4]]");
        assert_eq!(Spans::parse("[[5,9],[1,4],[3,2]]"), Some(spans(&[(1, 9)])));
        assert_eq!(Spans::parse("{}"), None);
    }

    /// Against a set that keeps each number.
    #[test]
    fn any_order_of_runs_makes_the_same_set() {
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..200 {
            let mut set = Spans::default();
            let mut numbers = BTreeSet::new();
            for _ in 0..random.random_range(1..40) {
                let first = random.random_range(1..120);
                let last = first + random.random_range(0..12);
                let missing: i64 = set.missing((first, last)).map(|s| s.1 - s.0 + 1).sum();
                let new = (first..=last).filter(|number| numbers.insert(*number)).count();
                assert_eq!(missing, new as i64);
                set.add((first, last));
            }
            let expanded: Vec<i64> = set.as_slice().iter().flat_map(|s| s.0..=s.1).collect();
            assert_eq!(expanded, Vec::from_iter(numbers.iter().copied()));
            let has = |number| {
                set.as_slice().iter().any(|(first, last)| (*first..=*last).contains(&number))
            };
            assert!((1..140).all(|number| has(number) == numbers.contains(&number)));
            let apart = set.as_slice().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
            assert!(apart, "{set:?}");
        }
    }
}
