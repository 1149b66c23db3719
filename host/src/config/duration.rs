//! Durations as a person writes them: `60s`, `5m`, `1h30m`, `30d`.

use std::time::Duration;

/// Units of Go's `time.ParseDuration`, and days, which retention is thought in. The longer of two
/// with a common beginning comes first.
const UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// Ten years: longer than anything configured in time, and far from every overflow.
const MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Returns the duration a text such as `1h30m` names, or nothing if it names none.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        total = total.checked_add(scale(number, *nanos)?)?;
        rest = &after[unit.len()..];
    }
    let total = Duration::from_nanos(u64::try_from(total).ok()?);
    (!text.is_empty() && total <= MAX).then_some(total)
}

/// Multiplies a decimal such as `1.5` by a number of nanoseconds.
fn scale(number: &str, nanos: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let fraction_value = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let part = u128::from(fraction_value) * nanos / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    u128::from(whole).checked_mul(nanos)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_and_days_are_read() {
        for (text, seconds) in [
            ("60s", 60.0),
            ("5m", 300.0),
            ("1h30m", 5_400.0),
            ("1.5h", 5_400.0),
            (".5s", 0.5),
            ("250ms", 0.25),
            ("30d", 2_592_000.0),
            ("2w", 1_209_600.0),
            ("0", 0.0),
            ("0s", 0.0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "60",
            "s",
            "-5s",
            "5 m",
            "1h30",
            "1.2.3s",
            ".s",
            "5x",
            "99999999999999999999s",
            "1000000d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
