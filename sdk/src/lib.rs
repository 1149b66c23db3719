//! Write interceptors for Ultra.
//!
//! An interceptor is a type that implements [`Interceptor`], handed to [`plugin!`], in a crate of type
//! `cdylib` built for `wasm32-unknown-unknown`, with a `plugin.toml` beside its `Cargo.toml`:
//!
//! ```
//! use ultra_plugin::{Call, Flow, Interceptor, Settings, plugin};
//!
//! struct Guard {
//!     forbidden: String,
//! }
//!
//! impl Interceptor for Guard {
//!     fn start(settings: &str) -> Result<Self, String> {
//!         Ok(Self { forbidden: Settings::parse(settings)?.text("forbidden")?.to_owned() })
//!     }
//!
//!     fn before(&self, call: &Call<'_>) -> Flow {
//!         if call.name().as_deref() == Some(&self.forbidden) {
//!             return Flow::Deny(format!("`{}` is not allowed here", self.forbidden));
//!         }
//!         Flow::Next
//!     }
//! }
//!
//! # #[cfg(any())]
//! plugin!(Guard);
//! # fn main() {}
//! ```
//!
//! Several instances of a plugin exist at a time, and any of them may be dropped between two calls:
//! what it keeps in memory is a cache. Facts from `before` to `after` go through [`Call::keep`], counts
//! over all calls through [`state`].
//!
//! A component has no clock, no standard output and no random numbers of its own: `Instant::now` panics,
//! `println!` goes nowhere. Use [`clock`] and [`log`].

// Public for what `plugin!` expands to, and only for that.
#[doc(hidden)]
pub mod bindings;
mod call;
#[doc(hidden)]
pub mod export;
mod settings;

pub use bindings::exports::ultra::plugin::lifecycle::Phases;
pub use bindings::ultra::plugin::types::{Era, Field, Operation, Value};
pub use bindings::ultra::plugin::{audit, clock, log, metrics, state, trace};
pub use call::Call;
pub use export::{Flow, Interceptor};
pub use settings::Settings;
