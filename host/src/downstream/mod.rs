//! The side of the client.

mod channel;
pub mod http;
mod listening;
mod modern;
mod open;
mod question;
mod reply;
mod room;
mod session;
pub mod stdio;
#[cfg(test)]
mod testing;

pub use open::OpenRequest;
pub use question::Question;
pub use session::{Session, Setup};
