//! Ultra, the gateway between AI clients and MCP servers. In the order a call meets them:

pub mod aggregator;
pub mod audit;
pub mod auth;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod downstream;
pub mod gateway;
mod hub;
pub mod log;
pub mod mcp;
pub mod pipeline;
pub mod plugins;
pub mod rush;
pub mod telemetry;
mod tls;
pub mod upstream;
pub mod wasm;
pub mod wire;

/// Returns an error and its causes, joined with `: `.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Locks what is whole between any two statements, so that a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Returns nanoseconds since 1970 UTC.
fn unix_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
