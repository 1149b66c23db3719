//! Where on a line a time is. Idle time may be shortened: an agent thinks for minutes between calls that
//! take milliseconds, which at true scale nobody would see.

use super::super::figures::Took;

/// Idle time takes at most as much room as calls do, shared among the gaps; no more of each.
const IDLE_SHARE: i64 = 1;

/// The narrowest bar, in percent.
const WIDTH_MIN: f64 = 0.4;

/// Ticks of an axis, its ends among them.
const TICKS: i64 = 5;

/// Gaps that are marked. More are no help to the eye.
const BREAKS_MAX: usize = 12;

/// A time line.
#[derive(Debug)]
pub(super) struct Axis {
    begun_ns: i64,
    ended_ns: i64,
    busy_ns: i64,
    /// Idle times: when each begins and ends, and how much of it is shown.
    gaps: Vec<Gap>,
    shown_ns: i64,
}

#[derive(Debug)]
struct Gap {
    from_ns: i64,
    until_ns: i64,
    shown_ns: i64,
}

/// A mark on the axis.
#[derive(Debug)]
pub(super) struct Tick {
    /// In percent.
    pub(super) at: String,
    /// Where the label is anchored.
    pub(super) anchor: &'static str,
    pub(super) label: String,
}

impl Axis {
    /// Returns the axis of calls, each with its start and duration, ordered by start.
    pub(super) fn new(calls: &[(i64, i64)], shorten: bool) -> Self {
        let begun_ns = calls.first().map_or(0, |(start, _)| *start);
        let mut gaps = Vec::new();
        let mut ended_ns = begun_ns;
        for (start, duration) in calls {
            if *start > ended_ns {
                gaps.push(Gap {
                    from_ns: ended_ns,
                    until_ns: *start,
                    shown_ns: start.saturating_sub(ended_ns),
                });
            }
            ended_ns = ended_ns.max(start.saturating_add((*duration).max(0)));
        }
        let idle_ns = shown(&gaps);
        let busy_ns = ended_ns.saturating_sub(begun_ns).saturating_sub(idle_ns).max(0);
        if shorten && !gaps.is_empty() {
            let each_ns = (busy_ns.saturating_mul(IDLE_SHARE) / gaps.len() as i64).max(1);
            for gap in &mut gaps {
                gap.shown_ns = gap.shown_ns.min(each_ns);
            }
        }
        let shown_ns = busy_ns.saturating_add(shown(&gaps));
        Self { begun_ns, ended_ns, busy_ns, gaps, shown_ns: shown_ns.max(1) }
    }

    pub(super) fn begun_ns(&self) -> i64 {
        self.begun_ns
    }

    /// From the first start to the last end.
    pub(super) fn lasted_ns(&self) -> i64 {
        self.ended_ns.saturating_sub(self.begun_ns)
    }

    /// In which at least one call was under way.
    pub(super) fn busy_ns(&self) -> i64 {
        self.busy_ns
    }

    pub(super) fn is_shortened(&self) -> bool {
        self.gaps.iter().any(Gap::is_shortened)
    }

    /// Returns where a call begins and how wide it is, in percent.
    pub(super) fn place(&self, start_ns: i64, duration_ns: i64) -> (String, String) {
        let from = self.percent(start_ns);
        let until = self.percent(start_ns.saturating_add(duration_ns.max(0)));
        let width = (until - from).max(WIDTH_MIN);
        // At the end, the narrowest bar still has to fit.
        (percent(from.min(100.0 - width)), percent(width))
    }

    /// Returns where idle time was left out, in percent; nothing if that is in too many places.
    pub(super) fn breaks(&self) -> Vec<String> {
        let shortened: Vec<_> = self.gaps.iter().filter(|gap| gap.is_shortened()).collect();
        if shortened.len() > BREAKS_MAX {
            return Vec::new();
        }
        shortened
            .into_iter()
            .map(|gap| percent((self.percent(gap.from_ns) + self.percent(gap.until_ns)) / 2.0))
            .collect()
    }

    /// Returns marks, evenly apart, each with the time since the begin.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let tick = |number: i64| {
            let at = self.shown_ns as f64 * number as f64 / (TICKS - 1) as f64;
            Tick {
                at: percent(100.0 * number as f64 / (TICKS - 1) as f64),
                anchor: match number {
                    0 => "start",
                    number if number == TICKS - 1 => "end",
                    _ => "middle",
                },
                label: Took(self.elapsed_ns(at)).to_string(),
            }
        };
        (0..TICKS).map(tick).collect()
    }

    fn percent(&self, at_ns: i64) -> f64 {
        let mut shown = at_ns.saturating_sub(self.begun_ns);
        for gap in self.gaps.iter().take_while(|gap| gap.from_ns < at_ns) {
            let passed = at_ns.min(gap.until_ns).saturating_sub(gap.from_ns);
            let kept = (passed as f64 / gap.whole_ns() as f64 * gap.shown_ns as f64) as i64;
            shown = shown.saturating_sub(passed.saturating_sub(kept));
        }
        (shown as f64 * 100.0 / self.shown_ns as f64).clamp(0.0, 100.0)
    }

    /// The other way round: the time since the begin that is shown at a place.
    fn elapsed_ns(&self, shown_ns: f64) -> i64 {
        let mut left_out = 0_i64;
        for gap in &self.gaps {
            let from = gap.from_ns.saturating_sub(self.begun_ns).saturating_sub(left_out) as f64;
            if shown_ns <= from {
                break;
            }
            let part = ((shown_ns - from) / gap.shown_ns.max(1) as f64).min(1.0);
            let hidden = gap.whole_ns().saturating_sub(gap.shown_ns) as f64 * part;
            left_out = left_out.saturating_add(hidden as i64);
            if part < 1.0 {
                break;
            }
        }
        (shown_ns as i64).saturating_add(left_out)
    }
}

impl Gap {
    fn whole_ns(&self) -> i64 {
        self.until_ns.saturating_sub(self.from_ns)
    }

    fn is_shortened(&self) -> bool {
        self.shown_ns < self.whole_ns()
    }
}

fn shown(gaps: &[Gap]) -> i64 {
    gaps.iter().fold(0, |sum, gap| sum.saturating_add(gap.shown_ns))
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn places(calls: &[(i64, i64)], shorten: bool) -> Vec<(String, String)> {
        let axis = Axis::new(calls, shorten);
        calls.iter().map(|(start, duration)| axis.place(*start, *duration)).collect()
    }

    fn pairs<'a>(of: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
        of.iter().map(|(start, width)| ((*start).to_owned(), (*width).to_owned())).collect()
    }

    #[test]
    fn calls_that_run_at_the_same_time_are_beside_each_other() {
        let calls = [(100 * MS, 100 * MS), (150 * MS, 100 * MS), (150 * MS, 50 * MS)];

        let expected = [("0.00%", "66.67%"), ("33.33%", "66.67%"), ("33.33%", "33.33%")];
        assert_eq!(places(&calls, true), pairs(&expected));
    }

    #[test]
    fn idle_time_takes_no_more_room_than_calls() {
        let minute = 60_000 * MS;
        let calls = [(0, 100 * MS), (minute, 100 * MS)];

        assert_eq!(places(&calls, true), pairs(&[("0.00%", "25.00%"), ("75.00%", "25.00%")]));
        assert_eq!(places(&calls, false), pairs(&[("0.00%", "0.40%"), ("99.60%", "0.40%")]));
        let axis = Axis::new(&calls, true);
        assert_eq!((axis.busy_ns(), axis.lasted_ns()), (200 * MS, minute + 100 * MS));
        assert_eq!(axis.breaks(), ["50.00%"]);
    }

    #[test]
    fn ticks_say_the_time_of_what_is_below_them() {
        let calls = [(0, 100 * MS), (60_000 * MS, 100 * MS)];

        let labels = |shorten| -> Vec<_> {
            Axis::new(&calls, shorten).ticks().into_iter().map(|tick| tick.label).collect()
        };
        assert_eq!(labels(true), ["0 s", "100 ms", "30.1 s", "1 min 00 s", "1 min 00 s"]);
        assert_eq!(labels(false), ["0 s", "15.0 s", "30.1 s", "45.1 s", "1 min 00 s"]);
    }

    #[test]
    fn clocks_that_are_centuries_apart_can_be_drawn() {
        let calls = [(i64::MIN, 5), (i64::MAX - 10, i64::MAX)];

        for shorten in [true, false] {
            let axis = Axis::new(&calls, shorten);

            assert_eq!(axis.lasted_ns(), i64::MAX);
            assert_eq!((axis.ticks().len(), places(&calls, shorten).len()), (5, 2));
            assert!(axis.breaks().len() <= 1);
        }
    }

    #[test]
    fn a_session_without_duration_can_be_drawn() {
        assert_eq!(places(&[(5, 0)], true), pairs(&[("0.00%", "0.40%")]));
        assert_eq!(Axis::new(&[], true).ticks().len(), 5);
    }
}
