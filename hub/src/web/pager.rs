//! The links to other pages of a list.

use askama::Template;
use askama::filters::HtmlSafe;

/// Links to the first page and to the next one, where there are such.
#[derive(Template)]
#[template(path = "pager.html")]
pub(crate) struct Pager {
    first: Option<String>,
    next: Option<String>,
    /// What the two are called.
    labels: (&'static str, &'static str),
}

/// Its template escapes.
impl HtmlSafe for Pager {}

impl Pager {
    /// Of a list that is ordered by time.
    pub(crate) fn by_time(first: Option<String>, next: Option<String>) -> Self {
        Self { first, next, labels: ("Newest", "Older") }
    }

    /// Of a list in any other order.
    pub(crate) fn by_order(first: Option<String>, next: Option<String>) -> Self {
        Self { first, next, labels: ("First page", "Next page") }
    }
}
