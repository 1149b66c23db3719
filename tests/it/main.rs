//! All integration tests in one binary, by area.

mod fake;
mod interceptors;
