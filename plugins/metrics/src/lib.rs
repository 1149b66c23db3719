//! The metrics interceptor: counts calls and errors, and measures how long calls take.
//!
//! The gateway adds operation, upstream and name to each figure.

use ultra_plugin::metrics::{self, Instrument};
use ultra_plugin::{Call, Flow, Interceptor, Phases, Settings, plugin};

/// Seconds. Those of the OpenTelemetry MCP conventions from 10 ms on; below, what local servers need.
const DURATION_BOUNDS: [f64; 21] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// Bytes, by powers of four.
const BYTES_BOUNDS: [f64; 10] = [
    256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0,
];

/// The interceptor and its instruments.
#[derive(Debug)]
pub struct Metrics {
    calls: Instrument,
    errors: Instrument,
    duration: Instrument,
    bytes: Option<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    request: Instrument,
    response: Instrument,
}

impl Interceptor for Metrics {
    fn start(settings: &str) -> Result<Self, String> {
        let payload_bytes = Settings::parse(settings)?.flag("payload_bytes")?;
        Ok(Self {
            calls: metrics::counter("mcp.calls", "{call}"),
            errors: metrics::counter("mcp.errors", "{call}"),
            duration: metrics::histogram("mcp.call.duration", "s", &DURATION_BOUNDS),
            bytes: payload_bytes.then(|| Bytes {
                request: metrics::histogram("mcp.request.bytes", "By", &BYTES_BOUNDS),
                response: metrics::histogram("mcp.response.bytes", "By", &BYTES_BOUNDS),
            }),
        })
    }

    fn phases(&self) -> Phases {
        // Only sizes of requests are not known in the other phase.
        if self.bytes.is_some() { Phases::all() } else { Phases::RESPONSE }
    }

    fn before(&self, call: &Call<'_>) -> Flow {
        if let Some(bytes) = &self.bytes {
            metrics::sample(bytes.request, call.payload_bytes() as f64);
        }
        Flow::Next
    }

    fn after(&self, call: &Call<'_>) -> Flow {
        metrics::add(self.calls, 1);
        metrics::sample(self.duration, call.elapsed().as_secs_f64());
        if call.failed() || call.tool_error() {
            metrics::add(self.errors, 1);
        }
        if let Some(bytes) = &self.bytes {
            metrics::sample(bytes.response, call.payload_bytes() as f64);
        }
        Flow::Next
    }
}

plugin!(Metrics);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise() {
        assert!(DURATION_BOUNDS.is_sorted_by(|a, b| a < b));
        assert!(BYTES_BOUNDS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_wrong_setting_is_refused() {
        let refusal = Metrics::start(r#"{"payload_bytes":"yes"}"#).unwrap_err();

        assert_eq!(refusal, "setting `payload_bytes` is neither true nor false");
    }
}
