//! What is around every page: navigation, who is there, the token of forms.

use super::Viewing;

/// The part of the site that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Gateways,
    Traces,
    Audit,
    Servers,
    Settings,
    /// Sign-in and the like: no navigation.
    None,
}

/// What `layout.html` needs; a field named `frame` of each page's template.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Of the browser's window.
    pub(crate) title: String,
    pub(crate) tab: Tab,
    /// Nobody on pages to sign in.
    pub(crate) viewing: Option<Viewing>,
}
