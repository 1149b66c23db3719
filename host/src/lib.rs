//! The gateway between AI clients and MCP servers.

pub mod config;
pub mod mcp;
pub mod pipeline;
pub mod plugins;
pub mod upstream;
pub mod wasm;
