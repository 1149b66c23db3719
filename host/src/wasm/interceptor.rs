//! A component as a stage: checks an instance out of the plugin's pool, back in after the call.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ultra_store::MetricDelta;
use wasmtime::component::{Component, Resource};
use wasmtime::{Store, Trap};

use super::bindings::{Phases, Plugin, PluginPre, Verdict};
use super::health::{Health, Leave, Record};
use super::imports::{Decision, Fault, Guest, Phase, Shared, head};
use super::limits::{
    self, HOOK_TIME_MAX, HOST_CALLS_MAX, MEMORY_BYTES_KEPT_MAX, MEMORY_BYTES_MAX, START_TIME_MAX,
};
use super::meter::Meter;
use super::state::SharedState;
use super::{ComponentError, Grants, Outlets, Runtime};
use crate::pipeline::{Exchange, Interceptor, RequestDecision, ResponseDecision, StageError};

/// Idle instances kept of one plugin, at most; no more than there are cores.
const IDLE_MAX: usize = 8;

/// What a plugin is and may do.
pub struct Spec {
    /// Plugin id.
    pub id: Arc<str>,
    /// Settings for `start`, as a JSON object.
    pub settings: String,
    /// What it may do.
    pub grants: Grants,
}

/// A plugin: its compiled component, and the instances of it that are at rest.
///
/// An instance lives for many calls; making one for each call costs 25 times as much. One that failed
/// in any way but in what it decided is dropped, and the next call gets a new one.
pub struct WasmInterceptor {
    runtime: Arc<Runtime>,
    component: PluginPre<Guest>,
    settings: String,
    /// The phases in which its first instance wanted to be called.
    wanted: Phases,
    shared: Arc<Shared>,
    // Last in, first out: the instance used last is the one in the processor's cache. Held to push and
    // pop only, never over a call into a plugin.
    idle: Mutex<Vec<Instance>>,
    idle_max: usize,
    record: Record,
}

struct Instance {
    store: Store<Guest>,
    plugin: Plugin,
}

impl WasmInterceptor {
    /// Makes a plugin of a component and starts its first instance.
    ///
    /// # Errors
    ///
    /// The component does not fit the plugin API, or does not start with these settings.
    pub fn new(
        runtime: Arc<Runtime>,
        component: &Component,
        spec: Spec,
        outlets: Outlets,
    ) -> Result<Self, ComponentError> {
        let unfit = |error: wasmtime::Error| ComponentError::Unfit { reason: format!("{error:#}") };
        let mut linker = runtime.linker.clone();
        // What is left to define is WASI: anything else was refused by name before. Components built
        // for WASI import much of it that they never call.
        linker.define_unknown_imports_as_traps(component).map_err(unfit)?;
        let component =
            PluginPre::new(linker.instantiate_pre(component).map_err(unfit)?).map_err(unfit)?;
        let shared = Arc::new(Shared {
            id: spec.id,
            grants: spec.grants,
            outlets,
            meter: Meter::default(),
            state: SharedState::default(),
        });
        let idle_max = thread::available_parallelism().map_or(1, usize::from).min(IDLE_MAX);
        let settings = spec.settings;
        let idle = Mutex::new(Vec::with_capacity(idle_max));
        let mut new = Self {
            runtime,
            component,
            settings,
            wanted: Phases::empty(),
            shared,
            idle,
            idle_max,
            record: Record::default(),
        };
        let (instance, wanted) = new.start().map_err(ComponentError::Start)?;
        new.wanted = wanted;
        new.put_back(instance);
        Ok(new)
    }

    /// Returns the plugin's id.
    pub fn id(&self) -> &Arc<str> {
        &self.shared.id
    }

    /// Takes what its instruments gathered since the last time.
    pub fn drain_metrics(&self) -> Vec<MetricDelta> {
        self.shared.meter.drain()
    }

    /// Returns how it is doing.
    pub fn health(&self) -> Health {
        self.record.health(&self.shared.id)
    }

    /// Makes an instance and starts it.
    fn start(&self) -> Result<(Instance, Phases), StageError> {
        let failed = |reason: String| StageError::Start { reason };
        let mut store = Store::new(&self.runtime.engine, Guest::new(Arc::clone(&self.shared)));
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(limits::HOST_CALL_FUEL);
        store.set_max_component_handles(limits::HANDLES_MAX);
        store.epoch_deadline_callback(|mut context| Ok(limits::deadline(context.data_mut())));
        self.runtime.ticker.hook_begins();
        set_deadline(&mut store, START_TIME_MAX);
        let plugin =
            self.component.instantiate(&mut store).map_err(|error| failed(format!("{error:#}")))?;
        let started = plugin.ultra_plugin_lifecycle().call_start(&mut store, &self.settings);
        match started {
            Ok(Ok(phases)) => Ok((Instance { store, plugin }, phases)),
            Ok(Err(reason)) => Err(failed(reason.chars().take(1000).collect())),
            Err(error) => Err(failed(failure(&error, store.data(), START_TIME_MAX).to_string())),
        }
    }

    /// Runs one hook. The exchange comes back whole, whatever the plugin did.
    fn hook(
        &self,
        exchange: Box<Exchange>,
        phase: Phase,
    ) -> (Box<Exchange>, Result<Option<Decision>, StageError>) {
        let wanted = match phase {
            Phase::Start | Phase::Request => Phases::REQUEST,
            Phase::Response => Phases::RESPONSE,
        };
        if !self.wanted.contains(wanted) {
            return (exchange, Ok(None));
        }
        let (mut instance, leave) = match self.check_out() {
            Ok(checked_out) => checked_out,
            Err(error) => return (exchange, Err(error)),
        };
        let (exchange, result) = instance.run(&self.runtime, exchange, phase);
        match &result {
            Ok(_) => {
                if leave == Leave::Probe {
                    self.record.recovered(&self.shared.id);
                }
                self.put_back(instance);
            }
            Err(error) => {
                drop(instance);
                self.note_failure(error);
            }
        }
        (exchange, result)
    }

    fn check_out(&self) -> Result<(Instance, Leave), StageError> {
        let leave = self.record.leave()?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle.map_or_else(|| self.start().map(|(instance, _)| instance), Ok) {
            Ok(instance) => Ok((instance, leave)),
            Err(error) => {
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    fn put_back(&self, instance: Instance) {
        if instance.store.data().memory.bytes > MEMORY_BYTES_KEPT_MAX {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(instance);
        }
    }

    fn note_failure(&self, error: &StageError) {
        if self.record.failed(&self.shared.id, error) {
            // Whatever comes after the rest begins anew.
            let idle =
                std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
            drop(idle);
        }
    }
}

impl Instance {
    fn run(
        &mut self,
        runtime: &Runtime,
        exchange: Box<Exchange>,
        phase: Phase,
    ) -> (Box<Exchange>, Result<Option<Decision>, StageError>) {
        let elapsed = exchange.started.elapsed();
        let head = head(&exchange, elapsed);
        runtime.ticker.hook_begins();
        self.store.data_mut().enter(exchange, phase, elapsed);
        set_deadline(&mut self.store, HOOK_TIME_MAX);
        let interceptor = self.plugin.ultra_plugin_interceptor();
        let lent = Resource::new_borrow(0);
        let verdict = match phase {
            Phase::Response => interceptor.call_after(&mut self.store, head, lent),
            Phase::Start | Phase::Request => interceptor.call_before(&mut self.store, head, lent),
        };
        let guest = self.store.data_mut();
        let mut exchange =
            guest.exchange.take().expect("`enter` put it there and nothing else takes it");
        let result = match (verdict, guest.decision.take()) {
            // What was recorded counts, also if the plugin then forgot to stop.
            (Ok(_), Some(decision)) => Ok(Some(decision)),
            (Ok(Verdict::Next), None) => Ok(None),
            (Ok(Verdict::Stop), None) => Err(StageError::NoOutcome),
            (Err(error), _) => Err(failure(&error, guest, HOOK_TIME_MAX)),
        };
        if result.is_err() {
            // A hook that failed did nothing: the call may go on as if the stage were not there.
            if let Some(undo) = guest.undo.take() {
                undo.undo(&mut exchange);
            }
            exchange.audit = None;
        }
        (exchange, result)
    }
}

fn set_deadline(store: &mut Store<Guest>, limit: Duration) {
    let half = limits::half_in_epochs(limit);
    let guest = store.data_mut();
    guest.cpu_mark = None;
    guest.epochs_left = half;
    store.set_epoch_deadline(half);
}

/// Returns why a call into a plugin failed.
fn failure(error: &wasmtime::Error, guest: &Guest, limit: Duration) -> StageError {
    if let Some(Fault::HostCalls) = error.downcast_ref() {
        return StageError::HostCalls { limit: HOST_CALLS_MAX };
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return StageError::Timeout { limit };
    }
    if guest.memory.refused {
        return StageError::Memory { limit_bytes: MEMORY_BYTES_MAX };
    }
    let reason = match (&guest.last_words, trap) {
        (Some(words), _) => words.clone(),
        (None, Some(trap)) => trap.to_string(),
        (None, None) => error.root_cause().to_string(),
    };
    StageError::Trap { reason }
}

impl Interceptor for WasmInterceptor {
    fn before_request(
        &self,
        exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<RequestDecision, StageError>) {
        let (exchange, result) = self.hook(exchange, Phase::Request);
        let decision = result.map(|decision| match decision {
            None => RequestDecision::Pass,
            Some(Decision::Answer(json)) => RequestDecision::Answer(json),
            Some(Decision::Deny(reason)) => RequestDecision::Deny(reason),
        });
        (exchange, decision)
    }

    fn after_response(
        &self,
        exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<ResponseDecision, StageError>) {
        let (exchange, result) = self.hook(exchange, Phase::Response);
        let decision = result.and_then(|decision| match decision {
            None => Ok(ResponseDecision::Pass),
            Some(Decision::Deny(reason)) => Ok(ResponseDecision::Deny(reason)),
            // `answer` takes nothing in this phase.
            Some(Decision::Answer(_)) => Err(StageError::NoOutcome),
        });
        (exchange, decision)
    }
}
