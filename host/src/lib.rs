//! The gateway between AI clients and MCP servers.

pub mod config;
pub mod pipeline;
pub mod upstream;
