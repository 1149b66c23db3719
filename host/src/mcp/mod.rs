//! MCP on the wire: the raw envelope, names of methods and revisions, edits. No I/O, no policy.

pub mod edit;
pub mod header;
pub mod json;
mod level;
mod message;
pub mod modern;
mod revision;
pub mod sse;

pub use json::JsonError;
pub use level::Level;
pub use message::{
    Kind, Message, MessageError, error_line, notification_line, recover_id, request_line,
    result_line,
};
pub use revision::{Era, Revision};
