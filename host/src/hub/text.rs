//! Texts that others chose, as far as the Hub is told them.

/// Returns the beginning of a text without control characters, at most this many bytes when written as
/// JSON, its quotes left out.
pub(super) fn short(text: &str, bytes_max: usize) -> String {
    let mut left = bytes_max;
    let fits = |char: &char| {
        let bytes = match char {
            '"' | '\\' => 2,
            other => other.len_utf8(),
        };
        let rest = left.checked_sub(bytes);
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    text.chars().filter(|char| !char.is_control()).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_longer_than_its_limit_when_it_is_written() {
        let cases = [
            ("files", "files"),
            ("one\ntwo\u{7}\u{1b}[1m\u{9b}", "onetwo[1m"),
            ("0123456789abc", "0123456789"),
            ("ééééééé", "ééééé"),
            ("123456789é", "123456789"),
            (r#""""""""""#, r#"""""""#),
            (r"123456789\", "123456789"),
        ];

        for (text, expected) in cases {
            let short = short(text, 10);
            assert_eq!(short, expected, "{text:?}");
            assert!(serde_json::to_string(&short).unwrap().len() <= 12, "{text:?}");
        }
    }
}
