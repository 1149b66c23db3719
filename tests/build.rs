//! Builds the components that only tests load: the hostile one, the witness, and the example for authors.

#[path = "../host/build/components.rs"]
mod components;

use std::error::Error;
use std::path::Path;

use components::Plugin;

fn main() {
    components::report(build());
}

fn build() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../host/build/components.rs");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().ok_or("the package is not in its repository")?;
    let hostile = Plugin { directory: "hostile", package: "hostile", output: "hostile" };
    let witness = Plugin { directory: "witness", package: "witness", output: "witness" };
    components::build(&tests.join("components"), root, &[hostile, witness])?;
    let redact = Plugin { directory: "examples/redact", package: "redact", output: "redact" };
    components::build(&root.join("plugins"), root, &[redact])
}
