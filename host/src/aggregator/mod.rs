//! The upstreams of a session as one server: whose a name is, and the way there.

pub mod builtin;
mod catalog;
mod name;
mod template;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use ultra_store::Store;

pub use catalog::{Catalog, merge};

use crate::lock;
use crate::mcp::{Message, json};
use crate::pipeline::{CallError, Outcome};
use crate::upstream::{
    Connection, ListKind, Patience, Surroundings, Upstream, UpstreamError, push_array,
};

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
        /// What is ours in `params` and what the upstream calls it.
        edit: Option<(Range<usize>, Bytes)>,
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

/// The answer of an upstream, and the message it came in.
pub type Answer = (Outcome, Option<Message>);

/// The upstreams of a session, in the order of the config.
pub struct Aggregator {
    upstreams: Vec<Arc<Upstream>>,
    surroundings: Arc<Surroundings>,
    server_name: String,
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
    /// Subscribed URIs, as raw JSON strings, and who owns them.
    subscriptions: HashMap<Bytes, Arc<str>>,
}

impl Aggregator {
    /// Returns the upstreams of a session as one.
    pub fn new(
        upstreams: Vec<Arc<Upstream>>,
        surroundings: Arc<Surroundings>,
        server_name: &str,
    ) -> Self {
        let catalog = Catalog::new(&upstreams, server_name);
        Self {
            upstreams,
            surroundings,
            server_name: server_name.to_owned(),
            catalog: Mutex::new(Arc::new(catalog)),
            outdated: AtomicBool::new(false),
            announced: Mutex::default(),
            learned: Mutex::default(),
        }
    }

    /// Returns the upstreams.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.surroundings.store
    }

    /// Returns the catalog as it is now. A call takes it once and sees one version.
    pub fn catalog(&self) -> Arc<Catalog> {
        let mut catalog = lock(&self.catalog);
        if self.outdated.swap(false, Ordering::AcqRel) {
            *catalog = Arc::new(Catalog::new(&self.upstreams, &self.server_name));
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
                if name == builtin::STATUS {
                    return Ok(Target::Status);
                }
                let route = catalog.tool(&name).ok_or(CallError::Unknown { kind: "tool", name })?;
                Ok(to(
                    &route.upstream,
                    Arc::clone(&route.name),
                    Some((range, route.quoted.clone())),
                ))
            }
            "prompts/get" => {
                let (range, name) = text(params, &["name"])?;
                let route =
                    catalog.prompt(&name).ok_or(CallError::Unknown { kind: "prompt", name })?;
                Ok(to(
                    &route.upstream,
                    Arc::clone(&route.name),
                    Some((range, route.quoted.clone())),
                ))
            }
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                let (_, uri) = text(params, &["uri"])?;
                let owner = self.resource_owner(&catalog, &uri)?;
                Ok(to(&owner, uri.as_str(), None))
            }
            "completion/complete" => self.resolve_completion(&catalog, params),
            "tools/list" => list(params, ListKind::Tools),
            "prompts/list" => list(params, ListKind::Prompts),
            "resources/list" => list(params, ListKind::Resources),
            "resources/templates/list" => list(params, ListKind::Templates),
            "tasks/list" => Ok(Target::TaskList),
            "tasks/get" | "tasks/result" | "tasks/cancel" => {
                let (_, id) = text(params, &["taskId"])?;
                let owner = lock(&self.learned).tasks.get(&id).cloned();
                let owner = owner.or_else(|| self.only(|upstream| has(upstream, "tasks")));
                let owner =
                    owner.ok_or_else(|| CallError::Unknown { kind: "task", name: id.clone() })?;
                Ok(to(&owner, id.as_str(), None))
            }
            "logging/setLevel" => Ok(Target::LogLevel),
            _ => match self.only(|_| true) {
                Some(upstream) => Ok(Target::Upstream { upstream, name: None, edit: None }),
                None => Err(CallError::Unknown { kind: "method", name: method.to_owned() }),
            },
        }
    }

    fn resolve_completion(&self, catalog: &Catalog, params: &[u8]) -> Result<Target, CallError> {
        let (_, kind) = text(params, &["ref", "type"])?;
        if kind == "ref/prompt" {
            let (range, name) = text(params, &["ref", "name"])?;
            let route = catalog.prompt(&name).ok_or(CallError::Unknown { kind: "prompt", name })?;
            return Ok(to(
                &route.upstream,
                Arc::clone(&route.name),
                Some((range, route.quoted.clone())),
            ));
        }
        let (_, uri) = text(params, &["ref", "uri"])?;
        let owner = match catalog.template(&uri) {
            [] => self.resource_owner(catalog, &uri)?,
            owners => one_of(&uri, owners)?,
        };
        Ok(to(&owner, uri.as_str(), None))
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
        let mut meeting = self.upstreams.iter().filter(|upstream| condition(upstream));
        let first = meeting.next()?;
        meeting.next().is_none().then(|| Arc::clone(first))
    }

    /// Sends a request to an upstream and waits for the answer.
    ///
    /// `message` is the request as the client sent it, `params` what the stages made of its params.
    /// `sent` learns over which connection and under which id it went.
    pub async fn forward(
        &self,
        upstream: &Arc<Upstream>,
        message: &Message,
        params: &Bytes,
        edit: Option<(Range<usize>, Bytes)>,
        sent: impl FnOnce(&Arc<Connection>, u64),
    ) -> Result<Answer, UpstreamError> {
        let connection = upstream.connection().await?;
        let token_range = json::at_path(params, &["_meta", "progressToken"]);
        let token = token_range.clone().map(|range| params.slice(range));
        let compose = |id: u64| {
            let id = Bytes::from(id.to_string());
            let mut edits: Vec<_> =
                edit.into_iter().chain(token_range.map(|range| (range, id.clone()))).collect();
            edits.sort_by_key(|(range, _)| range.start);
            let params =
                if edits.is_empty() { params.clone() } else { json::splice(params, &edits).into() };
            message.with(Some(&id), (!params.is_empty()).then_some(&params))
        };
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        let response =
            connection.call(patience, token, compose, |id| sent(&connection, id)).await?;
        let json = response.body();
        let outcome = if response.is_error() {
            Outcome::Rpc { json }
        } else {
            self.learn(upstream, &response);
            Outcome::Result { tool_error: response.body_member("isError") == Some(b"true"), json }
        };
        Ok((outcome, Some(response)))
    }

    /// Remembers whose the resources and tasks are that a result names.
    fn learn(&self, upstream: &Arc<Upstream>, response: &Message) {
        if let Some(task) = response.body_member("task")
            && let Some(range) = json::member(task, "taskId")
            && let Some(id) = json::string(&task[range])
        {
            self.learn_task(upstream, id.into_owned());
        }
        if let Some(content) = response.body_member("content")
            && memchr::memmem::find(content, b"\"uri\"").is_some()
        {
            let uris = json::elements(content).filter_map(|range| {
                let item = &content[range];
                let uri = json::member(item, "uri")
                    .or_else(|| json::at_path(item, &["resource", "uri"]))?;
                json::string(&item[uri]).map(std::borrow::Cow::into_owned)
            });
            let mut learned = lock(&self.learned);
            for uri in uris {
                if learned.resources.len() < LEARNED_MAX {
                    learned.resources.insert(uri, Arc::clone(upstream));
                }
            }
        }
    }

    fn learn_task(&self, upstream: &Arc<Upstream>, id: String) {
        let mut learned = lock(&self.learned);
        if learned.tasks.len() < LEARNED_MAX {
            learned.tasks.insert(id, Arc::clone(upstream));
        }
    }

    /// Returns the result of a list method from the catalog.
    pub async fn list(&self, kind: ListKind) -> Bytes {
        self.first_listings().await;
        let list = self.catalog().list(kind).clone();
        lock(&self.announced)[kind as usize] = Some(list.clone());
        list
    }

    /// Waits for the servers of which nothing is known yet, within limits. Returns whether there were
    /// any: what was unknown before may be known now.
    pub async fn first_listings(&self) -> bool {
        let unlisted = self.upstreams.iter().filter(|upstream| upstream.listing().is_none());
        let unlisted: Vec<_> = unlisted.collect();
        let all = async {
            for upstream in &unlisted {
                upstream.listed().await;
            }
        };
        let _ = timeout(FIRST_LIST_WAIT, all).await;
        !unlisted.is_empty()
    }

    /// Returns the tasks of all upstreams that keep some.
    pub async fn list_tasks(&self) -> Bytes {
        let mut tasks = Vec::new();
        for upstream in self.upstreams.iter().filter(|upstream| has(upstream, "tasks")) {
            match self.tasks_of(upstream).await {
                Ok(items) => tasks.extend(items),
                Err(error) => {
                    tracing::warn!(upstream = %upstream.name, %error, "its tasks are left out")
                }
            }
        }
        let mut result = b"{\"tasks\":".to_vec();
        push_array(&mut result, tasks.iter());
        result.push(b'}');
        result.into()
    }

    async fn tasks_of(&self, upstream: &Arc<Upstream>) -> Result<Vec<Bytes>, UpstreamError> {
        let connection = upstream.connection().await?;
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        let mut tasks = Vec::new();
        let mut params = Vec::new();
        while tasks.len() < LEARNED_MAX {
            let page = upstream.ask(&connection, patience, "tasks/list", &params).await?;
            let Some(items) = json::member(&page, "tasks").map(|range| page.slice(range)) else {
                break;
            };
            for range in json::elements(&items) {
                let task = items.slice(range);
                if let Ok((_, id)) = text(&task, &["taskId"]) {
                    self.learn_task(upstream, id);
                }
                tasks.push(task);
            }
            let next = json::member(&page, "nextCursor").map(|range| page.slice(range));
            let Some(cursor) = next.filter(|cursor| cursor != "null") else { break };
            let next = [b"{\"cursor\":", &cursor[..], b"}"].concat();
            if next == params {
                break;
            }
            params = next;
        }
        Ok(tasks)
    }

    /// Sets the level of what upstreams log to the client, also of those that start later.
    pub fn set_log_level(&self, params: Bytes) {
        lock(&self.learned).log_level = Some(params.clone());
        for upstream in &self.upstreams {
            if let crate::upstream::State::Ready(connection) = upstream.state() {
                self.tell_log_level(upstream, &connection, &params);
            }
        }
    }

    fn tell_log_level(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        params: &Bytes,
    ) {
        if has(upstream, "logging") {
            self.tell(upstream, connection, "logging/setLevel", params.clone());
        }
    }

    /// Notes what a client subscribed to or no longer is, so that it outlives the server.
    pub fn subscribed(&self, method: &str, params: &Bytes, upstream: &Arc<Upstream>) {
        let Some(uri) = json::member(params, "uri").map(|range| &params[range]) else { return };
        let mut learned = lock(&self.learned);
        match method {
            "resources/subscribe" if learned.subscriptions.len() < LEARNED_MAX => {
                learned
                    .subscriptions
                    .insert(Bytes::copy_from_slice(uri), Arc::clone(&upstream.name));
            }
            "resources/unsubscribe" => drop(learned.subscriptions.remove(uri)),
            _ => {}
        }
    }

    /// Tells a server that has just started what its predecessor knew.
    pub fn catch_up(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>) {
        let (log_level, subscriptions) = {
            let learned = lock(&self.learned);
            let owned = learned.subscriptions.iter().filter(|(_, owner)| **owner == upstream.name);
            (learned.log_level.clone(), owned.map(|(uri, _)| uri.clone()).collect::<Vec<_>>())
        };
        if let Some(params) = log_level {
            self.tell_log_level(upstream, connection, &params);
        }
        for uri in subscriptions {
            let params = [b"{\"uri\":", &uri[..], b"}"].concat();
            self.tell(upstream, connection, "resources/subscribe", params.into());
        }
    }

    /// Sends a request of our own whose result is of no interest.
    fn tell(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        method: &'static str,
        params: Bytes,
    ) {
        let (upstream, connection) = (Arc::clone(upstream), Arc::clone(connection));
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        tokio::spawn(async move {
            if let Err(error) = upstream.ask(&connection, patience, method, &params).await {
                tracing::debug!(upstream = %upstream.name, %error, "`{method}` failed");
            }
        });
    }
}

fn to(
    upstream: &Arc<Upstream>,
    name: impl Into<Arc<str>>,
    edit: Option<(Range<usize>, Bytes)>,
) -> Target {
    Target::Upstream { upstream: Arc::clone(upstream), name: Some(name.into()), edit }
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
