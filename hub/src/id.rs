//! Ids: a kind, and 63 bits of which the first are the time.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Without letters that look like others (Crockford's base 32, in lower case).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Digits of 63 bits in base 32.
const DIGITS: u32 = 13;

/// Bits that are random; above them milliseconds since 1970.
const RANDOM_BITS: u32 = 22;

/// What an id is of.
pub(crate) trait Kind {
    /// Stands before the id, with an underscore.
    const PREFIX: &'static str;
}

/// The id of one `K`, as the database has it. Shown as `ws_01k4…`.
pub(crate) struct Id<K> {
    number: i64,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// Returns an id that nothing has yet.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let random = i64::from(rand::random::<u32>() >> (u32::BITS - RANDOM_BITS));
        // Milliseconds need 41 bits until the year 2039, and 42 are there.
        Self::from_number(((now.as_millis() as i64) << RANDOM_BITS | random) & i64::MAX)
    }

    /// Returns the id that is stored as `number`.
    pub(crate) fn from_number(number: i64) -> Self {
        Self { number, kind: PhantomData }
    }

    /// The id as the database has it.
    pub(crate) fn number(self) -> i64 {
        self.number
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<K> Eq for Id<K> {}

impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_", K::PREFIX)?;
        for digit in (0..DIGITS).rev() {
            let value = (self.number >> (digit * 5)) & 31;
            write!(f, "{}", char::from(ALPHABET[value as usize]))?;
        }
        Ok(())
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no id of this kind.
#[derive(Debug, thiserror::Error)]
#[error("not an id that begins with `{prefix}_`")]
pub(crate) struct BadId {
    prefix: &'static str,
}

impl<K: Kind> FromStr for Id<K> {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { prefix: K::PREFIX };
        let digits = text
            .strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .filter(|digits| digits.len() == DIGITS as usize)
            .ok_or_else(bad)?;
        let mut number = 0_i64;
        for digit in digits.bytes() {
            let value = ALPHABET.iter().position(|known| *known == digit).ok_or_else(bad)?;
            if number > i64::MAX >> 5 {
                return Err(bad());
            }
            number = number << 5 | value as i64;
        }
        Ok(Self::from_number(number))
    }
}

impl<K: Kind> serde::Serialize for Id<K> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Kind> serde::Deserialize<'de> for Id<K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Kinds of ids.
macro_rules! kinds {
    ($($name:ident $prefix:literal $alias:ident,)*) => {$(
        #[doc = concat!("Kind of ids that begin with `", $prefix, "_`.")]
        pub(crate) enum $name {}
        impl Kind for $name {
            const PREFIX: &'static str = $prefix;
        }
        #[doc = concat!("An id that begins with `", $prefix, "_`.")]
        pub(crate) type $alias = Id<$name>;
    )*};
}

kinds! {
    Organization "org" OrganizationId,
    Team "team" TeamId,
    Workspace "ws" WorkspaceId,
    User "usr" UserId,
    Gateway "gw" GatewayId,
    DeployKey "key" DeployKeyId,
    Invite "inv" InviteId,
    Entry "log" EntryId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        for number in [0, 1, i64::MAX, WorkspaceId::new().number()] {
            let id = WorkspaceId::from_number(number);

            assert_eq!(id.to_string().parse::<WorkspaceId>().unwrap(), id);
        }
        assert_eq!(WorkspaceId::from_number(31).to_string(), "ws_000000000000z");
    }

    #[test]
    fn what_is_no_id_of_the_kind_is_refused() {
        for text in ["", "ws_", "ws_1", "gw_0000000000000", "ws_000000000000l", "ws_zzzzzzzzzzzzz"]
        {
            assert!(text.parse::<WorkspaceId>().is_err(), "{text}");
        }
    }
}
