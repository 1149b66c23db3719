//! A set of numbers of records, kept as the runs it is made of. Knows nothing of streams.

use ultra_hub::wire::Span;

/// Runs that rise, and are apart from each other by at least one number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<Span>);

impl Spans {
    /// Returns how many runs there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the highest number.
    pub(super) fn last(&self) -> Option<i64> {
        self.0.last().map(|span| span.1)
    }

    /// Returns whether a number is in the set.
    pub(super) fn contains(&self, number: i64) -> bool {
        let at = self.0.partition_point(|span| span.1 < number);
        self.0.get(at).is_some_and(|span| span.0 <= number)
    }

    /// Returns whether all numbers of another set are in this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|span| self.missing(*span).next().is_none())
    }

    /// Adds the numbers from the first to the second. A run that ends before it begins has none.
    pub(super) fn add(&mut self, (first, last): Span) {
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
    pub(super) fn missing(&self, within: Span) -> impl Iterator<Item = Span> {
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
    use super::*;

    fn spans(spans: &[Span]) -> Spans {
        spans.iter().copied().collect()
    }

    #[test]
    fn runs_that_touch_become_one_whatever_the_order() {
        let cases: [(&[Span], &[Span]); 7] = [
            (&[(1, 5), (6, 7)], &[(1, 7)]),
            (&[(6, 7), (1, 5)], &[(1, 7)]),
            (&[(1, 5), (7, 9), (6, 6)], &[(1, 9)]),
            (&[(1, 5), (7, 9)], &[(1, 5), (7, 9)]),
            (&[(1, 2), (5, 6), (9, 10), (20, 30), (4, 15)], &[(1, 2), (4, 15), (20, 30)]),
            (&[(1, 10), (3, 4)], &[(1, 10)]),
            (&[(9, 8)], &[]),
        ];

        for (added, expected) in cases {
            assert_eq!(spans(added).0, expected, "{added:?}");
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
            ((20, 21), &[(21, 21)]),
            ((30, 40), &[(30, 40)]),
            ((5, 4), &[]),
            ((i64::MAX, i64::MAX), &[(i64::MAX, i64::MAX)]),
        ];

        for (within, expected) in cases {
            assert_eq!(set.missing(within).collect::<Vec<_>>(), expected, "{within:?}");
        }
        let greatest = spans(&[(7, i64::MAX)]);
        assert_eq!(greatest.missing((6, i64::MAX)).collect::<Vec<_>>(), [(6, 6)]);
    }

    #[test]
    fn a_set_knows_its_numbers() {
        let set = spans(&[(3, 5), (9, 9)]);

        let found: Vec<_> = (1..12).filter(|number| set.contains(*number)).collect();
        assert_eq!((found, set.last(), set.len()), (vec![3, 4, 5, 9], Some(9), 2));
        assert!(set.covers(&spans(&[(4, 5), (9, 9)])) && set.covers(&Spans::default()));
        assert!(!set.covers(&spans(&[(4, 6)])));
    }
}
