//! What all upstreams offer, in one: tables from exposed names to owners, and the lists as bytes,
//! ready to be sent. Immutable; a change makes a new one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::template::Template;
use super::{Naming, builtin, name};
use crate::mcp::{Era, json, modern};
use crate::upstream::{ListKind, Listing, Upstream, push_array};

/// Of the `instructions` of all upstreams together, so much is passed on: clients put them into
/// every prompt.
const INSTRUCTIONS_BYTES_MAX: usize = 16 << 10;

/// Who owns a name, and what it calls it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The owner.
    pub upstream: Arc<Upstream>,
    /// The owner's own name for it.
    pub name: Arc<str>,
    /// The same, as a raw JSON string.
    pub quoted: Bytes,
}

/// What all upstreams offer.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: HashMap<String, Route>,
    prompts: HashMap<String, Route>,
    resources: HashMap<String, Vec<Arc<Upstream>>>,
    templates: Vec<(Template, Arc<Upstream>)>,
    template_uris: HashMap<String, Vec<Arc<Upstream>>>,
    /// Results of the list methods, by [`ListKind`].
    lists: [Bytes; 4],
}

impl Catalog {
    /// Returns the catalog of upstreams in the order of the config, each in its own order.
    pub fn new(upstreams: &[Arc<Upstream>], server_name: &str, naming: Naming) -> Self {
        let names = Names::new(upstreams, server_name, naming);
        let mut catalog = Self::default();
        let mut merged: [Vec<Bytes>; 4] = Default::default();
        for upstream in upstreams {
            let Some(listing) = upstream.listing() else { continue };
            for item in listing.items(ListKind::Tools).iter() {
                merged[0].extend(add_named(&mut catalog.tools, upstream, item, &names, "tool"));
            }
            for item in listing.items(ListKind::Prompts).iter() {
                merged[1].extend(add_named(&mut catalog.prompts, upstream, item, &names, "prompt"));
            }
            for item in listing.items(ListKind::Resources).iter() {
                if let Some(uri) = text_member(item, "uri") {
                    catalog.resources.entry(uri).or_default().push(Arc::clone(upstream));
                    merged[2].push(item.clone());
                }
            }
            for item in listing.items(ListKind::Templates).iter() {
                if let Some(uri) = text_member(item, "uriTemplate") {
                    catalog.templates.push((Template::parse(&uri), Arc::clone(upstream)));
                    catalog.template_uris.entry(uri).or_default().push(Arc::clone(upstream));
                    merged[3].push(item.clone());
                }
            }
        }
        if naming != Naming::Own {
            merged[0].extend_from_slice(builtin::tools());
        }
        for (kind, items) in ListKind::ALL.into_iter().zip(&merged) {
            let mut list = format!("{{\"{}\":", kind.member()).into_bytes();
            push_array(&mut list, items.iter());
            list.push(b'}');
            catalog.lists[kind as usize] = list.into();
        }
        catalog
    }

    /// Returns the result of a list method.
    pub fn list(&self, kind: ListKind) -> &Bytes {
        &self.lists[kind as usize]
    }

    /// Returns the owner of an exposed tool name.
    pub fn tool(&self, exposed: &str) -> Option<&Route> {
        self.tools.get(exposed)
    }

    /// Returns the owner of an exposed prompt name.
    pub fn prompt(&self, exposed: &str) -> Option<&Route> {
        self.prompts.get(exposed)
    }

    /// Returns the number of tools, ours included.
    pub fn tools_count(&self) -> usize {
        self.tools.len() + builtin::tools().len()
    }

    /// Returns the upstreams that list a URI.
    pub fn resource(&self, uri: &str) -> &[Arc<Upstream>] {
        self.resources.get(uri).map_or(&[], Vec::as_slice)
    }

    /// Returns the upstreams that list a template, by its exact text.
    pub fn template(&self, uri_template: &str) -> &[Arc<Upstream>] {
        self.template_uris.get(uri_template).map_or(&[], Vec::as_slice)
    }

    /// Returns the upstreams with the best template for a URI: the one with most literal characters.
    pub fn template_for(&self, uri: &str) -> Vec<Arc<Upstream>> {
        let mut best = (0, Vec::<Arc<Upstream>>::new());
        for (template, upstream) in &self.templates {
            let Some(literals) = template.matches(uri) else { continue };
            if literals > best.0 || best.1.is_empty() {
                best = (literals, vec![Arc::clone(upstream)]);
            } else if literals == best.0 && best.1.iter().all(|other| other.name != upstream.name) {
                best.1.push(Arc::clone(upstream));
            }
        }
        best.1
    }
}

/// The names things are exposed under.
struct Names {
    naming: Naming,
    budget: usize,
    /// Names that several upstreams have, of tools and prompts alike.
    shared: HashSet<String>,
}

impl Names {
    fn new(upstreams: &[Arc<Upstream>], server_name: &str, naming: Naming) -> Self {
        let mut owners = HashMap::new();
        let mut shared = HashSet::from([builtin::STATUS.to_owned()]);
        let listings =
            upstreams.iter().filter_map(|upstream| Some((upstream, upstream.listing()?)));
        for (upstream, listing) in listings.filter(|_| naming == Naming::OnCollision) {
            for item in [ListKind::Tools, ListKind::Prompts]
                .iter()
                .flat_map(|kind| listing.items(*kind).iter())
            {
                let Some(name) = text_member(item, "name") else { continue };
                let owner =
                    owners.entry(name.clone()).or_insert_with(|| Arc::clone(&upstream.name));
                if *owner != upstream.name {
                    shared.insert(name);
                }
            }
        }
        Self { naming, budget: name::budget(server_name), shared }
    }

    fn expose(&self, upstream: &str, original: &str) -> String {
        match self.naming {
            Naming::Own => original.to_owned(),
            Naming::OnCollision if !self.shared.contains(original) => original.to_owned(),
            Naming::OnCollision | Naming::Prefixed => name::expose(upstream, original, self.budget),
        }
    }
}

/// Adds a tool or prompt under its exposed name and returns the item that shows it. The first of two
/// with one name stays.
fn add_named(
    table: &mut HashMap<String, Route>,
    upstream: &Arc<Upstream>,
    item: &Bytes,
    names: &Names,
    kind: &str,
) -> Option<Bytes> {
    let range = json::member(item, "name")?;
    let quoted = item.slice(range.clone());
    let original = json::string(&quoted)?.into_owned();
    let exposed = names.expose(&upstream.name, &original);
    let short = !exposed.ends_with(&original);
    if table.contains_key(&exposed) {
        tracing::warn!(upstream = %upstream.name, name = original, "a second {kind} of this name is left out");
        return None;
    }
    if short {
        tracing::debug!(upstream = %upstream.name, name = original, exposed, "{kind} shown under a short name");
    }
    let shown = match exposed == original {
        true => item.to_vec(),
        false => json::splice(item, &[(range, format!("\"{exposed}\"").into())]),
    };
    table.insert(exposed, Route { upstream: Arc::clone(upstream), name: original.into(), quoted });
    Some(shown.into())
}

fn text_member(item: &[u8], key: &str) -> Option<String> {
    json::member(item, key)
        .and_then(|range| json::string(&item[range]).map(std::borrow::Cow::into_owned))
}

/// What upstreams say of themselves, as one server. All of it is raw JSON.
pub struct Introduction {
    /// Capabilities.
    pub capabilities: String,
    /// How to use it.
    pub instructions: Option<String>,
    /// Who it is, where that is not us.
    pub info: Option<String>,
}

/// Returns what to answer `initialize` with.
///
/// Upstreams that are not known yet may have anything, so that nothing of theirs is lost.
pub fn merge(upstreams: &[Arc<Upstream>], naming: Naming, era: Era) -> Introduction {
    let listings: Vec<_> =
        upstreams.iter().map(|upstream| (upstream, upstream.listing())).collect();
    let unknown = listings.iter().any(|(_, listing)| listing.is_none());
    let known: Vec<(&Arc<Upstream>, &Arc<Listing>)> = listings
        .iter()
        .filter_map(|(upstream, listing)| Some((*upstream, listing.as_ref()?)))
        .collect();
    let capabilities = capabilities(&known, unknown, era);
    match (naming, &known[..]) {
        // By its own name in everything.
        (Naming::Own, [(_, listing)]) => Introduction {
            capabilities,
            instructions: raw_member(&listing.initialize, &["instructions"]),
            info: raw_member(&listing.initialize, &["serverInfo"])
                .or_else(|| raw_member(&listing.initialize, &["_meta", modern::SERVER_INFO])),
        },
        _ => Introduction { capabilities, instructions: instructions(&known), info: None },
    }
}

fn raw_member(json: &[u8], path: &[&str]) -> Option<String> {
    let range = json::at_path(json, path)?;
    Some(String::from_utf8_lossy(&json[range]).into_owned())
}

fn capabilities(known: &[(&Arc<Upstream>, &Arc<Listing>)], unknown: bool, era: Era) -> String {
    let first = |name| known.iter().find_map(|(_, listing)| listing.capability(name));
    let any = |name| unknown || first(name).is_some();
    let mut members = vec![r#""tools":{"listChanged":true}"#.to_owned()];
    if any("prompts") {
        members.push(r#""prompts":{"listChanged":true}"#.to_owned());
    }
    if any("resources") {
        let subscribes = known.iter().any(|(_, listing)| {
            let subscribe = listing.capability("resources").and_then(|resources| {
                json::member(resources, "subscribe").map(|range| &resources[range])
            });
            subscribe == Some(b"true")
        });
        let subscribe = if unknown || subscribes { r#""subscribe":true,"# } else { "" };
        members.push(format!(r#""resources":{{{subscribe}"listChanged":true}}"#));
    }
    for name in ["completions", "logging"] {
        if any(name) {
            members.push(format!(r#""{name}":{{}}"#));
        }
    }
    if let (Some(tasks), Era::Legacy) = (first("tasks"), era) {
        members.push(format!(r#""tasks":{}"#, String::from_utf8_lossy(tasks)));
    }
    let extensions = extensions(known, era);
    if !extensions.is_empty() {
        members.push(format!(r#""extensions":{{{}}}"#, extensions.join(",")));
    }
    // What we do not know cannot be merged; from a single upstream it needs not be.
    if let ([(_, listing)], false) = (known, unknown)
        && let Some(range) = json::member(&listing.initialize, "capabilities")
    {
        let all = &listing.initialize[range];
        let ours =
            ["tools", "prompts", "resources", "completions", "logging", "tasks", "extensions"];
        for (key, value) in json::members(all) {
            let key = String::from_utf8_lossy(key);
            if !ours.contains(&key.as_ref()) {
                members.push(format!("\"{key}\":{}", String::from_utf8_lossy(&all[value])));
            }
        }
    }
    format!("{{{}}}", members.join(","))
}

/// Returns the extensions of all upstreams, but for those about which they do not agree.
fn extensions(known: &[(&Arc<Upstream>, &Arc<Listing>)], era: Era) -> Vec<String> {
    let mut merged = BTreeMap::new();
    for (_, listing) in known {
        let extensions = listing.capability("extensions").unwrap_or(b"{}");
        for (key, value) in json::members(extensions) {
            let value = &extensions[value];
            let same = merged.entry(key.to_vec()).or_insert_with(|| Some(value.to_vec()));
            if same.as_deref() != Some(value) {
                *same = None;
            }
        }
    }
    // Tasks of the modern era are not those of 2025-11-25.
    merged.retain(|key, _| era == Era::Modern || key != modern::TASKS.as_bytes());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    merged
        .into_iter()
        .filter_map(|(key, value)| Some(format!("\"{}\":{}", text(&key), text(&value?))))
        .collect()
}

fn instructions(known: &[(&Arc<Upstream>, &Arc<Listing>)]) -> Option<String> {
    let mut joined = String::new();
    for (upstream, listing) in known {
        let Some(text) =
            text_member(&listing.initialize, "instructions").filter(|text| !text.is_empty())
        else {
            continue;
        };
        if !joined.is_empty() {
            joined.push_str("\n\n");
        }
        joined.push_str(&format!("# {}\n\n{text}", upstream.name));
    }
    if joined.len() > INSTRUCTIONS_BYTES_MAX {
        let end =
            (0..=INSTRUCTIONS_BYTES_MAX).rev().find(|&at| joined.is_char_boundary(at)).unwrap_or(0);
        joined.truncate(end);
        joined.push('…');
    }
    (!joined.is_empty()).then(|| json::quote(&joined))
}
