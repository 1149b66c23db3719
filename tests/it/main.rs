//! All integration tests in one binary, by area.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

mod auth;
mod conformance;
mod cross_talk;
mod differential;
mod fake;
mod header_mismatch;
mod http;
mod hub;
mod hub_browser;
mod hub_commands;
mod hub_link;
mod hub_operations;
mod inbound;
mod interceptors;
mod live_config;
mod plugins;
mod protocol;
mod real_servers;
mod reliability;
mod replicas;
mod sdk_clients;
mod sees;
mod shared;
