//! What stands in a form or an address: names and values, each name once.

use crate::error::ApiError;

/// More than any form of ours has.
const FIELDS_MAX: usize = 64;

/// Names and values.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Result<Self, ApiError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(text) {
            if fields.len() == FIELDS_MAX {
                return Err(ApiError::Invalid(format!("there are more than {FIELDS_MAX} fields")));
            }
            // RFC 6749, section 3.1; and nobody reads one while somebody else reads the other.
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::Invalid("a field is there twice".to_owned()));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// Returns a value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns a value, or nothing if it is empty: forms send empty fields.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// Returns a value that may be empty.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_there_once() {
        let fields = Fields::parse(b"a=1&b=%20x+y%20&c=").unwrap();

        assert_eq!(fields.get("a"), Some("1"));
        assert_eq!(fields.filled("b"), Some("x y"));
        assert_eq!(fields.get("c"), Some(""));
        assert_eq!(fields.filled("c"), None);
        assert!(Fields::parse(b"a=1&a=2").is_err());
        assert!(
            Fields::parse((0..65).map(|n| format!("f{n}=&")).collect::<String>().as_bytes())
                .is_err()
        );
    }
}
