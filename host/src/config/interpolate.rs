//! `${VAR}` and `${VAR:-default}` in values; `$${` writes a literal `${`.

/// Variables that say where things are, not what nobody may know: their values are no secrets.
const PUBLIC: [&str; 12] = [
    "HOME",
    "USER",
    "LOGNAME",
    "PWD",
    "SHELL",
    "PATH",
    "LANG",
    "TERM",
    "TMPDIR",
    "HOSTNAME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
];

/// A value with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpolated {
    /// The value.
    pub text: String,
    /// Values of variables that may be secret.
    pub secrets: Vec<String>,
}

/// Why a value cannot be interpolated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InterpolateError {
    /// The variable has no value and there is no default.
    Unset(String),
    /// A `${` without its `}`.
    Unclosed,
    /// What stands between the braces is no name.
    Name(String),
}

/// Replaces the variables in `text` by what `lookup` knows of them.
///
/// As in a shell, the default applies to a variable that is unset or empty. It is taken literally
/// and ends at the first `}`.
pub(super) fn interpolate<'e>(
    text: &str,
    lookup: impl Fn(&str) -> Option<&'e str>,
) -> Result<Interpolated, InterpolateError> {
    let mut out = Interpolated { text: String::with_capacity(text.len()), secrets: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.text.push_str(before);
            out.text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.text.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let end = inside.find('}').ok_or(InterpolateError::Unclosed)?;
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        if !is_name(name) {
            return Err(InterpolateError::Name(inside[..end].to_owned()));
        }
        match (lookup(name), default) {
            (None | Some(""), Some(default)) => out.text.push_str(default),
            (Some(value), _) => {
                out.text.push_str(value);
                if !PUBLIC.contains(&name) {
                    out.secrets.push(value.to_owned());
                }
            }
            (None, None) => return Err(InterpolateError::Unset(name.to_owned())),
        }
        rest = &inside[end + 1..];
    }
    out.text.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<&'static str> {
        match name {
            "TOKEN" => Some("s3cret"),
            "HOME" => Some("/home/ada"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes_are_replaced() {
        for (text, expected) in [
            ("plain $TOKEN $$ $", "plain $TOKEN $$ $"),
            ("Bearer ${TOKEN}!", "Bearer s3cret!"),
            ("${HOME}/x${TOKEN}", "/home/ada/xs3cret"),
            ("${NONE:-a:-b}", "a:-b"),
            ("${EMPTY:-x}${EMPTY}", "x"),
            ("${NONE:-}", ""),
            ("$${TOKEN} ${TOKEN}", "${TOKEN} s3cret"),
            ("$$${TOKEN}", "$${TOKEN}"),
        ] {
            assert_eq!(interpolate(text, env).unwrap().text, expected, "{text}");
        }
    }

    #[test]
    fn values_are_secret_unless_they_name_a_place() {
        assert_eq!(interpolate("${HOME}/${TOKEN}", env).unwrap().secrets, ["s3cret"]);
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        assert_eq!(interpolate("a ${NONE}", env), Err(InterpolateError::Unset("NONE".into())));
        assert_eq!(interpolate("a ${NONE", env), Err(InterpolateError::Unclosed));
        assert_eq!(interpolate("${a b}", env), Err(InterpolateError::Name("a b".into())));
        assert_eq!(interpolate("${}", env), Err(InterpolateError::Name(String::new())));
    }
}
