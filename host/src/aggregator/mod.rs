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

pub use catalog::{Catalog, Introduction, Route, merge};

use crate::bridge::{self, Place, Seal};
use crate::downstream::OpenRequest;
use crate::lock;
use crate::mcp::{Era, Level, Message, json, modern};
use crate::pipeline::{CallError, Outcome};
use crate::upstream::{
    Belongs, Connection, Definition, ListKind, Patience, Sender, Surroundings, Upstream,
    UpstreamError, Wants, push_array,
};

/// A list waits this long for servers that are starting and of which nothing is remembered yet.
/// What comes later is announced by `list_changed`.
const FIRST_LIST_WAIT: Duration = Duration::from_secs(5);

/// Owners of URIs and task ids that were seen in results are remembered up to this many each.
const LEARNED_MAX: usize = 10_000;

/// A list of an upstream's tasks may have so many pages.
const TASK_PAGES_MAX: usize = 1000;

/// And so many bytes.
const TASK_BYTES_MAX: usize = 64 << 20;

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

/// A request on its way to an upstream.
pub struct Forward<'a> {
    /// Where it goes.
    pub upstream: &'a Arc<Upstream>,
    /// As the client sent it.
    pub message: &'a Message,
    /// Its method.
    pub method: &'a str,
    /// What the stages made of its params.
    pub params: &'a Bytes,
    /// What is ours in them.
    pub edit: Option<Edit>,
    /// Who waits for the answer.
    pub open: &'a Arc<OpenRequest>,
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

/// The answer of an upstream, and the message it came in.
pub type Answer = (Outcome, Option<Message>);

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

    /// Finds whose a task is by the name we gave it.
    fn sealed_task(&self, name: &str, range: Range<usize>) -> Option<Target> {
        let (owner, id) = self.seal.open_task(&self.surroundings.caller.owner(), name)?;
        let upstreams = self.upstreams();
        let upstream = upstreams.iter().find(|upstream| *upstream.name == *owner)?;
        let edit = Edit { path: &["taskId"], range, quoted: json::quote(&id).into() };
        let (upstream, name) = (Arc::clone(upstream), Some(id.into()));
        Some(Target::Upstream { upstream, name, edit: Some(edit) })
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

    /// Sends a request to an upstream and waits for the answer, whatever eras both live in.
    pub async fn forward(&self, request: &Forward<'_>) -> Result<Answer, CallError> {
        let mut again = false;
        let has = |key| request.message.body_member(key).is_some();
        if request.open.meta().is_some()
            && has("inputResponses")
            && bridge::is_signing_in(request.params)
        {
            request.upstream.signed_in().await;
        }
        loop {
            let connection = request.upstream.connection().await?;
            match self.forward_over(&connection, request).await {
                // It was not looked at: the connection was gone before.
                Err(CallError::Upstream(UpstreamError::Closed { .. })) if !again => again = true,
                answer => return answer,
            }
        }
    }

    async fn forward_over(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<Answer, CallError> {
        let Forward { upstream, method, params, open, .. } = request;
        let owner = self.surroundings.caller.owner();
        let place = Place {
            seal: &self.seal,
            principal: &owner,
            upstream: &upstream.name,
            method,
            params,
            sent: &request.message.body(),
        };
        let (outcome, response) = match (open.meta(), connection.era()) {
            (None, era)
                if matches!(&**method, "resources/subscribe" | "resources/unsubscribe")
                    && (era == Era::Modern || upstream.is_shared()) =>
            {
                self.subscribed(method, params, upstream);
                self.say_wants(upstream);
                return Ok((
                    Outcome::Result { json: Bytes::from_static(b"{}"), tool_error: false },
                    None,
                ));
            }
            (None, Era::Legacy) => answer(self.once(connection, request, params, unchanged).await?),
            (None, Era::Modern) => self.by_rounds(connection, request).await?,
            (Some(_), Era::Modern) if open.shows_questions() => {
                let running = match bridge::resume(&place, open)? {
                    Some(running) => running,
                    None => bridge::start(open, Self::shown_rounds(connection, request)?),
                };
                let (outcome, response) = running.answer(&place).await?;
                (self.named(&place, upstream, outcome), response)
            }
            (Some(_), Era::Modern) => {
                let params = bridge::without_sign_in(&bridge::open_state(&place)?);
                let (outcome, response) =
                    answer(self.with_headers(connection, request, &params, unchanged).await?);
                let outcome = match outcome {
                    Outcome::Result { json, tool_error } => {
                        Outcome::Result { json: bridge::seal_state(&place, &json), tool_error }
                    }
                    outcome => outcome,
                };
                (self.named(&place, upstream, outcome), response)
            }
            (Some(meta), Era::Legacy) => {
                // As it was sent: there the members are known, and need not be looked for.
                let goes_on = request.message.body_member("requestState").is_some();
                let resumed = if goes_on { bridge::resume(&place, open)? } else { None };
                let running = match resumed {
                    Some(running) => running,
                    None => {
                        if let Some(level) = &meta.log_level {
                            self.log_from(upstream, connection, level);
                        }
                        let call = self.once(connection, request, params, |params| {
                            modern::without_meta(&params).into()
                        });
                        bridge::start(open, async { Ok(answer(call.await?)) })
                    }
                };
                running.answer(&place).await?
            }
        };
        if let Some(response) = response.as_ref().filter(|response| !response.is_error()) {
            self.learn(upstream, response);
        }
        let era = open.meta().map_or(Era::Legacy, |_| Era::Modern);
        let outcome = match outcome {
            Outcome::Rpc { json } if era != connection.era() => {
                Outcome::Rpc { json: bridge::error(method, &json, era) }
            }
            outcome => outcome,
        };
        Ok((outcome, response))
    }

    /// Returns an outcome with our name for the task that it tells of.
    fn named(&self, place: &Place<'_>, upstream: &Upstream, outcome: Outcome) -> Outcome {
        let Outcome::Result { json: result, tool_error } = outcome else { return outcome };
        let tells = place.method.starts_with("tasks/")
            || json::member(&result, "resultType")
                .is_some_and(|range| &result[range] == b"\"task\"");
        let is_ours = self.naming != Naming::Own || self.serves_others(upstream);
        let id = json::member(&result, "taskId")
            .and_then(|range| Some((range.clone(), json::string(&result[range])?.into_owned())));
        let json = match id.filter(|_| tells && is_ours) {
            Some((range, id)) => {
                let name = place.seal.task(place.principal, place.upstream, &id);
                json::splice(&result, &[(range, json::quote(&name).into())]).into()
            }
            None => result,
        };
        Outcome::Result { json, tool_error }
    }

    /// Asks a modern client what a modern server wants to know, and shows the interceptors each question
    /// by itself: the call waits here for its answers, as that of a legacy server does.
    fn shown_rounds(
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<impl Future<Output = Result<Answer, CallError>> + Send + 'static, CallError> {
        let session = request.open.session().ok_or(CallError::Cancelled)?;
        let aggregator = session.aggregator().cloned().ok_or(CallError::Cancelled)?;
        let (connection, upstream) = (Arc::clone(connection), Arc::clone(request.upstream));
        let (message, open) = (request.message.clone(), Arc::clone(request.open));
        let (method, params) = (request.method.to_owned(), bridge::without_sign_in(request.params));
        // Their places are others now.
        let edit = request.edit.clone().and_then(|edit| {
            let range = json::at_path(&params, edit.path)?;
            Some(Edit { range, ..edit })
        });
        Ok(async move {
            let (upstream, message, open) = (&upstream, &message, &open);
            let (method, params) = (&*method, &params);
            let request = Forward { upstream, message, method, params, edit, open };
            aggregator.by_rounds(&connection, &request).await
        })
    }

    /// Asks the client what a modern server wants to know, as often as it wants to know something.
    async fn by_rounds(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
    ) -> Result<Answer, CallError> {
        let Forward { upstream, open, .. } = request;
        let level = lock(&self.learned)
            .log_level
            .as_ref()
            .and_then(|params| json::member(params, "level").map(|range| params.slice(range)));
        let is_modern = open.meta().is_some();
        let mut params = request.params.clone();
        let mut round = 0;
        loop {
            let (sender, level) = (Arc::clone(&self.surroundings), level.clone());
            let translate = move |params: Bytes| match is_modern {
                true => params,
                false => sender.modern(&params, level.as_deref()),
            };
            let message = self.with_headers(connection, request, &params, translate).await?;
            if !bridge::is_input_required(&message) {
                let (outcome, response) = answer(message);
                let outcome = match outcome {
                    Outcome::Result { json, tool_error } if !is_modern => {
                        Outcome::Result { json: bridge::plain(&json), tool_error }
                    }
                    outcome => outcome,
                };
                return Ok((outcome, response));
            }
            params = bridge::next_round(&upstream.name, round, &params, &message, open).await?;
            round += 1;
        }
    }

    /// Does as [`Self::once`] for a server of the modern era. One that wants other headers than we knew of
    /// has refused the call before it looked at it, so its tools are listed anew and it is called again
    /// (2026-07-28, basic/transports).
    async fn with_headers(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
        params: &Bytes,
        translate: impl FnOnce(Bytes) -> Bytes + Clone + Send + 'static,
    ) -> Result<Message, UpstreamError> {
        let answer = self.once(connection, request, params, translate.clone()).await?;
        let is_refused = answer.is_error()
            && answer.body_member("code") == Some(modern::HEADER_MISMATCH.to_string().as_bytes());
        if is_refused
            && request.method == "tools/call"
            && request.upstream.mirror_anew(connection).await
        {
            return self.once(connection, request, params, translate).await;
        }
        Ok(answer)
    }

    /// Sends a request as it is but for what is ours in it, and waits for the answer.
    fn once(
        &self,
        connection: &Arc<Connection>,
        request: &Forward<'_>,
        params: &Bytes,
        translate: impl FnOnce(Bytes) -> Bytes + Send + 'static,
    ) -> impl Future<Output = Result<Message, UpstreamError>> + Send + 'static {
        let connection = Arc::clone(connection);
        let (message, open) = (request.message.clone(), Arc::clone(request.open));
        let params = params.clone();
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        let is_same = params.as_ptr() == request.params.as_ptr();
        let name = request.edit.clone().and_then(|Edit { path, range, quoted }| {
            let range = if is_same { Some(range) } else { json::at_path(&params, path) };
            Some((range?, quoted))
        });
        async move {
            let token_range = json::at_path(&params, &["_meta", "progressToken"]);
            let sender = Sender {
                progress_token: token_range
                    .clone()
                    .map(|range| open.token().unwrap_or_else(|| params.slice(range))),
                origin: Some(Arc::<OpenRequest>::clone(&open)),
            };
            let compose = |id: u64| {
                let id = Bytes::from(id.to_string());
                let token = token_range.map(|range| (range, id.clone()));
                let mut edits: Vec<_> = name.into_iter().chain(token).collect();
                edits.sort_by_key(|(range, _)| range.start);
                let params = match edits.is_empty() {
                    true => params.clone(),
                    false => json::splice(&params, &edits).into(),
                };
                let params = translate(params);
                message.with(Some(&id), (!params.is_empty()).then_some(&params))
            };
            connection.call(patience, sender, compose, |id| open.sent(&connection, id)).await
        }
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

    /// Returns whether an upstream cannot tell our clients apart: all of them are one connection, or one
    /// account, to it.
    fn serves_others(&self, upstream: &Upstream) -> bool {
        let has_one_account =
            self.surroundings.caller.subject.is_some() && upstream.transport != "stdio";
        upstream.is_shared() || has_one_account
    }

    fn knows_task(&self, id: &str) -> bool {
        lock(&self.learned).tasks.contains_key(id)
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

    /// Returns the tasks of all upstreams that keep some.
    pub async fn list_tasks(&self) -> Bytes {
        let mut tasks = Vec::new();
        for upstream in self.upstreams().iter().filter(|upstream| has(upstream, "tasks")) {
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
        let mut bytes = 0;
        for _ in 0..TASK_PAGES_MAX {
            let page = upstream.ask(&connection, patience, "tasks/list", &params).await?;
            bytes += page.len();
            if tasks.len() >= LEARNED_MAX || bytes > TASK_BYTES_MAX {
                break;
            }
            let Some(items) = json::member(&page, "tasks").map(|range| page.slice(range)) else {
                break;
            };
            for range in json::elements(&items) {
                let task = items.slice(range);
                match text(&task, &["taskId"]) {
                    Ok((_, id)) if self.serves_others(upstream) && !self.knows_task(&id) => {
                        continue;
                    }
                    Ok((_, id)) => self.learn_task(upstream, id),
                    Err(_) => {}
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
        for upstream in self.upstreams().iter() {
            if upstream.is_shared() {
                self.say_wants(upstream);
            } else if let crate::upstream::State::Ready(connection) = upstream.state() {
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
        // A modern server is told with each request.
        if has(upstream, "logging") && connection.era() == Era::Legacy {
            self.tell(upstream, connection, "logging/setLevel", params.clone());
        }
    }

    /// Has a server log from a level on, for a request of the modern era.
    fn log_from(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>, level: &Bytes) {
        {
            let mut learned = lock(&self.learned);
            let known = learned.log_levels.get(&upstream.name);
            // Requests of others may want less; each gets what it wants of what comes.
            if known.is_some_and(|known| Level::parse(known) <= Level::parse(level)) {
                return;
            }
            learned.log_levels.insert(Arc::clone(&upstream.name), level.clone());
        }
        if upstream.is_shared() {
            return self.say_wants(upstream);
        }
        let params = Bytes::from([b"{\"level\":", &level[..], b"}"].concat());
        self.tell_log_level(upstream, connection, &params);
    }

    /// Returns what somebody wants to hear of from an upstream.
    fn subscriptions_of(&self, upstream: &Upstream) -> Vec<Bytes> {
        let learned = lock(&self.learned);
        let of_it = learned.subscriptions.iter().filter(|(_, owner)| **owner == upstream.name);
        let mut uris: Vec<_> = of_it.map(|(uri, _)| uri.clone()).collect();
        uris.sort();
        uris
    }

    /// Says what this client wants to hear of, to an upstream that tells its server by itself.
    fn say_wants(&self, upstream: &Upstream) {
        let log_level = {
            let learned = lock(&self.learned);
            let named = learned.log_level.as_ref().and_then(level_of);
            let of_requests = learned.log_levels.get(&upstream.name);
            named.into_iter().chain(of_requests.and_then(|level| Level::parse(level))).min()
        };
        let wants = Wants { resources: self.subscriptions_of(upstream), log_level };
        upstream.wants(&self.surroundings.caller.session_id, wants);
    }

    /// Returns whether this client is to hear what a server says that serves others too.
    pub fn is_concerned(&self, message: &Message, belongs: &Belongs) -> bool {
        let learned = lock(&self.learned);
        let member = |key| message.body_member(key);
        match &*message.method() {
            // It is for whoever made the call.
            "notifications/progress" => true,
            // Each request of the modern era has a level of its own.
            "notifications/message" if self.surroundings.revision.era() == Era::Modern => true,
            "notifications/message" => {
                let wanted = learned.log_level.as_ref().and_then(level_of).unwrap_or(Level::INFO);
                member("level").and_then(Level::parse).is_none_or(|level| level >= wanted)
            }
            "notifications/resources/updated" => {
                let uri = member("uri").and_then(json::string).unwrap_or_default();
                learned.subscriptions.keys().any(|wanted| {
                    json::string(wanted).is_some_and(|wanted| is_or_is_in(&uri, &wanted))
                })
            }
            "notifications/tasks/status" => {
                let id = member("taskId").and_then(json::string);
                id.is_some_and(|id| learned.tasks.contains_key(&*id))
            }
            _ => matches!(belongs, Belongs::To(_)),
        }
    }

    /// Subscribes to a resource, whichever era its owner lives in. Says whether somebody owns it.
    pub fn watch(&self, uri: &[u8], on: bool) -> bool {
        let text = json::string(uri).unwrap_or_default();
        let Ok(owner) = self.resource_owner(&self.catalog(), &text) else { return false };
        let params = Bytes::from([b"{\"uri\":", uri, b"}"].concat());
        let method = if on { "resources/subscribe" } else { "resources/unsubscribe" };
        self.subscribed(method, &params, &owner);
        if owner.is_shared() {
            self.say_wants(&owner);
        } else if let crate::upstream::State::Ready(connection) = owner.state() {
            match connection.era() {
                Era::Legacy => self.tell(&owner, &connection, method, params),
                Era::Modern => self.say_wants(&owner),
            }
        }
        true
    }

    /// Notes what a client subscribed to or no longer is, so that it outlives the server.
    pub fn subscribed(&self, method: &str, params: &Bytes, upstream: &Arc<Upstream>) {
        let uri = json::member(params, "uri").and_then(|range| json::string(&params[range]));
        let Some(uri) = uri.map(|uri| Bytes::from(json::quote(&uri))) else { return };
        let mut learned = lock(&self.learned);
        match method {
            "resources/subscribe" if learned.subscriptions.len() < LEARNED_MAX => {
                learned.subscriptions.insert(uri, Arc::clone(&upstream.name));
            }
            "resources/unsubscribe" => drop(learned.subscriptions.remove(&uri)),
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
        if connection.era() == Era::Modern {
            return self.say_wants(upstream);
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

/// Returns the level that `params` of `logging/setLevel` name.
fn level_of(params: &Bytes) -> Option<Level> {
    Level::parse(&params[json::member(params, "level")?])
}

/// Returns whether a URI is the other one, or of something inside that (2025-11-25, server/resources).
fn is_or_is_in(uri: &str, outer: &str) -> bool {
    let rest = uri.strip_prefix(outer);
    rest.is_some_and(|rest| {
        rest.is_empty() || outer.ends_with('/') || rest.starts_with(['/', '?', '#'])
    })
}

fn answer(message: Message) -> Answer {
    (bridge::outcome(&message), Some(message))
}

fn unchanged(params: Bytes) -> Bytes {
    params
}

fn has(upstream: &Upstream, capability: &str) -> bool {
    upstream.listing().is_some_and(|listing| listing.capability(capability).is_some())
}

/// Returns whether an upstream keeps tasks, as either era does.
fn has_tasks(upstream: &Upstream) -> bool {
    has(upstream, "tasks")
        || upstream.listing().is_some_and(|listing| {
            let extensions = listing.capability("extensions").unwrap_or(b"{}");
            json::member(extensions, modern::TASKS).is_some()
        })
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
