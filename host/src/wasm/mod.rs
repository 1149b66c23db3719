//! The engine that runs plugins: settings, compiled code, and the clock of their deadlines.
//!
//! What plugins are there, and in which order they run, is the business of `plugins/`.

mod bindings;
mod cache;
mod call_line;
mod edit;
mod epoch;
mod grant;
mod health;
mod imports;
mod interceptor;
mod limits;
mod meter;
mod report;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;
use ultra_store::{Store, Trace};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine};

use cache::{Cache, CacheError};
use epoch::Ticker;
use imports::Guest;

pub use call_line::{CallLine, CallLog};
pub use grant::{Capability, Grants};
pub use health::Health;
pub use interceptor::{Spec, WasmInterceptor};
pub use limits::COMPONENT_BYTES_MAX;

/// Address space below which memories are reserved small: the default takes 4 GiB for each instance.
const ADDRESS_SPACE_MIN: u64 = 256 << 30;

/// Takes the span of each sampled call, on the call's path: it must return at once.
pub trait SpanSink: Send + Sync {
    /// Takes a span, as the trace record of its call.
    fn span(&self, trace: &Trace);
}

/// Where what plugins record goes.
#[derive(Clone)]
pub struct Outlets {
    /// Keeps trace records.
    pub store: Arc<dyn Store>,
    /// Also exports spans.
    pub spans: Option<Arc<dyn SpanSink>>,
    /// Takes the log's lines about calls. Without it they are written at once.
    pub log: Option<Arc<dyn CallLog>>,
}

/// Where compiled components are kept.
#[derive(Debug, Clone)]
pub struct CachePlace {
    /// The directory, owner-only. Made if it is missing.
    pub directory: PathBuf,
    /// The key that vouches for what is in it: an owner-only file in another directory. Made if missing.
    pub key_file: PathBuf,
}

/// The engine that runs plugins. One per process.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Guest>,
    ticker: Ticker,
    cache: Option<Cache>,
    /// A file of the cache was unusable, and that was logged.
    complained: AtomicBool,
}

/// Why plugins cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not work on this machine.
    #[error("cannot set up the WebAssembly engine")]
    Engine {
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The clock of deadlines cannot start.
    #[error("cannot start the thread for deadlines")]
    Clock {
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a component does not become an interceptor.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// It does not compile.
    #[error("cannot be compiled: {reason}")]
    Compile {
        /// What the compiler said.
        reason: String,
    },
    /// It asks for something that the gateway does not have, or in another shape.
    #[error("does not fit the plugin API: {reason}")]
    Unfit {
        /// What the engine said.
        reason: String,
    },
    /// It does not start with its settings.
    #[error("{0}")]
    Start(crate::pipeline::StageError),
}

impl Runtime {
    /// Sets the engine up. Without a cache, or with one that cannot be used, every start compiles.
    pub fn new(cache: Option<&CachePlace>) -> Result<Arc<Self>, RuntimeError> {
        let engine = |error: wasmtime::Error| RuntimeError::Engine { source: error.into() };
        let wasm = Engine::new(&config()).map_err(engine)?;
        let mut linker = Linker::new(&wasm);
        bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest: &mut Guest| guest)
            .map_err(engine)?;
        let ticker =
            Ticker::start(wasm.clone()).map_err(|source| RuntimeError::Clock { source })?;
        let cache = cache.and_then(|place| match Cache::open(&place.directory, &place.key_file) {
            Ok(cache) => Some(cache),
            Err(error) => {
                warn_without_cache(&error);
                None
            }
        });
        Ok(Arc::new(Self {
            engine: wasm,
            linker,
            ticker,
            cache,
            complained: AtomicBool::new(false),
        }))
    }

    /// Returns a component from the cache.
    pub fn cached(&self, digest: &[u8; 32]) -> Option<Component> {
        let cache = self.cache.as_ref()?;
        match cache.load(&self.engine, &Cache::name(digest, &self.engine)) {
            Ok(component) => component,
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    /// Compiles a component and puts it into the cache. Takes about 1 ms per KiB.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Compile`], also for code that is compiled already: it is never run unseen.
    pub fn compile(&self, bytes: &[u8], digest: &[u8; 32]) -> Result<Component, ComponentError> {
        if Engine::detect_precompiled(bytes).is_some() {
            return Err(ComponentError::Compile {
                reason: "it is compiled code, not a component".into(),
            });
        }
        let component = Component::from_binary(&self.engine, bytes)
            .map_err(|error| ComponentError::Compile { reason: format!("{error:#}") })?;
        if let Some(cache) = &self.cache
            && let Err(error) = cache.store(&Cache::name(digest, &self.engine), &component)
        {
            self.complain(&error);
        }
        Ok(component)
    }

    /// Says once what is wrong with the cache: with one bad file there are often more.
    fn complain(&self, error: &CacheError) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            warn!("compiled plugins: {}; compiling again", crate::chain(error));
        }
    }
}

/// Returns the SHA-256 of a component.
pub fn digest(component: &[u8]) -> [u8; 32] {
    cache::digest(component)
}

/// Returns a digest as text, such as `sha256:0af7…`.
pub fn digest_text(digest: &[u8; 32]) -> String {
    format!("sha256:{}", cache::hex(digest))
}

fn warn_without_cache(error: &CacheError) {
    warn!("compiled plugins are not kept: {}", crate::chain(error));
}

fn config() -> Config {
    let mut config = Config::new();
    // Off halves the cost of a call; nothing here is asynchronous.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    let space = rustix::process::getrlimit(rustix::process::Resource::As).current;
    if space.is_some_and(|bytes| bytes < ADDRESS_SPACE_MIN) {
        config.memory_reservation(1 << 20);
        config.memory_reservation_for_growth(1 << 20);
        config.memory_guard_size(64 << 10);
    }
    config
}
