//! What is in a component, read from its bytes without compiling or running anything.

use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;

use super::manifest::{API, Version};
use crate::wasm::{COMPONENT_BYTES_MAX, Capability};

/// The custom section that holds a plugin's manifest.
const MANIFEST_SECTION: &str = "ultra:manifest";

/// The package of the plugin API, as it begins the names of its interfaces.
const PACKAGE: &str = "ultra:plugin/";

/// Interfaces of the plugin API that need no grant.
const FREE: [&str; 2] = ["types", "fault"];

/// What a component must export.
const EXPORTS: [&str; 2] = ["interceptor", "lifecycle"];

/// What is in a component.
#[derive(Debug, PartialEq)]
pub(super) struct Scan<'a> {
    /// The manifest it carries.
    pub(super) manifest: Option<&'a [u8]>,
    /// The capabilities whose interfaces it imports.
    pub(super) imports: Vec<Capability>,
}

/// Why a file is not a component of ours.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ScanError {
    #[error("it has {bytes} bytes, more than {COMPONENT_BYTES_MAX}")]
    TooLarge { bytes: u64 },
    #[error("it is precompiled code; only components are taken, and compiled here")]
    Precompiled,
    #[error("it is a core module, not a component; `wasm-tools component new` makes one of it")]
    Module,
    #[error("it is not a WebAssembly component: {0}")]
    Invalid(String),
    #[error("it carries two manifests that differ")]
    TwoManifests,
    #[error("it imports `{0}`, which is not of the plugin API")]
    Import(String),
    #[error("it is made for plugin API {found} (`{name}`), and this Ultra has {API}")]
    Api { found: Version, name: String },
    #[error("it does not export `{PACKAGE}{0}`")]
    NoExport(&'static str),
}

/// Reads what is in a component.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan<'_>, ScanError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(ScanError::TooLarge { bytes: bytes.len() as u64 });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(ScanError::Precompiled);
    }
    let mut found = Found::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| invalid(&error))?;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(ScanError::Module);
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            // At any depth: compilers put it into the module, and the encoder leaves it there.
            Payload::CustomSection(section) if section.name() == MANIFEST_SECTION => {
                found.manifest(section.data())?;
            }
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    found.import(import.map_err(|error| invalid(&error))?.name.name)?;
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    found.export(export.map_err(|error| invalid(&error))?.name.name)?;
                }
            }
            _ => {}
        }
    }
    if let Some(missing) = EXPORTS.into_iter().find(|export| !found.exports.contains(export)) {
        return Err(ScanError::NoExport(missing));
    }
    Ok(Scan { manifest: found.manifest, imports: found.imports })
}

#[derive(Default)]
struct Found<'a> {
    manifest: Option<&'a [u8]>,
    imports: Vec<Capability>,
    exports: Vec<&'static str>,
}

impl<'a> Found<'a> {
    fn manifest(&mut self, data: &'a [u8]) -> Result<(), ScanError> {
        if self.manifest.is_some_and(|other| other != data) {
            return Err(ScanError::TwoManifests);
        }
        self.manifest = Some(data);
        Ok(())
    }

    fn import(&mut self, name: &str) -> Result<(), ScanError> {
        // Built for WASI, a component imports what its standard library might call. None of it is
        // there: such a call is a trap.
        if name.starts_with("wasi:") {
            return Ok(());
        }
        let interface = ours(name)?.ok_or_else(|| ScanError::Import(name.into()))?;
        if FREE.contains(&interface) {
            return Ok(());
        }
        let capability =
            Capability::of_name(interface).filter(|capability| capability.is_interface());
        self.imports.push(capability.ok_or_else(|| ScanError::Import(name.into()))?);
        Ok(())
    }

    fn export(&mut self, name: &str) -> Result<(), ScanError> {
        if let Some(interface) = ours(name)? {
            self.exports.extend(EXPORTS.into_iter().find(|export| *export == interface));
        }
        Ok(())
    }
}

/// Returns the interface that a name such as `ultra:plugin/log@0.1.0` means, unless it is not ours.
fn ours(name: &str) -> Result<Option<&str>, ScanError> {
    let Some((interface, version)) =
        name.strip_prefix(PACKAGE).and_then(|name| name.split_once('@'))
    else {
        return Ok(None);
    };
    match Version::parse(version) {
        Some(found) if found != API => Err(ScanError::Api { found, name: name.into() }),
        Some(_) => Ok(Some(interface)),
        None => Ok(None),
    }
}

fn invalid(error: &wasmparser::BinaryReaderError) -> ScanError {
    ScanError::Invalid(error.message().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::builtin::BUILTINS;

    #[test]
    fn a_builtin_imports_just_what_it_is_for() {
        for (builtin, expected) in BUILTINS.iter().zip([
            Capability::Trace,
            Capability::Log,
            Capability::Audit,
            Capability::Metrics,
        ]) {
            let scan = scan(builtin.component).unwrap();

            assert_eq!(scan.imports, [expected]);
            assert!(scan.manifest.is_some());
        }
    }

    #[test]
    fn what_is_no_component_is_refused_with_the_reason() {
        assert_eq!(scan(b"\0asm\x01\0\0\0"), Err(ScanError::Module));
        assert!(matches!(scan(b"hello"), Err(ScanError::Invalid(_))));
        assert!(matches!(scan(b""), Err(ScanError::Invalid(_))));
        assert!(matches!(scan(&BUILTINS[0].component[..1000]), Err(ScanError::Invalid(_))));
        assert_eq!(scan(b"\0asm\x0d\0\x01\0"), Err(ScanError::NoExport("interceptor")));
        assert!(matches!(scan(&vec![0; COMPONENT_BYTES_MAX + 1]), Err(ScanError::TooLarge { .. })));
        let code = Engine::default().precompile_component(BUILTINS[0].component).unwrap();
        assert_eq!(scan(&code), Err(ScanError::Precompiled));
    }

    #[test]
    fn names_say_whose_they_are_and_of_which_version() {
        assert_eq!(ours("ultra:plugin/log@0.1.0"), Ok(Some("log")));
        assert_eq!(ours("ultra:plugin/log@0.1.9"), Ok(Some("log")));
        assert_eq!(ours("wasi:cli/stdout@0.2.6"), Ok(None));
        assert_eq!(
            ours("ultra:plugin/log@0.2.0").unwrap_err().to_string(),
            "it is made for plugin API 0.2 (`ultra:plugin/log@0.2.0`), and this Ultra has 0.1"
        );
    }

    #[test]
    fn imports_beyond_the_api_are_refused_by_name() {
        let mut found = Found::default();

        found.import("wasi:io/streams@0.2.6").unwrap();
        found.import("ultra:plugin/types@0.1.0").unwrap();
        assert_eq!(
            found.import("ultra:plugin/read@0.1.0").unwrap_err(),
            ScanError::Import("ultra:plugin/read@0.1.0".into())
        );
        assert_eq!(
            found.import("evil:host/exec").unwrap_err(),
            ScanError::Import("evil:host/exec".into())
        );
        assert_eq!(found.imports, []);
    }
}
