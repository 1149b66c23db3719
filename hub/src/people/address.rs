//! What people type: e-mail addresses and names.

use std::fmt;

use crate::db::Value;
use crate::error::ApiError;

/// RFC 5321, section 4.5.3.1.
const LOCAL_BYTES_MAX: usize = 64;
const ADDRESS_BYTES_MAX: usize = 254;

/// Of people, teams, keys: more than fits in a list.
const NAME_CHARS_MAX: usize = 100;

/// Change the direction of what follows: a name could pretend to be another one.
const DIRECTIONS: [char; 11] = [
    '\u{061c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{2068}',
];

/// An e-mail address, in lower case.
///
/// Only ASCII: letters that become others in lower case have let people in as somebody else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Email(String);

impl Email {
    /// Reads an address.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let text = text.trim().to_ascii_lowercase();
        let wrong = || ApiError::Invalid("this is no e-mail address".to_owned());
        let (local, domain) = text.split_once('@').ok_or_else(wrong)?;
        let local_ok =
            |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+-/=?^_`{|}~".contains(&byte);
        let domain_ok = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
        let labels = domain.split('.').all(|label| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        });
        let good = (1..=LOCAL_BYTES_MAX).contains(&local.len())
            && local.bytes().all(local_ok)
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && domain.bytes().all(domain_ok)
            && labels
            && text.len() <= ADDRESS_BYTES_MAX;
        if good { Ok(Self(text)) } else { Err(wrong()) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the `@`.
    pub(super) fn domain(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Email {
    /// Addresses do not get into logs by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…@…")
    }
}

impl From<&Email> for Value {
    fn from(email: &Email) -> Self {
        Self::Text(email.0.clone())
    }
}

/// Returns a name as it is stored; `what` says whose, for the error.
pub(super) fn name(text: &str, what: &str) -> Result<String, ApiError> {
    let text = text.trim();
    let chars = text.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX {
        let message = format!("the name of {what} has 1 to {NAME_CHARS_MAX} characters");
        return Err(ApiError::Invalid(message));
    }
    if text.chars().any(is_strange) {
        let message = format!("the name of {what} has characters that cannot be seen");
        return Err(ApiError::Invalid(message));
    }
    Ok(text.to_owned())
}

/// Returns a person's name, which may be empty.
pub(super) fn person(text: &str) -> Result<String, ApiError> {
    if text.trim().is_empty() { Ok(String::new()) } else { name(text, "a person") }
}

/// Returns what somebody else says a person's name is, without what cannot be stored.
pub(super) fn told(text: &str) -> String {
    let seen = text.chars().filter(|char| !is_strange(*char));
    seen.take(NAME_CHARS_MAX).collect::<String>().trim().to_owned()
}

fn is_strange(char: char) -> bool {
    char.is_control() || char == '\u{2069}' || DIRECTIONS.contains(&char)
}

/// Returns what an organization is called in addresses: lower case letters, digits, and hyphens.
pub(super) fn slug(name: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut slug = String::new();
    for char in name.chars().flat_map(char::to_lowercase) {
        if slug.len() == CHARS_MAX {
            break;
        }
        if char.is_ascii_alphanumeric() {
            slug.push(char);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "organization".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_in_whatever_case() {
        assert_eq!(Email::parse(" Ada.L@Example.ORG ").unwrap().as_str(), "ada.l@example.org");
        assert_eq!(Email::parse("a@localhost").unwrap().domain(), "localhost");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@a.test", "x".repeat(65));
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            "a b@c",
            "a@b..c",
            "a@-b",
            ".a@b",
            "a..b@c",
            "a@b\r\nBcc: c@d",
            "a@b,c@d",
            "\"a b\"@c",
            "a@[127.0.0.1]",
            "\u{212a}@b",
            "a@\u{0131}.test",
            "<a@b>",
            &long,
        ] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_seen_as_they_are() {
        assert_eq!(name(" Platform <b>é</b> ", "a team").unwrap(), "Platform <b>é</b>");
        for text in ["", "  ", "a\nb", "a\0b", "a\u{202e}b", &"x".repeat(101)] {
            assert!(name(text, "a team").is_err(), "{text:?}");
        }
        assert_eq!(told("A\u{202e}da\r\n"), "Ada");
    }

    #[test]
    fn slugs_are_plain() {
        for (name, expected) in [
            ("Acme, Inc.", "acme-inc"),
            ("  --- ", "organization"),
            ("Müller & Söhne", "m-ller-s-hne"),
            ("日本", "organization"),
        ] {
            assert_eq!(slug(name), expected);
        }
        assert_eq!(slug(&"a".repeat(99)).len(), 40);
    }
}
