//! What is around every page: navigation, who is there, the token of forms.

use super::text::Text;
use super::{Viewing, assets};

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

/// A link of the navigation.
pub(crate) struct Link {
    pub(crate) href: String,
    pub(crate) label: &'static str,
    /// Of the symbol beside it, in `layout.html`.
    pub(crate) icon: &'static str,
    pub(crate) current: bool,
}

/// A workspace one can switch to.
pub(crate) struct Place {
    pub(crate) href: String,
    pub(crate) name: Text,
    /// Team and organization.
    pub(crate) of: Text,
    pub(crate) current: bool,
}

const PAGES: [(Tab, &str, &str); 4] = [
    (Tab::Gateways, "gateways", "Gateways"),
    (Tab::Traces, "traces", "Traces"),
    (Tab::Servers, "servers", "Servers"),
    (Tab::Audit, "audit", "Audit"),
];

impl Frame {
    pub(crate) fn asset(&self, name: &str) -> String {
        assets::path(name)
    }

    pub(crate) fn is_settings(&self) -> bool {
        self.tab == Tab::Settings
    }

    /// On one's own machine: there are no accounts.
    pub(crate) fn is_local(&self) -> bool {
        self.viewing.as_ref().is_some_and(|viewing| viewing.account.is_none())
    }

    /// What stands behind the title in the browser's window.
    pub(crate) fn product(&self) -> &'static str {
        let account = self.viewing.as_ref().and_then(|viewing| viewing.account.as_ref());
        if account.is_some() { "Ultra Hub" } else { "Ultra" }
    }

    pub(crate) fn title(&self) -> Text {
        Text::from(&self.title)
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        let Some(viewing) = &self.viewing else { return Vec::new() };
        let link = |(tab, path, label)| Link {
            href: format!("/w/{}/{path}", viewing.entry.workspace),
            label,
            icon: path,
            current: self.tab == tab,
        };
        PAGES.map(link).into()
    }

    /// The workspaces, the current one among them. The page stays the same.
    pub(crate) fn places(&self) -> Vec<Place> {
        let Some(viewing) = &self.viewing else { return Vec::new() };
        let page = PAGES.iter().find(|(tab, ..)| *tab == self.tab).map_or("gateways", |of| of.1);
        let place = |entry: &crate::access::Entry| Place {
            href: format!("/w/{}/{page}", entry.workspace),
            name: Text::from(&entry.workspace_name),
            of: Text::line(&format!("{} · {}", entry.organization_name, entry.team_name)),
            current: entry.workspace == viewing.entry.workspace,
        };
        viewing.entries.iter().map(place).collect()
    }

    /// Name of the workspace.
    pub(crate) fn place(&self) -> Option<Text> {
        self.viewing.as_ref().map(|viewing| Text::from(&viewing.entry.workspace_name))
    }

    /// Name of who is there, or the address.
    pub(crate) fn person(&self) -> Option<Text> {
        let account = self.viewing.as_ref()?.account.as_ref()?;
        Some(Text::from(if account.name.is_empty() { &account.email } else { &account.name }))
    }

    pub(crate) fn email(&self) -> Option<Text> {
        Some(Text::from(&self.viewing.as_ref()?.account.as_ref()?.email))
    }

    /// The token of forms.
    pub(crate) fn csrf(&self) -> &str {
        self.viewing.as_ref().map_or("", |viewing| &viewing.csrf)
    }

    /// Where the page hears that there is something new.
    pub(crate) fn live(&self) -> Option<String> {
        let viewing = self.viewing.as_ref().filter(|_| self.tab != Tab::None)?;
        (self.tab != Tab::Settings).then(|| format!("/w/{}/live", viewing.entry.workspace))
    }
}
