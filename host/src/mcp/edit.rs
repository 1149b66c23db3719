//! Members put into raw objects and taken out of them; all others stay as they are, in their order.

use super::json::{self, is_named};

/// Returns the object with these members, each as raw JSON. Empty text counts as `{}`.
pub fn set(object: &[u8], members: &[(&str, &[u8])]) -> Vec<u8> {
    let added: usize = members.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(object.len() + added + 2);
    out.push(b'{');
    for &(key, value) in members {
        push(&mut out, key.as_bytes(), value);
    }
    let is_set = |key: &[u8]| members.iter().any(|(set, _)| is_named(key, set));
    for (key, value) in json::members(object).filter(|(key, _)| !is_set(key)) {
        push(&mut out, key, &object[value]);
    }
    out.push(b'}');
    out
}

/// Returns the object with these members before its own, of which it has none by these names.
pub fn put_first(object: &[u8], members: &[(&str, &[u8])]) -> Vec<u8> {
    let rest = object.trim_ascii_start().strip_prefix(b"{").unwrap_or(b"}");
    let added: usize = members.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(rest.len() + added + 2);
    out.push(b'{');
    for &(key, value) in members {
        push(&mut out, key.as_bytes(), value);
    }
    if out.len() > 1 && !rest.trim_ascii_start().starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(rest);
    out
}

/// What becomes of a member.
pub enum Rewrite {
    /// It stays as it is.
    Keep,
    /// It is taken out.
    Remove,
    /// It has this value, as raw JSON.
    Replace(Vec<u8>),
}

/// Returns the object without these members.
pub fn remove(object: &[u8], keys: &[&str]) -> Vec<u8> {
    rewrite(object, |key, _| match keys.iter().any(|removed| is_named(key, removed)) {
        true => Rewrite::Remove,
        false => Rewrite::Keep,
    })
}

/// Returns the object with each member as `what` says. It is given keys as they stand between their
/// quotes, and values as raw JSON.
pub fn rewrite(object: &[u8], what: impl Fn(&[u8], &[u8]) -> Rewrite) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len());
    out.push(b'{');
    for (key, range) in json::members(object) {
        let value = &object[range];
        match what(key, value) {
            Rewrite::Keep => push(&mut out, key, value),
            Rewrite::Replace(value) => push(&mut out, key, &value),
            Rewrite::Remove => {}
        }
    }
    out.push(b'}');
    out
}

/// `key` is as it stands between its quotes.
fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn members_are_replaced_or_put_first() {
        let object = br#"{ "a": 1e400, "b" : [1, 2] }"#;
        assert_eq!(text(set(object, &[("b", b"2"), ("c", b"{}")])), r#"{"b":2,"c":{},"a":1e400}"#);
        assert_eq!(text(set(b"", &[("a", b"1")])), r#"{"a":1}"#);
        assert_eq!(text(set(b"{}", &[])), "{}");
    }

    #[test]
    fn members_are_removed_and_others_stay_as_written() {
        let object = br#"{"a":1,"b\u00e9":{"a" : 2},"c":null}"#;
        assert_eq!(text(remove(object, &["a", "c"])), r#"{"b\u00e9":{"a" : 2}}"#);
        assert_eq!(text(remove(b"{}", &["a"])), "{}");
        assert_eq!(text(remove(br#"{"a\/b":1,"c":2}"#, &["a/b"])), r#"{"c":2}"#);
    }
}
