//! Members put into raw objects and taken out of them; all others stay as they are, in their order.

use super::json;

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

/// Returns the object without these members.
pub fn remove(object: &[u8], keys: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len());
    out.push(b'{');
    let is_removed = |key: &[u8]| keys.iter().any(|removed| is_named(key, removed));
    for (key, value) in json::members(object).filter(|(key, _)| !is_removed(key)) {
        push(&mut out, key, &object[value]);
    }
    out.push(b'}');
    out
}

/// Returns whether a key, as it stands between its quotes, is this name.
fn is_named(key: &[u8], name: &str) -> bool {
    match memchr::memchr(b'\\', key) {
        None => key == name.as_bytes(),
        Some(_) => json::string(&[b"\"", key, b"\""].concat()).is_some_and(|key| key == name),
    }
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
