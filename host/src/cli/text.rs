//! Texts for people: times, durations, sizes, and nothing that a terminal would obey.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::duration;

/// A moment as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// In nanoseconds since 1970 UTC.
    At(i64),
}

impl Moment {
    /// Reads `10m`, `2026-11-20` or `2026-11-20T10:00:00Z`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(ago) = duration::parse(text) {
            return Ok(Self::Ago(ago));
        }
        let midnight = format!("{text}T00:00:00Z");
        let timestamp = text.parse::<Timestamp>().or_else(|_| midnight.parse::<Timestamp>());
        let unix_ns = timestamp.ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        unix_ns
            .map(Self::At)
            .ok_or_else(|| "expected `10m`, `2026-11-20` or `2026-11-20T10:00:00Z`".into())
    }

    /// Returns it in nanoseconds since 1970 UTC.
    pub(super) fn unix_ns(self, now: Timestamp) -> i64 {
        match self {
            Self::At(unix_ns) => unix_ns,
            Self::Ago(ago) => {
                let now = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
                now.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Returns a time of the store, in RFC 3339 with nanoseconds, to the second.
pub(super) fn seconds(timestamp: &str) -> String {
    match timestamp.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => timestamp.to_owned(),
    }
}

/// Returns a time in RFC 3339, UTC, to the second.
pub(super) fn rfc3339(unix_ns: i64) -> String {
    Timestamp::from_nanosecond(unix_ns.into())
        .map_or_else(|_| "?".into(), |at| seconds(&at.to_string()))
}

/// Returns how long ago something was, such as `3 min ago`.
pub(super) fn ago(unix_ns: i64, now: Timestamp) -> String {
    let seconds = now.as_nanosecond().saturating_sub(unix_ns.into()) / 1_000_000_000;
    match seconds {
        ..=0 => "just now".into(),
        1..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Returns a duration in three digits, such as `4.56 ms`.
pub(super) fn took(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s.is_nan() || s < 0.0 => return "?".into(),
        0.0 => return "0 s".into(),
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s if s < 120.0 => (s, "s"),
        s => (s / 60.0, "min"),
    };
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Returns a size, such as `1.2 KiB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        ..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Returns a text without what a terminal would obey: control characters and changes of direction.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { '\u{fffd}' } else { c }).collect()
}

/// As [`clean`], on several lines.
pub(super) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ago_or_at() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let at = |text: &str| rfc3339(Moment::parse(text).unwrap().unix_ns(now));

        assert_eq!(at("10m"), "2026-11-20T09:50:00Z");
        assert_eq!(at("1d"), "2026-11-19T10:00:00Z");
        assert_eq!(at("2026-11-20"), "2026-11-20T00:00:00Z");
        assert_eq!(at("2026-11-20T10:00:00.5+02:00"), "2026-11-20T08:00:00Z");
        for wrong in ["", "yesterday", "10", "2026-13-01", "9999999-01-01"] {
            assert!(Moment::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.000_000_85, "850 ns"),
            (0.000_012_345, "12.3 µs"),
            (0.004_56, "4.56 ms"),
            (0.9, "900 ms"),
            (61.0, "61.0 s"),
            (600.0, "10.0 min"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(took(seconds), expected);
        }
    }

    #[test]
    fn nothing_a_terminal_would_obey_is_left() {
        assert_eq!(
            clean("a\u{1b}[2Jb\r\n\u{202e}c\u{9b}d é"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\u{fffd}d é"
        );
        assert_eq!(clean_lines("a\r\nb\u{7}"), "a\nb\u{fffd}");
    }

    #[test]
    fn ages_are_rounded_down() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| ago((1_000_000 - seconds) * 1_000_000_000, now);

        assert_eq!(
            [ago(-5), ago(0), ago(90), ago(200), ago(7_300), ago(200_000)],
            ["just now", "just now", "90 s ago", "3 min ago", "2 h ago", "2 days ago"]
        );
    }
}
