//! RFC 6570 URI templates, as far as it takes to tell which upstream a URI belongs to.

/// Matching tries combinations, so that templates with more parts match nothing.
const PARTS_MAX: usize = 16;

/// A template, as the literal parts around its expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// An expression; whether its values may hold reserved characters such as `/` (`{+x}`, `{#x}`,
    /// and the operators that put them there themselves).
    Expression {
        reserved: bool,
    },
}

impl Template {
    /// Reads a template; an expression that does not end is literal text.
    pub(super) fn parse(template: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((literal, (expression, after))) = rest
            .split_once('{')
            .and_then(|(literal, after)| Some((literal, after.split_once('}')?)))
        {
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(Part::Expression {
                reserved: expression.starts_with(['+', '#', '/', '?', '&', ';', '.']),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Self { parts }
    }

    /// Returns the number of literal characters if `uri` can be an expansion.
    pub(super) fn matches(&self, uri: &str) -> Option<usize> {
        let literal = |part: &Part| match part {
            Part::Literal(text) => text.len(),
            Part::Expression { .. } => 0,
        };
        (self.parts.len() <= PARTS_MAX && matches(&self.parts, uri))
            .then(|| self.parts.iter().map(literal).sum())
    }
}

/// Tries the places where each literal can stand; templates have few parts.
fn matches(parts: &[Part], uri: &str) -> bool {
    match parts {
        [] => uri.is_empty(),
        [Part::Literal(text), rest @ ..] => {
            uri.strip_prefix(text.as_str()).is_some_and(|uri| matches(rest, uri))
        }
        [Part::Expression { reserved }, rest @ ..] => {
            let end =
                if *reserved { uri.len() } else { uri.find(['/', '?', '#']).unwrap_or(uri.len()) };
            match rest {
                [] => end == uri.len(),
                [Part::Literal(text), ..] => uri
                    .match_indices(text.as_str())
                    .any(|(at, _)| at <= end && matches(rest, &uri[at..])),
                [Part::Expression { .. }, ..] => (0..=end)
                    .filter(|&at| uri.is_char_boundary(at))
                    .any(|at| matches(rest, &uri[at..])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansions_match_and_count_their_literals() {
        for (template, uri, literals) in [
            ("demo://resource/dynamic/text/{id}", "demo://resource/dynamic/text/7", Some(29)),
            ("file:///{+path}", "file:///a/b/c.txt", Some(8)),
            ("file:///{path}", "file:///a/b", None),
            ("x://{a}/{b}", "x://1/2", Some(5)),
            ("x://{a}/{b}", "x://1/2/3", None),
            ("x://{a}{?q,r}", "x://1?q=2&r=3", Some(4)),
            ("x://{a}", "y://1", None),
            ("plain://uri", "plain://uri", Some(11)),
            ("broken://{", "broken://{", Some(10)),
        ] {
            assert_eq!(Template::parse(template).matches(uri), literals, "{template} {uri}");
        }
    }
}
