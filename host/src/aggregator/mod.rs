//! The upstreams of a session as one server: whose a name is, and the way there.

pub mod builtin;
mod catalog;
mod forward;
mod name;
mod tasks;
mod template;
mod wants;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use ultra_store::Store;

pub use catalog::{Catalog, Introduction, Route, merge};
pub use forward::{Answer, Forward};

use crate::bridge::Seal;
use crate::lock;
use crate::mcp::{Era, json};
use crate::pipeline::CallError;
use crate::upstream::{Definition, ListKind, Surroundings, Upstream};
use tasks::has_tasks;

/// A list waits this long for servers that are starting and of which nothing is remembered yet.
/// What comes later is announced by `list_changed`.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(5);

/// Owners of URIs and task ids that were seen in results are remembered up to this many each.
const LEARNED_MAX: usize = 10_000;

/// Where a request goes.
#[derive(Debug)]
pub enum Target {
    /// To an upstream.
    Upstream {
        /// Which.
        upstream: Arc<Upstream>,
        /// Tool or prompt by its own name, or the resource's URI.
        name: Option<Arc<str>>,
        /// What is ours in `params`.
        edit: Option<Edit>,
    },
    /// To the catalog.
    List(ListKind),
    /// To `ultra_status`.
    Status,
    /// To all upstreams that keep tasks.
    TaskList,
    /// To all upstreams that log.
    LogLevel,
}

/// A name that the upstream has another one for.
#[derive(Debug, Clone)]
pub struct Edit {
    path: &'static [&'static str],
    range: Range<usize>,
    /// The upstream's own, as a raw JSON string.
    quoted: Bytes,
}

/// How tools and prompts are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `upstream__name`.
    Prefixed,
    /// By their own names, but for those that several upstreams have.
    OnCollision,
    /// By their own names, and nothing of ours among them: there is one upstream.
    Own,
}

/// The upstreams of a session, in the order of the config.
pub struct Aggregator {
    upstreams: Mutex<Arc<[Arc<Upstream>]>>,
    surroundings: Arc<Surroundings>,
    server_name: String,
    naming: Naming,
    seal: Arc<Seal>,
    catalog: Mutex<Arc<Catalog>>,
    outdated: AtomicBool,
    /// The lists the client knows; none before it asked.
    announced: Mutex<[Option<Bytes>; 4]>,
    learned: Mutex<Learned>,
}

/// What was learned from what passed by.
#[derive(Debug, Default)]
struct Learned {
    /// Resources that tools linked to; they need not be listed.
    resources: HashMap<String, Arc<Upstream>>,
    tasks: HashMap<String, Arc<Upstream>>,
    /// `params` of the last `logging/setLevel`.
    log_level: Option<Bytes>,
    /// The lowest level that requests of the modern era wanted, by upstream, as raw JSON.
    log_levels: HashMap<Arc<str>, Bytes>,
    /// Subscribed URIs, as raw JSON strings, and who owns them.
    subscriptions: HashMap<Bytes, Arc<str>>,
}

impl Aggregator {
    /// Returns the upstreams of a session as one.
    pub fn new(
        upstreams: Vec<Arc<Upstream>>,
        surroundings: Arc<Surroundings>,
        server_name: &str,
        naming: Naming,
        seal: Arc<Seal>,
    ) -> Self {
        let catalog = Catalog::new(&upstreams, server_name, naming);
        Self {
            upstreams: Mutex::new(upstreams.into()),
            surroundings,
            server_name: server_name.to_owned(),
            naming,
            seal,
            catalog: Mutex::new(Arc::new(catalog)),
            outdated: AtomicBool::new(false),
            announced: Mutex::default(),
            learned: Mutex::default(),
        }
    }

    /// Returns the upstreams.
    pub fn upstreams(&self) -> Arc<[Arc<Upstream>]> {
        Arc::clone(&lock(&self.upstreams))
    }

    /// Has upstreams made of those definitions that are new, keeps those that are not, and lets go of the
    /// others. Returns the new ones, which are not started, and the others.
    pub fn adopt(
        &self,
        definitions: &[Definition],
        make: impl Fn(&Definition) -> Arc<Upstream>,
    ) -> (Vec<Arc<Upstream>>, Vec<Arc<Upstream>>) {
        let before = self.upstreams();
        let mut new = Vec::new();
        let after: Vec<_> = definitions
            .iter()
            .map(|definition| {
                let known = before.iter().find(|upstream| upstream.definition() == definition);
                known.cloned().unwrap_or_else(|| {
                    let upstream = make(definition);
                    new.push(Arc::clone(&upstream));
                    upstream
                })
            })
            .collect();
        let is_kept =
            |upstream: &&Arc<Upstream>| !after.iter().any(|kept| Arc::ptr_eq(kept, upstream));
        let gone = before.iter().filter(is_kept).cloned().collect();
        {
            let is_there =
                |owner: &Arc<Upstream>| after.iter().any(|kept| Arc::ptr_eq(kept, owner));
            let mut learned = lock(&self.learned);
            learned.resources.retain(|_, owner| is_there(owner));
            learned.tasks.retain(|_, owner| is_there(owner));
        }
        *lock(&self.upstreams) = after.into();
        self.listing_changed();
        // Its other users may have had it started long ago.
        new.iter().filter(|upstream| upstream.is_shared()).for_each(|new| self.say_wants(new));
        (new, gone)
    }

    /// Returns what its upstreams are made with.
    pub fn surroundings(&self) -> &Arc<Surroundings> {
        &self.surroundings
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.surroundings.store
    }

    /// Returns the catalog as it is now. A call takes it once and sees one version.
    pub fn catalog(&self) -> Arc<Catalog> {
        let mut catalog = lock(&self.catalog);
        if self.outdated.swap(false, Ordering::AcqRel) {
            *catalog = Arc::new(Catalog::new(&self.upstreams(), &self.server_name, self.naming));
        }
        Arc::clone(&catalog)
    }

    /// Notes that an upstream lists something else than before.
    pub fn listing_changed(&self) {
        self.outdated.store(true, Ordering::Release);
    }

    /// Returns the lists that differ from what the client knows, and takes them as known.
    pub fn announce(&self) -> Vec<ListKind> {
        let catalog = self.catalog();
        let mut announced = lock(&self.announced);
        let mut changed = Vec::new();
        for kind in ListKind::ALL {
            let list = catalog.list(kind);
            if let Some(known) = announced[kind as usize].as_mut().filter(|known| *known != list) {
                *known = list.clone();
                changed.push(kind);
            }
        }
        changed
    }

    /// Finds where a request goes.
    pub fn resolve(&self, method: &str, params: &[u8]) -> Result<Target, CallError> {
        let catalog = self.catalog();
        match method {
            "tools/call" => {
                let (range, name) = text(params, &["name"])?;
                if name == builtin::STATUS && self.naming != Naming::Own {
                    return Ok(Target::Status);
                }
                match catalog.tool(&name) {
                    Some(route) => Ok(to_named(route, &["name"], range)),
                    None => self.unlisted("tool", name),
                }
            }
            "prompts/get" => {
                let (range, name) = text(params, &["name"])?;
                match catalog.prompt(&name) {
                    Some(route) => Ok(to_named(route, &["name"], range)),
                    None => self.unlisted("prompt", name),
                }
            }
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                let (_, uri) = text(params, &["uri"])?;
                let owner = self.resource_owner(&catalog, &uri)?;
                Ok(to(&owner, uri.as_str()))
            }
            "completion/complete" => self.resolve_completion(&catalog, params),
            "tools/list" => list(params, ListKind::Tools),
            "prompts/list" => list(params, ListKind::Prompts),
            "resources/list" => list(params, ListKind::Resources),
            "resources/templates/list" => list(params, ListKind::Templates),
            "tasks/list" => Ok(Target::TaskList),
            "tasks/get" | "tasks/result" | "tasks/cancel" | "tasks/update" => {
                let (range, id) = text(params, &["taskId"])?;
                if let Some(target) = self.sealed_task(&id, range) {
                    return Ok(target);
                }
                let owner = lock(&self.learned).tasks.get(&id).cloned();
                // Where others are served too, a task may be another client's.
                let owner = owner.or_else(|| {
                    self.only(has_tasks).filter(|upstream| !self.serves_others(upstream))
                });
                let owner =
                    owner.ok_or_else(|| CallError::Unknown { kind: "task", name: id.clone() })?;
                Ok(to(&owner, id.as_str()))
            }
            "logging/setLevel" => Ok(Target::LogLevel),
            _ => match self.only(|_| true) {
                Some(upstream) => Ok(Target::Upstream { upstream, name: None, edit: None }),
                None => Err(CallError::Unknown { kind: "method", name: method.to_owned() }),
            },
        }
    }

    /// Returns where a request goes whose name nobody lists: where there is one upstream under its own
    /// names, it says itself what it makes of that.
    fn unlisted(&self, kind: &'static str, name: String) -> Result<Target, CallError> {
        match self.only(|_| self.naming == Naming::Own) {
            Some(upstream) => Ok(to(&upstream, name)),
            None => Err(CallError::Unknown { kind, name }),
        }
    }

    fn resolve_completion(&self, catalog: &Catalog, params: &[u8]) -> Result<Target, CallError> {
        let (_, kind) = text(params, &["ref", "type"])?;
        if kind == "ref/prompt" {
            let (range, name) = text(params, &["ref", "name"])?;
            let route = catalog.prompt(&name).ok_or(CallError::Unknown { kind: "prompt", name })?;
            return Ok(to_named(route, &["ref", "name"], range));
        }
        let (_, uri) = text(params, &["ref", "uri"])?;
        let owner = match catalog.template(&uri) {
            [] => self.resource_owner(catalog, &uri)?,
            owners => one_of(&uri, owners)?,
        };
        Ok(to(&owner, uri.as_str()))
    }

    fn resource_owner(&self, catalog: &Catalog, uri: &str) -> Result<Arc<Upstream>, CallError> {
        let listed = catalog.resource(uri);
        if !listed.is_empty() {
            return one_of(uri, listed);
        }
        if let Some(owner) = lock(&self.learned).resources.get(uri) {
            return Ok(Arc::clone(owner));
        }
        let matching = catalog.template_for(uri);
        if !matching.is_empty() {
            return one_of(uri, &matching);
        }
        self.only(|upstream| has(upstream, "resources"))
            .ok_or_else(|| CallError::Unknown { kind: "resource", name: uri.to_owned() })
    }

    /// Returns the upstream that meets a condition, if exactly one does.
    fn only(&self, condition: impl Fn(&Upstream) -> bool) -> Option<Arc<Upstream>> {
        let upstreams = self.upstreams();
        let mut meeting = upstreams.iter().filter(|upstream| condition(upstream));
        let first = meeting.next()?;
        meeting.next().is_none().then(|| Arc::clone(first))
    }

    /// Returns whether the client declared a capability, and one below it.
    pub fn client_can(&self, capability: &str, part: &str) -> bool {
        let path = ["capabilities", capability, part];
        json::at_path(&self.surroundings.initialize, &path).is_some()
    }

    /// Returns the result of a list method from the catalog.
    pub async fn list(&self, kind: ListKind) -> Bytes {
        self.first_listings().await;
        let list = self.catalog().list(kind).clone();
        let known = &mut lock(&self.announced)[kind as usize];
        // Of several clients that share this, one must not take a change for known by another.
        if known.is_none() || self.surroundings.revision.era() == Era::Legacy {
            *known = Some(list.clone());
        }
        list
    }

    /// Takes the lists as known that no client has asked for yet: from now on changes are announced.
    pub fn note_lists(&self) {
        let catalog = self.catalog();
        for (kind, known) in ListKind::ALL.into_iter().zip(lock(&self.announced).iter_mut()) {
            known.get_or_insert_with(|| catalog.list(kind).clone());
        }
    }

    /// Waits for the servers of which nothing is known yet, within limits. Returns whether there were
    /// any: what was unknown before may be known now.
    pub async fn first_listings(&self) -> bool {
        let upstreams = self.upstreams();
        let unlisted = upstreams.iter().filter(|upstream| upstream.listing().is_none());
        let unlisted: Vec<_> = unlisted.collect();
        let all = async {
            for upstream in &unlisted {
                upstream.listed().await;
            }
        };
        let _ = timeout(FIRST_LIST_WAIT, all).await;
        !unlisted.is_empty()
    }
}

fn to(upstream: &Arc<Upstream>, name: impl Into<Arc<str>>) -> Target {
    Target::Upstream { upstream: Arc::clone(upstream), name: Some(name.into()), edit: None }
}

fn to_named(route: &Route, path: &'static [&'static str], range: Range<usize>) -> Target {
    Target::Upstream {
        upstream: Arc::clone(&route.upstream),
        name: Some(Arc::clone(&route.name)),
        edit: Some(Edit { path, range, quoted: route.quoted.clone() }),
    }
}

fn has(upstream: &Upstream, capability: &str) -> bool {
    upstream.listing().is_some_and(|listing| listing.capability(capability).is_some())
}

fn one_of(name: &str, owners: &[Arc<Upstream>]) -> Result<Arc<Upstream>, CallError> {
    match owners {
        [owner] => Ok(Arc::clone(owner)),
        [first, rest @ ..] if rest.iter().all(|other| other.name == first.name) => {
            Ok(Arc::clone(first))
        }
        owners => Err(CallError::Ambiguous {
            name: name.to_owned(),
            upstreams: owners.iter().map(|owner| format!("`{}`", owner.name)).collect(),
        }),
    }
}

/// Our lists have one page: a cursor is not one of ours.
fn list(params: &[u8], kind: ListKind) -> Result<Target, CallError> {
    match json::member(params, "cursor").map(|range| &params[range]) {
        None | Some(b"null") => Ok(Target::List(kind)),
        Some(_) => Err(CallError::InvalidParams { reason: "unknown `cursor`".to_owned() }),
    }
}

fn text(params: &[u8], path: &[&str]) -> Result<(Range<usize>, String), CallError> {
    let range = json::at_path(params, path);
    let found =
        range.and_then(|range| Some((range.clone(), json::string(&params[range])?.into_owned())));
    found.ok_or_else(|| CallError::InvalidParams {
        reason: format!("expected a string `{}`", path.join(".")),
    })
}
