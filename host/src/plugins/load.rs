//! From a plan to stages: compiles what is not in the cache, and starts everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ultra_store::MetricDelta;
use wasmtime::component::Component;

use super::candidate::Candidate;
use super::{Plan, PluginsError, Refused, check};
use crate::pipeline::Stage;
use crate::wasm::{ComponentError, Health, Outlets, Runtime, Spec, WasmInterceptor};

/// The stages, and a handle on the plugins in them.
pub struct Loaded {
    /// In their order.
    pub stages: Vec<Stage>,
    /// The plugins in them.
    pub plugins: Plugins,
    /// What was refused, and may be.
    pub refused: Vec<Refused>,
}

/// A handle on the plugins that run.
#[derive(Clone, Default)]
pub struct Plugins {
    plugins: Arc<[Arc<WasmInterceptor>]>,
}

impl Plugins {
    /// Takes what all instruments gathered since the last time.
    pub fn drain_metrics(&self) -> Vec<MetricDelta> {
        self.plugins.iter().flat_map(|plugin| plugin.drain_metrics()).collect()
    }

    /// Returns how each of them is doing.
    pub fn health(&self) -> Vec<Health> {
        self.plugins.iter().map(|plugin| plugin.health()).collect()
    }
}

impl Plan {
    /// Compiles what is not in the cache, on all cores, and starts everything. Blocks meanwhile.
    ///
    /// # Errors
    ///
    /// [`PluginsError::Refused`], unless the config allows to start without what is refused.
    pub fn load(self, runtime: &Arc<Runtime>, outlets: &Outlets) -> Result<Loaded, PluginsError> {
        self.check()?;
        let components = components(&self.candidates, runtime);
        let mut refused = self.refused;
        let mut stages = Vec::with_capacity(self.candidates.len());
        let mut plugins = Vec::with_capacity(self.candidates.len());
        for (candidate, component) in self.candidates.iter().zip(components) {
            let id: Arc<str> = candidate.manifest.id.as_str().into();
            let spec = Spec {
                id: Arc::clone(&id),
                settings: candidate.settings.clone(),
                grants: candidate.grants,
            };
            let made = component.and_then(|component| {
                WasmInterceptor::new(Arc::clone(runtime), &component, spec, outlets.clone())
            });
            match made {
                Ok(plugin) => {
                    let plugin = Arc::new(plugin);
                    plugins.push(Arc::clone(&plugin));
                    stages.push(Stage {
                        id,
                        priority: candidate.priority,
                        request: candidate.request,
                        response: candidate.response,
                        sees: candidate.sees,
                        sees_all_outcomes: candidate.manifest.sees_all_outcomes,
                        interceptor: plugin,
                    });
                }
                Err(error) => refused.push(candidate.refuse(error.to_string())),
            }
        }
        check(&refused, self.allow_refused)?;
        Ok(Loaded { stages, plugins: Plugins { plugins: plugins.into() }, refused })
    }
}

/// Returns the compiled components of candidates, in their order.
fn components(
    candidates: &[Candidate],
    runtime: &Runtime,
) -> Vec<Result<Component, ComponentError>> {
    let mut components: Vec<_> =
        candidates.iter().map(|candidate| runtime.cached(&candidate.digest).map(Ok)).collect();
    let missing: Vec<_> =
        (0..candidates.len()).filter(|&index| components[index].is_none()).collect();
    let compile =
        |index: usize| runtime.compile(&candidates[index].component, &candidates[index].digest);
    let next = AtomicUsize::new(0);
    let compiled = Mutex::new(Vec::new());
    let worker = || {
        while let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let component = compile(index);
            compiled.lock().unwrap_or_else(PoisonError::into_inner).push((index, component));
        }
    };
    // This thread is one of them; none is started when all is in the cache.
    let helpers =
        thread::available_parallelism().map_or(1, usize::from).min(missing.len()).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(worker);
        }
        worker();
    });
    for (index, component) in compiled.into_inner().unwrap_or_else(PoisonError::into_inner) {
        components[index] = Some(component);
    }
    components.into_iter().flatten().collect()
}
