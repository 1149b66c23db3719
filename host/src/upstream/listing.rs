//! What an upstream offers: its answer to `initialize` and its lists, as raw items.

use std::sync::Arc;

use bytes::Bytes;

use super::UpstreamError;
use crate::mcp::{Revision, json};

/// An upstream may list this many items of a kind.
const ITEMS_MAX: usize = 20_000;

/// On this many pages.
const PAGES_MAX: usize = 1000;

/// In this many bytes, all pages together: they stay in memory.
const BYTES_MAX: usize = 64 << 20;

/// The lists an upstream may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListKind {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

impl ListKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// Returns the method that lists it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// Returns the member of the result that holds the items.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// Returns the capability a server declares that has it.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }
}

/// What an upstream offers. The items are raw JSON, in its own order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The result of `initialize`.
    pub initialize: Bytes,
    /// By [`ListKind`], in the order of [`ListKind::ALL`].
    lists: [Arc<Vec<Bytes>>; 4],
}

impl Listing {
    /// Returns a listing without items.
    pub fn new(initialize: Bytes) -> Self {
        Self { initialize, lists: Default::default() }
    }

    /// Returns the items of a kind.
    pub fn items(&self, kind: ListKind) -> &Arc<Vec<Bytes>> {
        &self.lists[kind as usize]
    }

    /// Replaces the items of a kind.
    pub fn set(&mut self, kind: ListKind, items: Vec<Bytes>) {
        self.lists[kind as usize] = Arc::new(items);
    }

    /// Returns a capability the upstream declared, as raw JSON.
    pub fn capability(&self, name: &str) -> Option<&[u8]> {
        json::at_path(&self.initialize, &["capabilities", name])
            .map(|range| &self.initialize[range])
    }

    /// Returns the revision it was last talked to in.
    pub fn revision(&self) -> Option<Revision> {
        let range = json::member(&self.initialize, "protocolVersion")?;
        Revision::parse(&json::string(&self.initialize[range])?)
    }

    /// Returns `name/version` from its `serverInfo`.
    pub fn server(&self) -> Option<String> {
        let text = |key| {
            let range = json::at_path(&self.initialize, &["serverInfo", key])?;
            json::string(&self.initialize[range]).map(std::borrow::Cow::into_owned)
        };
        Some(format!("{}/{}", text("name")?, text("version").unwrap_or_default()))
    }

    /// Returns it as JSON, to be remembered.
    pub fn to_json(&self) -> Bytes {
        let mut out = br#"{"initialize":"#.to_vec();
        out.extend_from_slice(&self.initialize);
        for kind in ListKind::ALL {
            out.extend_from_slice(format!(r#","{}":"#, kind.member()).as_bytes());
            push_array(&mut out, self.items(kind).iter());
        }
        out.push(b'}');
        out.into()
    }

    /// Returns what [`Listing::to_json`] made; `None` if it is something else.
    pub fn from_json(text: &Bytes) -> Option<Self> {
        json::validate(text).ok()?;
        let mut listing = Self::new(text.slice(json::member(text, "initialize")?));
        for kind in ListKind::ALL {
            listing.set(kind, items(text, kind)?);
        }
        Some(listing)
    }
}

/// Appends a JSON array of raw items.
pub fn push_array<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a Bytes>) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
}

fn items(result: &Bytes, kind: ListKind) -> Option<Vec<Bytes>> {
    let array = result.slice(json::member(result, kind.member())?);
    Some(json::elements(&array).map(|range| array.slice(range)).collect())
}

/// Gathers all pages of a list. `page` asks for one, after a cursor in raw JSON.
///
/// # Errors
///
/// Those of `page`, and [`UpstreamError::Invalid`] for a result that is no list, or more items, pages or
/// bytes than the limit. A cursor that was there before ends the list: what was gathered is as good as it gets.
pub(super) async fn gather<F>(
    upstream: &str,
    kind: ListKind,
    mut page: impl FnMut(Option<Bytes>) -> F,
) -> Result<Vec<Bytes>, UpstreamError>
where
    F: Future<Output = Result<Bytes, UpstreamError>>,
{
    let invalid = |reason: String| UpstreamError::Invalid { upstream: upstream.to_owned(), reason };
    let mut all = Vec::new();
    let mut bytes = 0;
    let mut cursors: Vec<Bytes> = Vec::new();
    for _ in 0..PAGES_MAX {
        let result = page(cursors.last().cloned()).await?;
        bytes += result.len();
        if bytes > BYTES_MAX {
            let mib = BYTES_MAX >> 20;
            return Err(invalid(format!("`{}` lists more than {mib} MiB", kind.method())));
        }
        // Copied: an item lives long, and must not keep the buffer of its line alive.
        let result = Bytes::copy_from_slice(&result);
        let Some(items) = items(&result, kind) else {
            return Err(invalid(format!(
                "the result of `{}` has no `{}`",
                kind.method(),
                kind.member()
            )));
        };
        all.extend(items);
        if all.len() > ITEMS_MAX {
            return Err(invalid(format!("`{}` lists more than {ITEMS_MAX} items", kind.method())));
        }
        let next = json::member(&result, "nextCursor")
            .map(|range| result.slice(range))
            .filter(|next| next != "null");
        let Some(next) = next else { return Ok(all) };
        if cursors.contains(&next) {
            tracing::warn!("upstream `{upstream}`: `{}` repeats a cursor", kind.method());
            return Ok(all);
        }
        cursors.push(next);
    }
    Err(invalid(format!("`{}` has more than {PAGES_MAX} pages", kind.method())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_listing_comes_back_as_it_was() {
        let mut listing = Listing::new(Bytes::from_static(
            br#"{"serverInfo":{"name":"a","version":"1"},"x":1e400}"#,
        ));
        listing.set(ListKind::Tools, vec![Bytes::from_static(br#"{"name":"t", "z":1}"#)]);
        listing
            .set(ListKind::Templates, vec![Bytes::from_static(b"{}"), Bytes::from_static(b"{}")]);

        assert_eq!(Listing::from_json(&listing.to_json()), Some(listing.clone()));
        assert_eq!(listing.server().as_deref(), Some("a/1"));
        assert_eq!(Listing::from_json(&Bytes::from_static(b"{}")), None);
    }

    async fn gathered(pages: &[&'static str]) -> Result<Vec<Bytes>, UpstreamError> {
        let mut pages = pages.iter();
        gather("up", ListKind::Tools, |_| {
            let page = Bytes::from_static(pages.next().expect("a page").as_bytes());
            async move { Ok(page) }
        })
        .await
    }

    #[tokio::test]
    async fn all_pages_are_gathered_and_an_empty_cursor_is_one() {
        let pages = [
            r#"{"tools":[1],"nextCursor":""}"#,
            r#"{"tools":[2,3],"nextCursor":"b"}"#,
            r#"{"tools":[4]}"#,
        ];
        assert_eq!(gathered(&pages).await.unwrap(), ["1", "2", "3", "4"]);
    }

    #[tokio::test]
    async fn a_list_of_many_long_pages_is_refused() {
        let mut asked = 0;
        let gathered = gather("up", ListKind::Tools, |_| {
            asked += 1;
            let text = "x".repeat(BYTES_MAX / 4);
            let page = format!(r#"{{"tools":["{text}"],"nextCursor":"{asked}"}}"#);
            async move { Ok(page.into()) }
        });
        let error = gathered.await.unwrap_err().to_string();

        assert!(error.contains("`tools/list` lists more than 64 MiB"), "{error}");
        assert_eq!(asked, 4);
    }

    #[tokio::test]
    async fn a_cursor_that_repeats_ends_the_list() {
        let pages = [
            r#"{"tools":[1],"nextCursor":"a"}"#,
            r#"{"tools":[2],"nextCursor":"b"}"#,
            r#"{"tools":[3],"nextCursor":"a"}"#,
        ];
        assert_eq!(gathered(&pages).await.unwrap(), ["1", "2", "3"]);
    }
}
