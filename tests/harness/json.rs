//! JSON that is compared, not understood: every number and string stays as it was written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON text as a tree whose leaves are the source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// An object, members in order.
    Object(Vec<(String, Self)>),
    /// An array.
    Array(Vec<Self>),
    /// A string, number, boolean or null, as written.
    Leaf(String),
}

impl Json {
    /// Parses a text.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    pub fn parse(text: &str) -> Self {
        match text.trim_start().as_bytes().first() {
            Some(b'{') => {
                let Members(members) = expect_json(text);
                Self::Object(
                    members.into_iter().map(|(name, raw)| (name, Self::parse(raw.get()))).collect(),
                )
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = expect_json(text);
                Self::Array(items.iter().map(|raw| Self::parse(raw.get())).collect())
            }
            _ => Self::Leaf(text.trim().to_owned()),
        }
    }

    /// Returns the member `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            Self::Array(_) | Self::Leaf(_) => None,
        }
    }

    /// Returns what stands at a path of members, for changing it.
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match self {
            Self::Object(members) => members
                .iter_mut()
                .find(|(known, _)| known == first)
                .and_then(|(_, value)| value.get_mut(rest)),
            Self::Array(_) | Self::Leaf(_) => None,
        }
    }

    /// Returns the text of a string.
    ///
    /// # Panics
    ///
    /// If it is something else.
    pub fn as_str(&self) -> String {
        let text = self.to_string();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Changes the text of every leaf that is a member `name` of an object, however deep.
    pub fn edit_leaves(&mut self, name: &str, edit: &impl Fn(&str) -> String) {
        match self {
            Self::Object(members) => {
                for (known, value) in members {
                    match value {
                        Self::Leaf(text) if known == name => *text = edit(text),
                        Self::Leaf(_) => {}
                        Self::Object(_) | Self::Array(_) => value.edit_leaves(name, edit),
                    }
                }
            }
            Self::Array(items) => items.iter_mut().for_each(|value| value.edit_leaves(name, edit)),
            Self::Leaf(_) => {}
        }
    }

    /// Returns where two texts differ, one line each; empty if they are equal.
    ///
    /// The order of members does not count, everything else does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.compare(other, "$", &mut found);
        found
    }

    fn compare(&self, other: &Self, path: &str, found: &mut Vec<String>) {
        match (self, other) {
            (Self::Object(left), Self::Object(right)) => {
                for (name, value) in left {
                    match other.get(name) {
                        Some(counterpart) => {
                            value.compare(counterpart, &format!("{path}.{name}"), found)
                        }
                        None => found.push(format!("{path}.{name}: {value} became nothing")),
                    }
                }
                for (name, value) in right.iter().filter(|(name, _)| self.get(name).is_none()) {
                    found.push(format!("{path}.{name}: nothing became {value}"));
                }
                if left.len() != right.len() {
                    found.push(format!("{path}: {} members became {}", left.len(), right.len()));
                }
            }
            (Self::Array(left), Self::Array(right)) => {
                for (index, (value, counterpart)) in left.iter().zip(right).enumerate() {
                    value.compare(counterpart, &format!("{path}[{index}]"), found);
                }
                if left.len() != right.len() {
                    found.push(format!("{path}: {} items became {}", left.len(), right.len()));
                }
            }
            _ if self != other => found.push(format!("{path}: {self} became {other}")),
            _ => {}
        }
    }
}

fn expect_json<'a, T: Deserialize<'a>>(text: &'a str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"))
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{name:?}:{value}")?;
                }
                f.write_str("}")
            }
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, value) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
            Self::Leaf(text) => f.write_str(text),
        }
    }
}

/// The members of an object in order, duplicates kept.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_stay_as_written() {
        let text = r#"{"a":1e400,"b":[1.0,18446744073709551616,"\u00e9"],"c":{}}"#;

        let tree = Json::parse(text);

        assert_eq!(tree.to_string(), text);
        assert_eq!(
            tree.differences(&Json::parse(
                r#"{"c":{},"a":1e400,"b":[1.0,18446744073709551616,"\u00e9"]}"#
            ))
            .len(),
            0
        );
    }

    #[test]
    fn every_difference_is_named() {
        let left = Json::parse(r#"{"a":1,"b":[1,2],"c":null}"#);
        let right = Json::parse(r#"{"a":1.0,"b":[1],"d":true}"#);

        let found = left.differences(&right);

        let expected = [
            "$.a: 1 became 1.0",
            "$.b: 2 items became 1",
            "$.c: null became nothing",
            "$.d: nothing became true",
        ];
        assert_eq!(found, expected);
    }
}
