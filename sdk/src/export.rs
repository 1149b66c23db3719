//! From a Rust type to the exports of a component.

use crate::bindings::ultra::plugin::types::{Exchange, Head, Verdict};
use crate::{Call, Phases, bindings};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// It goes on, with the changes made through [`Call`].
    Next,
    /// It is refused, or in `after` its result is withheld. The reason is meant for whoever sent it. A
    /// notification goes no further. Needs `deny`.
    Deny(String),
    /// This result, as JSON text, answers it in place of whoever would. `before` of calls and of questions
    /// of upstreams only. Needs `answer`.
    Answer(String),
}

/// What a plugin does with a call.
///
/// A hook has 20 ms and 10,000 calls to the gateway. Missing them is a failure of the plugin, as a panic is:
/// what then happens to the call is in `failure` of the manifest.
pub trait Interceptor: Sized + 'static {
    /// Makes an instance from the settings, a JSON object; see [`Settings`](crate::Settings). It has 500 ms.
    ///
    /// # Errors
    ///
    /// The settings make no sense. The gateway then refuses the plugin and shows this text.
    fn start(settings: &str) -> Result<Self, String>;

    /// Returns the phases in which there is something to do with these settings.
    ///
    /// Naming only those spares each call a third of a microsecond.
    fn phases(&self) -> Phases {
        Phases::all()
    }

    /// Meets a message before its receiver sees it. `sees` in the manifest says which; calls, if it is not there.
    fn before(&self, call: &Call<'_>) -> Flow {
        let _ = call;
        Flow::Next
    }

    /// Meets its outcome. Notifications have none.
    fn after(&self, call: &Call<'_>) -> Flow {
        let _ = call;
        Flow::Next
    }
}

/// Runs a hook and does what it decided.
#[doc(hidden)]
pub fn run(head: Head, exchange: &Exchange, hook: impl FnOnce(&Call<'_>) -> Flow) -> Verdict {
    let call = Call::new(head, exchange);
    match hook(&call) {
        Flow::Next => Verdict::Next,
        Flow::Deny(reason) => {
            call.exchange().deny(&reason);
            Verdict::Stop
        }
        Flow::Answer(json) => {
            if let Err(reason) = call.exchange().answer(&json) {
                panic!("cannot answer: {reason}");
            }
            Verdict::Stop
        }
    }
}

/// Makes panics say to the gateway what they are about, where the engine only knows of a trap.
#[doc(hidden)]
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        bindings::ultra::plugin::fault::report(&panic.to_string())
    }));
}

/// Exports an [`Interceptor`] as the component this crate becomes, and puts `plugin.toml` into it.
///
/// Write `plugin!(Guard)`, or `plugin!(Guard, silent)` for a component that is some 10 KB smaller and
/// whose panics are traps without words. Expands to nothing off WebAssembly, so that `cargo test` works.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        $crate::plugin!(@export $plugin, $crate::export::report_panics());
    };
    ($plugin:ty, silent) => {
        $crate::plugin!(@export $plugin, ());
    };
    (@export $plugin:ty, $prepare:expr) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "exported names and link sections are unsafe attributes")]
        const _: () = {
            use $crate::bindings::exports::ultra::plugin::{interceptor, lifecycle};

            ::std::thread_local! {
                static PLUGIN: ::std::cell::OnceCell<$plugin> = const { ::std::cell::OnceCell::new() };
            }

            struct Exported;

            impl lifecycle::Guest for Exported {
                fn start(settings: ::std::string::String) -> ::std::result::Result<$crate::Phases, ::std::string::String> {
                    $prepare;
                    let plugin = <$plugin as $crate::Interceptor>::start(&settings)?;
                    let phases = $crate::Interceptor::phases(&plugin);
                    PLUGIN.with(|slot| slot.set(plugin)).map_err(|_| "started twice")?;
                    Ok(phases)
                }
            }

            impl interceptor::Guest for Exported {
                fn before(head: interceptor::Head, exchange: &interceptor::Exchange) -> interceptor::Verdict {
                    PLUGIN.with(|slot| {
                        let plugin = slot.get().expect("the gateway calls `start` first");
                        $crate::export::run(head, exchange, |call| $crate::Interceptor::before(plugin, call))
                    })
                }

                fn after(head: interceptor::Head, exchange: &interceptor::Exchange) -> interceptor::Verdict {
                    PLUGIN.with(|slot| {
                        let plugin = slot.get().expect("the gateway calls `start` first");
                        $crate::export::run(head, exchange, |call| $crate::Interceptor::after(plugin, call))
                    })
                }
            }

            $crate::bindings::export_plugin!(Exported with_types_in $crate::bindings);

            // Not `#[used]`: that would put it into the memory of every instance, too.
            #[allow(dead_code, reason = "it is for the gateway")]
            #[unsafe(link_section = "ultra:manifest")]
            static MANIFEST: [u8; include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml")).len()] =
                *include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml"));
        };
    };
}
