//! A page as a browser understands it.

use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

/// An element: its name, and its attributes in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    /// The text within it.
    pub(super) text: String,
}

impl Element {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has_class(&self, class: &str) -> bool {
        self.get("class").is_some_and(|classes| classes.split(' ').any(|of| of == class))
    }

    /// Its name and those of its attributes.
    pub(super) fn shape(&self) -> String {
        let names = self.attributes.iter().map(|(name, _)| name.as_str());
        // Choices are in the order of their names, and so the chosen one is somewhere else.
        let names = names.filter(|name| (&*self.name, *name) != ("option", "selected"));
        format!("{} {}", self.name, names.collect::<Vec<_>>().join(" "))
    }
}

/// Returns the elements of a page, in their order.
pub(super) fn elements(html: &str) -> Vec<Element> {
    let dom =
        parse_document(RcDom::default(), ParseOpts::default()).from_utf8().one(html.as_bytes());
    let mut found = Vec::new();
    collect(&dom.document, &mut found);
    found
}

/// Returns the text of each element with this class.
pub(super) fn texts(html: &str, class: &str) -> Vec<String> {
    let all = elements(html).into_iter().filter(|element| element.has_class(class));
    all.map(|element| element.text.trim().to_owned()).collect()
}

/// Returns the names of the rows of a list.
pub(super) fn names(html: &str) -> Vec<String> {
    texts(html, "open")
}

/// Returns the address of the first link with this text, such as `Next page`.
pub(super) fn link(html: &str, text: &str) -> Option<String> {
    let all = elements(html).into_iter().filter(|element| element.name == "a");
    let mut all = all.filter(|element| element.text.trim() == text);
    all.next().and_then(|element| element.get("href").map(str::to_owned))
}

fn collect(node: &Handle, found: &mut Vec<Element>) {
    if let NodeData::Element { name, attrs, .. } = &node.data {
        let attributes = attrs.borrow();
        let attributes = attributes
            .iter()
            .map(|attribute| (attribute.name.local.to_string(), attribute.value.to_string()));
        found.push(Element {
            name: name.local.to_string(),
            attributes: attributes.collect(),
            text: text(node),
        });
    }
    for child in node.children.borrow().iter() {
        collect(child, found);
    }
}

fn text(node: &Handle) -> String {
    if let NodeData::Text { contents } = &node.data {
        return contents.borrow().to_string();
    }
    node.children.borrow().iter().map(text).collect()
}
