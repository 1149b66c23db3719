//! A YAML document as a tree whose nodes know where they stand.
//!
//! Built from the parser's events, not with a ready-made tree, because those forget what is needed
//! here: the second of two equal keys, the columns, and whether a node has an anchor. Tags and merge
//! keys are refused: a config file has no use for them, and ignoring them would be wrong quietly.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::Problem;

/// Deeper nesting is refused: no config comes near it, and later passes may recurse.
const DEPTH_MAX: usize = 32;

/// More nodes are refused: aliases of aliases grow exponentially.
const NODES_MAX: usize = 100_000;

/// Where something stands, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Position,
    /// Bytes of the text. For a scalar exactly its own; for a block collection only the start counts.
    pub span: Range<usize>,
    /// Whether it has an anchor or came by an alias: an edit would change more than one place.
    pub shared: bool,
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Text and how it is written.
    Scalar {
        text: String,
        style: Style,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is: can mean a number, a truth value or nothing.
    Plain,
    /// Between quotes.
    Quoted,
    /// Below a `|` or `>`, where its span begins too late to replace it.
    Block,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub at: Position,
    pub span: Range<usize>,
    pub value: Node,
}

/// What a text holds.
#[derive(Debug)]
pub(super) struct Document {
    /// Nothing if the text is empty or all comments.
    pub root: Option<Node>,
    /// Keys that stand twice in one mapping. The tree holds the first of each.
    pub duplicates: Vec<Problem>,
}

impl Node {
    /// Whether it says that there is no value.
    pub(super) fn is_null(&self) -> bool {
        let Kind::Scalar { text, style: Style::Plain } = &self.kind else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Returns the value as JSON, plain scalars by YAML's core schema.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
            Kind::Scalar { text, style: Style::Quoted | Style::Block } => text.as_str().into(),
            Kind::Scalar { .. } if self.is_null() => serde_json::Value::Null,
            Kind::Scalar { text, style: Style::Plain } => plain_to_json(text),
        }
    }
}

impl Kind {
    /// Returns the name of the kind for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Scalar { .. } => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

fn plain_to_json(text: &str) -> serde_json::Value {
    let radix = |prefix: &str, radix| i64::from_str_radix(text.strip_prefix(prefix)?, radix).ok();
    let looks_numeric =
        text.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
    match text {
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    if let Some(number) =
        text.parse::<i64>().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8))
    {
        return number.into();
    }
    match text.parse::<f64>().ok().filter(|_| looks_numeric).and_then(serde_json::Number::from_f64)
    {
        Some(number) => number.into(),
        None => text.into(),
    }
}

/// Reads the one document of a text.
///
/// # Errors
///
/// The first thing that is no YAML, or YAML that is not taken here: a second document, tags, merge
/// keys, keys that are no plain values, more than [`DEPTH_MAX`] levels.
pub(super) fn parse(text: &str) -> Result<Document, Problem> {
    let offsets = Offsets::of(text);
    let mut builder = Builder::new(&offsets);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let at = position(*error.marker());
            Problem::at(at, format!("not valid YAML: {}", error.info()))
        })?;
        builder.event(event, span)?;
    }
    Ok(Document { root: builder.root, duplicates: builder.duplicates })
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

/// Byte offset of each character, because the parser counts characters.
struct Offsets(Vec<usize>);

impl Offsets {
    fn of(text: &str) -> Self {
        Self(text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
    }

    fn byte(&self, marker: Marker) -> usize {
        let last = self.0.len() - 1;
        self.0[marker.index().min(last)]
    }

    fn range(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start);
        start..self.byte(span.end).max(start)
    }
}

/// A collection that is being read.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value is still to come.
    key: Option<Key>,
    /// Keys so far, with their lines.
    keys: HashMap<String, usize>,
}

struct Key {
    text: String,
    at: Position,
    span: Range<usize>,
    duplicate: bool,
}

struct Builder<'o> {
    offsets: &'o Offsets,
    stack: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    duplicates: Vec<Problem>,
    documents: usize,
    nodes: usize,
}

impl<'o> Builder<'o> {
    fn new(offsets: &'o Offsets) -> Self {
        Self {
            offsets,
            stack: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            duplicates: Vec::new(),
            documents: 0,
            nodes: 0,
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = position(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(Problem::at(at, "a second document").hint("a config file holds one")),
                }
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(Problem::at(at, "an alias inside of what it names"));
                };
                let (nodes, depth) = measure(node);
                let node = Node {
                    at,
                    span: self.offsets.range(span),
                    shared: true,
                    kind: node.kind.clone(),
                };
                self.bound(at, nodes, depth)?;
                self.close(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), at)?;
                self.bound(at, 1, 0)?;
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let kind = Kind::Scalar { text: text.into_owned(), style };
                self.close(
                    Node { at, span: self.offsets.range(span), shared: anchor > 0, kind },
                    anchor,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some(), at)?;
                self.open(Kind::List(Vec::new()), anchor, span)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some(), at)?;
                self.open(Kind::Map(Vec::new()), anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(mut open) = self.stack.pop() else {
                    return Err(Problem::at(at, "an end without a beginning"));
                };
                // Of a bracket the parser's span also covers what follows; a block's end is empty.
                let end = self.offsets.byte(span.start) + usize::from(!span.is_empty());
                open.node.span.end = end.max(open.node.span.start);
                self.close(open.node, open.anchor)
            }
        }
    }

    fn open(&mut self, kind: Kind, anchor: usize, span: Span) -> Result<(), Problem> {
        let at = position(span.start);
        self.bound(at, 1, 1)?;
        let node = Node { at, span: self.offsets.range(span), shared: anchor > 0, kind };
        self.stack.push(Open { node, anchor, key: None, keys: HashMap::new() });
        Ok(())
    }

    /// Accounts for nodes that are about to be added.
    fn bound(&mut self, at: Position, nodes: usize, depth: usize) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Problem::at(at, format!("more than {NODES_MAX} values")));
        }
        if self.stack.len() + depth > DEPTH_MAX {
            return Err(Problem::at(at, format!("more than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    /// Takes a node that is complete: a key, a value, an item or the root.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.kind, open.key.take()) {
            (Kind::List(items), _) => items.push(node),
            (Kind::Map(entries), Some(key)) => {
                if !key.duplicate {
                    entries.push(Entry { key: key.text, at: key.at, span: key.span, value: node });
                }
            }
            (Kind::Map(_), None) => {
                let Kind::Scalar { text, style } = node.kind else {
                    return Err(Problem::at(node.at, "a key must be a plain name"));
                };
                if style == Style::Plain && text == "<<" {
                    return Err(Problem::at(node.at, "merge keys (`<<`) are not supported")
                        .hint("write the keys out"));
                }
                let first = open.keys.get(&text).copied();
                match first {
                    None => drop(open.keys.insert(text.clone(), node.at.line)),
                    Some(line) => self.duplicates.push(
                        Problem::at(node.at, format!("the key `{text}` stands twice"))
                            .hint(format!("it is already on line {line}")),
                    ),
                }
                let duplicate = first.is_some();
                open.key = Some(Key { text, at: node.at, span: node.span, duplicate });
            }
            (Kind::Scalar { .. }, _) => {
                return Err(Problem::at(node.at, "a value inside of a value"));
            }
        }
        Ok(())
    }
}

fn refuse_tag(tagged: bool, at: Position) -> Result<(), Problem> {
    if tagged {
        return Err(
            Problem::at(at, "YAML tags are not supported").hint("quote the value if it is text")
        );
    }
    Ok(())
}

/// Returns how many nodes a tree has and how many collections stand inside of each other.
fn measure(node: &Node) -> (usize, usize) {
    let (children, collection): (Vec<&Node>, usize) = match &node.kind {
        Kind::Scalar { .. } => (Vec::new(), 0),
        Kind::List(items) => (items.iter().collect(), 1),
        Kind::Map(entries) => (entries.iter().map(|entry| &entry.value).collect(), 1),
    };
    children
        .into_iter()
        .map(measure)
        .fold((1, collection), |(nodes, depth), (more, inner)| (nodes + more, depth.max(inner + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys and scalars as `line:column text`, with the text their spans cut out.
    fn flatten(text: &str, node: &Node, out: &mut Vec<String>) {
        match &node.kind {
            Kind::Scalar { .. } => {
                out.push(format!(
                    "{}:{} {}",
                    node.at.line,
                    node.at.column,
                    &text[node.span.clone()]
                ));
            }
            Kind::List(items) => items.iter().for_each(|item| flatten(text, item, out)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                out.push(format!(
                    "{}:{} {}:",
                    entry.at.line,
                    entry.at.column,
                    &text[entry.span.clone()]
                ));
                flatten(text, &entry.value, out);
            }),
        }
    }

    #[test]
    fn every_node_knows_where_it_stands() {
        let text = "# ünïcode\r\na: 'x y'\r\nb:\r\n  - 1\r\n  - {c: \"ü\", d: é}\r\ne: | # why\r\n  text\r\n\r\n# end\r\nf:\r\n";
        let mut out = Vec::new();

        flatten(text, &parse(text).unwrap().root.unwrap(), &mut out);

        assert_eq!(
            out,
            [
                "2:1 a:",
                "2:4 'x y'",
                "3:1 b:",
                "4:5 1",
                "5:6 c:",
                "5:9 \"ü\"",
                "5:14 d:",
                "5:17 é",
                "6:1 e:",
                "7:3 text\r\n\r\n",
                "10:1 f:",
                "10:2 "
            ]
        );
    }

    #[test]
    fn second_of_two_keys_is_reported_and_ignored() {
        let document = parse("a: 1\nb: 2\na: 3\n").unwrap();

        assert_eq!(document.duplicates.len(), 1);
        assert_eq!(document.duplicates[0].to_string(), "3:1: the key `a` stands twice");
        assert_eq!(document.root.unwrap().to_json(), serde_json::json!({"a": 1, "b": 2}));
    }

    #[test]
    fn what_is_not_taken_is_refused_with_its_place() {
        for (text, expected) in [
            ("a: [1, 2", "2:1"),
            ("a: 1\n---\nb: 2", "2:1: a second document"),
            ("a: !!str 1", "1:4: YAML tags are not supported"),
            ("x: &x {a: 1}\ny:\n  <<: *x\n", "3:3: merge keys (`<<`) are not supported"),
            ("? [a]\n: b\n", "1:3: a key must be a plain name"),
            (&"[".repeat(40), "1:33: more than 32 levels"),
            ("a: *nope", "1:4"),
        ] {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }

    /// Nine levels of nine aliases each are 400 million nodes.
    #[test]
    fn aliases_of_aliases_do_not_explode() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }

        assert!(parse(&text).unwrap_err().to_string().ends_with("more than 100000 values"));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let document =
            parse("[1, 0x10, -2.5, true, 'true', null, ~, 1.2.3, v1, 1e3, yes, \"\"]").unwrap();

        assert_eq!(
            document.root.unwrap().to_json(),
            serde_json::json!([
                1, 16, -2.5, true, "true", null, null, "1.2.3", "v1", 1000.0, "yes", ""
            ])
        );
    }

    #[test]
    fn empty_texts_have_no_root_or_a_null() {
        for text in ["", "# nothing\n", "---\n", "\n\n"] {
            assert!(parse(text).unwrap().root.is_none_or(|root| root.is_null()), "{text:?}");
        }
    }
}
