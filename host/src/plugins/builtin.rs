//! The components that are part of Ultra, built from `plugins/` by the build script.

/// A component that is part of Ultra.
pub(super) struct Builtin {
    /// Its id, as in its manifest.
    pub(super) id: &'static str,
    /// Its bytes.
    pub(super) component: &'static [u8],
}

/// Those of equal priority meet requests in this order.
pub(super) const BUILTINS: [Builtin; 4] = [
    Builtin { id: "trace", component: include_bytes!(concat!(env!("OUT_DIR"), "/trace.wasm")) },
    Builtin { id: "logging", component: include_bytes!(concat!(env!("OUT_DIR"), "/logging.wasm")) },
    Builtin { id: "audit", component: include_bytes!(concat!(env!("OUT_DIR"), "/audit.wasm")) },
    Builtin { id: "metrics", component: include_bytes!(concat!(env!("OUT_DIR"), "/metrics.wasm")) },
];
