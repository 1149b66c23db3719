//! The gateway between AI clients and MCP servers.

/// Validated settings, and where they come from.
pub mod config;
/// The stages a call passes.
pub mod pipeline;
/// Export of spans and metrics over OTLP.
pub mod telemetry;
/// The servers behind the gateway.
pub mod upstream;
