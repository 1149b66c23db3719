//! All integration tests in one binary, by area.

mod differential;
mod fake;
mod interceptors;
mod plugins;
mod protocol;
mod real_servers;
mod reliability;
