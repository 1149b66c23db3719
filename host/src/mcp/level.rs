//! Levels of log messages.

use super::json;

/// By rising weight (2025-11-25, server/utilities/logging).
const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The level of a log message. A weightier one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(usize);

impl Level {
    /// What a client hears that has named none.
    pub const INFO: Self = Self(1);

    /// Returns the level that a raw JSON string names; none if there is no such level.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let name = json::string(raw)?;
        LEVELS.iter().position(|known| **known == *name).map(Self)
    }

    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        LEVELS[self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_weights() {
        assert_eq!(Level::parse(b"\"info\""), Some(Level::INFO));
        assert!(Level::parse(b"\"debug\"") < Level::parse(b"\"warning\""));
        assert_eq!(Level::parse(b"\"loud\""), None);
        assert_eq!(Level::parse(b"\"alert\"").unwrap().as_str(), "alert");
    }
}
