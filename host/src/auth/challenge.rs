//! What a server says in `WWW-Authenticate` when it refuses a request (RFC 9110, section 11.6.1; RFC
//! 6750, section 3; RFC 9728, section 5.1).

/// The `Bearer` challenge of a refusal, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Where the protected-resource metadata is.
    pub(super) resource_metadata: Option<String>,
    /// Scopes the request needs.
    pub(super) scopes: Option<Vec<String>>,
    /// Such as `invalid_token` or `insufficient_scope`.
    pub(super) error: Option<String>,
}

impl Challenge {
    /// Reads the first `Bearer` challenge; one that says nothing if there is none.
    pub(super) fn parse(headers: &[String]) -> Self {
        headers.iter().find_map(|header| bearer(header)).unwrap_or_default()
    }

    /// Returns the scopes that would satisfy a 403; nothing if scopes are not what it is about.
    ///
    /// A challenge with scopes and without an error counts: servers are known to put the error into
    /// the body.
    pub(super) fn missing_scopes(&self) -> Option<&[String]> {
        match self.error.as_deref() {
            Some("insufficient_scope") | None => self.scopes.as_deref(),
            Some(_) => None,
        }
    }
}

fn bearer(header: &str) -> Option<Challenge> {
    let mut rest = header;
    let mut found: Option<Challenge> = None;
    while let Some((name, after)) = token(rest.trim_start_matches([' ', '\t', ','])) {
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            // A word without a value begins a challenge, and ends the one before.
            if found.is_some() {
                break;
            }
            found = name.eq_ignore_ascii_case("bearer").then(Challenge::default);
            rest = after;
            continue;
        };
        let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
        rest = after;
        if let Some(challenge) = &mut found {
            challenge.take(name, value);
        }
    }
    found
}

impl Challenge {
    /// Keeps a parameter; of several of one name the first.
    fn take(&mut self, name: &str, value: String) {
        match name.to_ascii_lowercase().as_str() {
            "resource_metadata" => drop(self.resource_metadata.get_or_insert(value)),
            "scope" => drop(self.scopes.get_or_insert_with(|| scopes(&value))),
            "error" => drop(self.error.get_or_insert(value)),
            _ => {}
        }
    }
}

/// Returns the scopes of a space-separated list. What RFC 6749, section 3.3 does not allow is left out.
pub(super) fn scopes(list: &str) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in list.split_ascii_whitespace() {
        let is_valid = scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if is_valid && !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

/// Splits off a token.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
    let end = text.bytes().position(|b| !is_part(b)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Splits off the value of a parameter: a token or a quoted string.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[&str]) -> Challenge {
        let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
        Challenge::parse(&headers)
    }

    #[test]
    fn bearer_challenge_is_found_among_others() {
        let expected = Challenge {
            resource_metadata: Some("https://a.test/x?y=1,2".into()),
            scopes: Some(vec!["a".into(), "b:c".into()]),
            error: Some("insufficient_scope".into()),
        };
        for headers in [
            &[
                r#"Bearer error="insufficient_scope", scope="a b:c", resource_metadata="https://a.test/x?y=1,2""#,
            ][..],
            &[
                r#"Basic realm="Bearer scope", bearer scope="a b:c" ,error=insufficient_scope,resource_metadata="https://a.test/x?y=1,2""#,
            ],
            &[
                "Negotiate abc==",
                r#"BEARER  SCOPE = "a b:c" , resource_metadata="https://a.test/x?y=1,2", error="insufficient\_scope", Basic realm="x", error="no""#,
            ],
        ] {
            assert_eq!(parse(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn nonsense_says_nothing() {
        for headers in [&[][..], &[""], &["Basic realm=x"], &["Bearer"], &["=,=\"", "\"\\"], &["é"]]
        {
            assert_eq!(parse(headers), Challenge::default(), "{headers:?}");
        }
    }

    #[test]
    fn unclosed_quote_ends_with_the_header() {
        assert_eq!(parse(&[r#"Bearer error="x, scope="#]).error.as_deref(), Some("x, scope="));
    }

    #[test]
    fn scopes_are_missing_only_where_they_are_named() {
        let scopes = |header: &str| parse(&[header]).missing_scopes().map(<[String]>::len);

        assert_eq!(scopes(r#"Bearer error="insufficient_scope", scope="a b""#), Some(2));
        assert_eq!(scopes(r#"Bearer scope="a""#), Some(1));
        assert_eq!(scopes(r#"Bearer error="invalid_token", scope="a""#), None);
        assert_eq!(scopes(r#"Bearer error="insufficient_scope""#), None);
    }

    #[test]
    fn what_is_no_scope_is_left_out() {
        assert_eq!(scopes("a  b\ta \"c\" d\\e é f"), ["a", "b", "f"]);
    }
}
