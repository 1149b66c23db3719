//! Times, durations, sizes and counts, as people read them.

use std::fmt;

use askama::Template;
use askama::filters::HtmlSafe;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A time: how long ago, or from two days on the day; and, when one points at it, when exactly.
#[derive(Debug, Clone, Template)]
#[template(
    source = r#"<time datetime="{{ iso }}" title="{{ utc }}" data-ago>{{ ago }}</time>"#,
    ext = "html"
)]
pub(crate) struct When {
    iso: String,
    utc: String,
    ago: String,
}

/// Its template escapes, and has digits only.
impl HtmlSafe for When {}

impl When {
    /// A time in nanoseconds since 1970 UTC.
    pub(crate) fn from_ns(at_ns: i64, now_ms: i64) -> Self {
        let time = Timestamp::from_nanosecond(at_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        let utc = time.to_zoned(TimeZone::UTC);
        Self {
            iso: format!("{time:.3}"),
            utc: utc.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string(),
            ago: ago(utc.date(), now_ms.saturating_sub(at_ns / 1_000_000)),
        }
    }

    /// A time in milliseconds since 1970 UTC.
    pub(crate) fn from_ms(at_ms: i64, now_ms: i64) -> Self {
        Self::from_ns(at_ms.saturating_mul(1_000_000), now_ms)
    }

    /// When, in UTC.
    pub(crate) fn utc(&self) -> &str {
        &self.utc
    }
}

/// Returns how long ago something was, or on which day. The script says the same words.
fn ago(day: Date, ms: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    match ms / 1000 {
        // Clocks of other machines.
        s if s < -5 => "in the future".to_owned(),
        s if s < 5 => "now".to_owned(),
        s if s < MINUTE => format!("{s} s ago"),
        s if s < HOUR => format!("{} min ago", s / MINUTE),
        s if s < 2 * DAY => format!("{} h ago", s / HOUR),
        _ => day.to_string(),
    }
}

/// A duration with three digits, such as `12.3 ms`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took(pub(crate) i64);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.max(0);
        match ns {
            0 => f.write_str("0 s"),
            1..1_000 => write!(f, "{ns} ns"),
            1_000..1_000_000 => three(f, ns as f64 / 1e3, "µs"),
            1_000_000..1_000_000_000 => three(f, ns as f64 / 1e6, "ms"),
            1_000_000_000..60_000_000_000 => three(f, ns as f64 / 1e9, "s"),
            _ => {
                let s = ns / 1_000_000_000;
                match s {
                    0..3600 => write!(f, "{} min {:02} s", s / 60, s % 60),
                    3600..172_800 => write!(f, "{} h {:02} min", s / 3600, s / 60 % 60),
                    _ => write!(f, "{} d {:02} h", s / 86_400, s / 3600 % 24),
                }
            }
        }
    }
}

/// Bytes, such as `1.25 KiB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) i64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.max(0);
        match bytes {
            0..1024 => write!(f, "{bytes} B"),
            1024..1_048_576 => three(f, bytes as f64 / 1024.0, "KiB"),
            1_048_576..1_073_741_824 => three(f, bytes as f64 / 1_048_576.0, "MiB"),
            _ => three(f, bytes as f64 / 1_073_741_824.0, "GiB"),
        }
    }
}

fn three(f: &mut fmt::Formatter<'_>, value: f64, unit: &str) -> fmt::Result {
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    write!(f, "{value:.digits$} {unit}")
}

/// A number with its thousands apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count(pub(crate) i64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.unsigned_abs().to_string();
        if self.0 < 0 {
            f.write_str("−")?;
        }
        for (place, digit) in digits.char_indices() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                // A narrow space that does not break.
                f.write_str("\u{202f}")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// How many of how many, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) of: i64,
    pub(crate) all: i64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all <= 0 {
            return f.write_str("–");
        }
        let percent = self.of as f64 * 100.0 / self.all as f64;
        // One failure of a million is not "100 %".
        let percent = if self.of < self.all { percent.min(99.9) } else { percent };
        let digits = usize::from(percent.fract() != 0.0);
        write!(f, "{percent:.digits$} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let cases = [
            (-1, "0 s"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (12_345_678, "12.3 ms"),
            (999_600_000, "1000 ms"),
            (1_500_000_000, "1.50 s"),
            (61_000_000_000, "1 min 01 s"),
            (7_260_000_000_000, "2 h 01 min"),
            (1_000_000_000_000_000, "11 d 13 h"),
        ];

        for (ns, expected) in cases {
            assert_eq!(Took(ns).to_string(), expected);
        }
    }

    #[test]
    fn sizes_counts_and_shares_are_readable() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1_310_720).to_string(), "1.25 MiB");
        assert_eq!(Count(1_234_567).to_string(), "1\u{202f}234\u{202f}567");
        assert_eq!(Count(12).to_string(), "12");
        assert_eq!(Share { of: 999_999, all: 1_000_000 }.to_string(), "99.9 %");
        assert_eq!(Share { of: 2, all: 2 }.to_string(), "100 %");
        assert_eq!(Share { of: 0, all: 0 }.to_string(), "–");
    }

    #[test]
    fn a_time_is_said_in_words_and_digits() {
        let now_ms = 1_785_000_000_000;

        let html = When::from_ms(now_ms - 90_000, now_ms).to_string();

        assert_eq!(
            html,
            "<time datetime=\"2026-07-25T17:18:30.000Z\" title=\"2026-07-25 17:18:30.000 UTC\" \
             data-ago>1 min ago</time>"
        );
        let cases = [
            (0, "now"),
            (-60_000, "in the future"),
            (7_200_000, "2 h ago"),
            (172_799_000, "47 h ago"),
            (172_800_000, "2026-07-23"),
        ];
        for (ms, expected) in cases {
            let html = When::from_ms(now_ms - ms, now_ms).to_string();
            assert!(html.contains(&format!(">{expected}</time>")), "{html}");
        }
    }
}
