//! The side of the client.

mod reply;
mod session;
pub mod stdio;

pub use session::{OpenRequest, Session, Setup};
