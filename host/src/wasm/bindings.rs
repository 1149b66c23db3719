//! What the WIT package says, in Rust. Nothing else.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../wit/since-v0.1.0",
    world: "plugin",
    imports: { default: trappable },
    with: { "ultra:plugin/types.exchange": super::imports::Lent },
});

pub use self::ultra::plugin::*;
pub use exports::ultra::plugin::interceptor::Verdict;
pub use exports::ultra::plugin::lifecycle::Phases;
