//! Builds the four interceptors that are part of Ultra, for `src/plugins/` to embed.

#![expect(clippy::disallowed_methods, reason = "a build script is told by its environment")]
#[path = "build/components.rs"]
mod components;

use std::error::Error;
use std::path::Path;

use components::Plugin;

fn main() {
    components::report(build());
}

fn build() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/components.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the package is not in its repository")?;
    components::build(
        &root.join("plugins"),
        root,
        &[
            Plugin { directory: "trace", package: "ultra-plugin-trace", output: "trace" },
            Plugin { directory: "logging", package: "ultra-plugin-logging", output: "logging" },
            Plugin { directory: "audit", package: "ultra-plugin-audit", output: "audit" },
            Plugin { directory: "metrics", package: "ultra-plugin-metrics", output: "metrics" },
        ],
    )
}
