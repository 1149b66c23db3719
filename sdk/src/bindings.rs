//! What the WIT package says, in Rust. Nothing else.

#![allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated")]

wit_bindgen::generate!({
    path: "../wit/since-v0.1.0",
    world: "plugin",
    ownership: Borrowing { duplicate_if_necessary: false },
    pub_export_macro: true,
    export_macro_name: "export_plugin",
    default_bindings_module: "ultra_plugin::bindings",
});
