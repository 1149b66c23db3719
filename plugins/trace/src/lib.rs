//! The trace interceptor: makes the call a span of the caller's trace, and records it.
//!
//! What a record says is the gateway's business; this says when there is one and whose child it is.

use ultra_plugin::{Call, Flow, Interceptor, plugin, trace};

/// The interceptor.
pub struct Trace;

impl Interceptor for Trace {
    fn start(_settings: &str) -> Result<Self, String> {
        Ok(Self)
    }

    fn before(&self, call: &Call<'_>) -> Flow {
        if let Some(parent) = call.traceparent().as_deref().and_then(Parent::parse) {
            trace::parent(
                parent.trace_id_high,
                parent.trace_id_low,
                parent.span_id,
                parent.sampled,
            );
        }
        Flow::Next
    }

    fn after(&self, _call: &Call<'_>) -> Flow {
        trace::record_call(&[]);
        Flow::Next
    }
}

/// A remote span, from a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent {
    trace_id_high: u64,
    trace_id_low: u64,
    span_id: u64,
    sampled: bool,
}

impl Parent {
    /// Reads a `traceparent` (W3C Trace Context, §3.2).
    ///
    /// What is invalid is none: the specification has a receiver start a new trace then.
    fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version = hex(bytes.get(0..2)?)?;
        let known_length = bytes.len() == 55;
        // A later version may append fields, never change the first four (§3.2.4).
        let longer = version > 0 && bytes.get(55) == Some(&b'-');
        if version == 0xff || !(known_length || longer) {
            return None;
        }
        if [2, 35, 52].iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let parent = Self {
            trace_id_high: hex(&bytes[3..19])?,
            trace_id_low: hex(&bytes[19..35])?,
            span_id: hex(&bytes[36..52])?,
            sampled: hex(&bytes[53..55])? & 1 == 1,
        };
        let zero = (parent.trace_id_high | parent.trace_id_low) == 0 || parent.span_id == 0;
        (!zero).then_some(parent)
    }
}

/// Reads up to 16 lower-case hex digits; upper case is invalid here.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

plugin!(Trace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_read() {
        let parent = Parent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

        let expected = Parent {
            trace_id_high: 0x0af7_6519_16cd_43dd,
            trace_id_low: 0x8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        assert_eq!(parent, Some(expected));
    }

    #[test]
    fn flags_beyond_sampled_are_ignored() {
        let unsampled = Parent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02");

        assert!(!unsampled.unwrap().sampled);
    }

    #[test]
    fn a_later_version_may_be_longer() {
        let base = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

        assert!(Parent::parse(base).is_some());
        assert!(Parent::parse(&format!("{base}-what-is-this")).is_some());
        assert!(Parent::parse(&format!("{base}.what")).is_none());
    }

    #[test]
    fn invalid_ones_are_none() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\u{e9}-01",
        ] {
            assert_eq!(Parent::parse(text), None, "{text}");
        }
    }
}
