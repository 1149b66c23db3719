//! `ultra start`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ::http::header::AUTHORIZATION;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ultra_store::{MemoryOptions, MemoryStore, Redactor, SqliteOptions, SqliteStore, Store};

use super::{CliError, CliResult};
use crate::auth::{self, Authorizer};
use crate::bridge::Seal;
use crate::config::{self, Backend, Config, Environment};
use crate::downstream::{Setup, http, stdio};
use crate::gateway::Gateway;
use crate::pipeline::Pipeline;
use crate::plugins::{self, Plugins};
use crate::telemetry::{self, Exporter};
use crate::upstream::{Auth, Definition, Endpoint, Guard, Pool, Program, Remote, Surroundings};
use crate::wasm::{CachePlace, Outlets, Runtime, SpanSink};
use crate::{audit, hub, log};

/// A shorter secret can be guessed, and an empty one is a variable that is not set.
const HTTP_TOKEN_BYTES_MIN: usize = 16;

/// The config file is looked at this often.
const CONFIG_PERIOD: Duration = Duration::from_secs(1);

/// Measurements are handed to the store this often, while there are some.
const METRICS_PERIOD: Duration = Duration::from_secs(5);

/// At the end, the store may take this long to write what is queued.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Run the gateway as an MCP server, on stdio or HTTP
///
/// Starts every enabled upstream and serves their tools, resources and prompts. Stdout belongs to MCP;
/// the log goes to stderr. Ends when the client goes away, or at SIGINT and SIGTERM.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Load the components in this directory beside the built-in ones
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Start although a component of the directory was refused
    #[arg(long)]
    allow_refused_plugins: bool,
    /// Serve Streamable HTTP at this address, such as `127.0.0.1:8000`, instead of stdio
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
}

pub(super) async fn run(args: Args, mut config: Config, environment: &Environment) -> CliResult {
    config.plugins.allow_refused |= args.allow_refused_plugins;
    let ansi = stderr().is_terminal() && environment.get("NO_COLOR").is_none();
    let log = log::start(config.server.log_level, ansi, stderr());
    for warning in &config.warnings {
        tracing::warn!("config: {warning}");
    }
    let plan = plugins::plan(&config.plugins, args.plugins.as_deref())?;
    for warning in plan.warnings() {
        tracing::warn!("plugins: {warning}");
    }
    for refused in plan.refused() {
        tracing::warn!("plugin `{}` is refused: {}", refused.file, refused.reason);
    }
    plan.check()?;
    let waits_for_plugins = plan.sees_more_than_calls();

    let listener = match args.http {
        Some(address) => Some(listen(address, &config).await?),
        None => None,
    };
    let redactor = Redactor::new(config.secrets());
    let store = open_store(&config, &redactor)?;
    let shutdown = CancellationToken::new();
    let stopping = CancellationToken::new();
    end_at_signals(&stopping)?;
    let facts = telemetry::Facts { transport: "stdio", redactor: redactor.clone() };
    let exporter = Exporter::start(&config.observability, facts).map(Arc::new);
    let (pipeline, loading) = watch::channel(None);
    let outlets = Outlets {
        store: Arc::clone(&store),
        spans: exporter.clone().map(|exporter| exporter as Arc<dyn SpanSink>),
        log: Some(Arc::new(log.clone())),
    };
    let place = cache_place(&config, environment);
    let authorizer: Arc<OnceLock<Authorizer>> = Arc::default();
    let inherited = Arc::new(environment.for_children());
    let options = auth::Options::of(environment).ok();
    let definitions = Definitions {
        inherited,
        options,
        authorizer: Arc::clone(&authorizer),
        serves_others: listener.as_ref().is_some_and(|(_, guard)| guard.serves_others()),
    };
    let (changes, upstreams) = watch::channel(definitions.of(&config)?);
    let clients = Arc::<hub::Clients>::default();
    // Before anything is recorded: what the database has now is from before.
    let hub = hub::Attachment::begin(
        &config,
        environment,
        hub::Gateway {
            store: Arc::clone(&store),
            clients: Arc::clone(&clients),
            upstreams: upstreams.clone(),
            serves_others: definitions.serves_others,
        },
    );
    tokio::spawn(follow(
        changes,
        definitions,
        config.path.clone(),
        environment.clone(),
        redactor.clone(),
    ));
    let loader = {
        let (store, shutdown) = (Arc::clone(&store), shutdown.clone());
        // Clients wait for the answer to `initialize`; components compile meanwhile.
        tokio::task::spawn_blocking(move || {
            load(plan, place.as_ref(), &outlets, store, &pipeline, &shutdown)
        })
    };
    if waits_for_plugins {
        // Whoever sees how a session begins must be there before it does.
        let mut loading = loading.clone();
        let _ = loading.wait_for(Option::is_some).await;
    }
    let (guard, rush) = (Arc::new(Guard::new(std::env::current_exe()?)), Arc::default());
    let surroundings = Surroundings::of_gateway(
        Arc::clone(&guard),
        Arc::clone(&store),
        redactor.clone(),
        shutdown.clone(),
        config.server.call_timeout,
        Arc::clone(&rush),
    );
    let pool = Pool::new(surroundings, upstreams.clone());
    let setup = Setup {
        gateway: Gateway::new(loading),
        server_name: config.server.name.clone(),
        upstreams,
        only: None,
        naming: config.server.naming,
        pool: Arc::clone(&pool),
        seal: Arc::new(seal(&config, environment)),
        guard,
        store: Arc::clone(&store),
        redactor,
        stopping,
        shutdown: shutdown.clone(),
        call_timeout: config.server.call_timeout,
        http_sessions_max: config.server.http_sessions_max,
        http_session_idle: config.server.http_session_idle,
        rush,
        subject: None,
        exporter: exporter.clone(),
        clients,
    };
    audit::record_gateway(&store, audit::Event::ServerStart);
    let measuring = async {
        let loaded = loader.await.map_err(std::io::Error::other)??;
        keep_measurements(&loaded, &store, exporter.as_deref(), &shutdown).await;
        Ok::<_, CliError>(())
    };
    let (served, measured) = tokio::join!(
        async {
            let served = match listener {
                Some((listener, guard)) => http::serve(listener, setup, guard).await,
                None => stdio::serve(setup).await,
            };
            shutdown.cancel();
            pool.end().await;
            served
        },
        measuring
    );
    audit::record_gateway(&store, audit::Event::ServerStop);
    if !store.flush(Instant::now() + LAST_FLUSH) {
        tracing::error!("not all records could be stored in time");
    }
    // What was new is stored now, and can be sent.
    if let Some(hub) = hub {
        hub.end().await;
    }
    if let Some(exporter) = exporter {
        exporter.shutdown().await;
    }
    if let Some(authorizer) = authorizer.get() {
        authorizer.close().await;
    }
    log.flush();
    measured?;
    served?;
    Ok(())
}

/// Opens the port, and says who may come in by it.
async fn listen(
    address: SocketAddr,
    config: &Config,
) -> Result<(TcpListener, http::Guard), CliError> {
    let token = config.server.http_token.as_deref();
    if token.is_some_and(|token| token.trim().len() < HTTP_TOKEN_BYTES_MIN) {
        let message =
            format!("`server.http_token` has less than {HTTP_TOKEN_BYTES_MIN} characters");
        return Err(CliError::user(message).hint("such as the output of `openssl rand -hex 32`"));
    }
    let mut guard = http::Guard::new(address, config.server.http_hosts.clone());
    if let Some(token) = token {
        guard = guard.with_secret(http::Secret::new(token));
    }
    if let Some(auth) = &config.server.auth {
        let protected = http::Protected::new(auth)
            .map_err(|error| CliError::user(format!("`server.auth` has no URL: {error}")))?;
        guard = guard.with_sign_in(protected);
    }
    if !guard.is_safe() {
        let message = format!("{address} can be reached from other machines, by anybody");
        return Err(CliError::user(message).hint(
            "set `server.http_token` to a secret that clients show as `Authorization: Bearer`, or `server.auth` to where they sign in, or listen on 127.0.0.1",
        ));
    }
    let listener = TcpListener::bind(address).await.map_err(|error| {
        CliError::user(format!("cannot listen on {address}: {error}")).hint("choose another port")
    })?;
    Ok((listener, guard))
}

/// Compiles and starts the plugins, and lets the calls go that wait for them.
fn load(
    plan: plugins::Plan,
    place: Option<&CachePlace>,
    outlets: &Outlets,
    store: Arc<dyn Store>,
    pipeline: &watch::Sender<Option<Arc<Pipeline>>>,
    shutdown: &CancellationToken,
) -> Result<Plugins, CliError> {
    let loaded = Runtime::new(place)
        .map_err(|error| CliError::other(&error))
        .and_then(|runtime| Ok(plan.load(&runtime, outlets)?));
    match loaded {
        Ok(loaded) => {
            for refused in &loaded.refused {
                tracing::warn!("plugin `{}` is refused: {}", refused.file, refused.reason);
            }
            pipeline.send_replace(Some(Arc::new(Pipeline::new(loaded.stages, store))));
            give_back_memory();
            Ok(loaded.plugins)
        }
        Err(error) => {
            // Without its interceptors a gateway lets nothing through.
            shutdown.cancel();
            Err(error)
        }
    }
}

/// Compiling takes 10 MiB that the allocator would keep for another time, which does not come.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "`malloc_trim` has no safe wrapper, and touches only what is free")]
fn give_back_memory() {
    // SAFETY: it takes the allocator's own locks and no pointer.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

/// Hands what the plugins measured to the store and the exporter until the end, and once more then.
async fn keep_measurements(
    plugins: &Plugins,
    store: &Arc<dyn Store>,
    exporter: Option<&Exporter>,
    shutdown: &CancellationToken,
) {
    loop {
        let ended =
            shutdown.run_until_cancelled(tokio::time::sleep(METRICS_PERIOD)).await.is_none();
        let deltas = plugins.drain_metrics();
        if !deltas.is_empty() {
            if let Some(exporter) = exporter {
                exporter.metrics(&deltas);
            }
            store.metrics(deltas);
        }
        if ended {
            return;
        }
    }
}

/// The key that vouches for compiled code lies with the user's data, apart from the cache.
fn cache_place(config: &Config, environment: &Environment) -> Option<CachePlace> {
    let key_file = environment.config_dir()?.join("cache.key");
    Some(CachePlace { directory: config.cache_dir.join("plugins"), key_file })
}

/// Returns the seal of this gateway. Its key outlives the process, so that what clients hold stays good.
fn seal(config: &Config, environment: &Environment) -> Seal {
    if let Some(key) = &config.server.seal_key {
        return Seal::of_text(key.expose());
    }
    let path = environment.config_dir().map(|directory| directory.join("seal.key"));
    match path.map(|path| auth::key_kept_at(&path)) {
        Some(Ok(key)) => Seal::new(&key),
        Some(Err(error)) => {
            let error = CliError::other(&error).in_one_line();
            tracing::warn!(
                "tasks and open rounds of modern clients end with this process: {error}"
            );
            Seal::default()
        }
        None => Seal::default(),
    }
}

/// Ends the gateway at SIGTERM and SIGINT.
fn end_at_signals(stopping: &CancellationToken) -> Result<(), CliError> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut received = signal(kind)?;
        let stopping = stopping.clone();
        tokio::spawn(async move {
            received.recv().await;
            tracing::info!("told to terminate");
            stopping.cancel();
        });
    }
    Ok(())
}

/// Returns the store the config asks for.
fn open_store(config: &Config, redactor: &Redactor) -> Result<Arc<dyn Store>, CliError> {
    let storage = &config.storage;
    match storage.backend {
        Backend::Memory => {
            let options = MemoryOptions {
                payload_bytes_max: storage.payload_bytes_max,
                redactor: redactor.clone(),
                ..MemoryOptions::default()
            };
            Ok(Arc::new(MemoryStore::new(options)))
        }
        Backend::Sqlite => {
            let options = SqliteOptions {
                payload_bytes_max: storage.payload_bytes_max,
                retention: storage.retention,
                retention_rows: storage.retention_rows,
                redactor: redactor.clone(),
                ..SqliteOptions::new(&storage.path)
            };
            let store = SqliteStore::open(options).map_err(|error| {
                CliError::other(&error)
                    .hint("`storage.path` names another file, `storage.backend: memory` none")
            })?;
            Ok(Arc::new(store))
        }
    }
}

/// Makes definitions of upstreams from configs.
struct Definitions {
    /// Variables that servers have from us.
    inherited: Arc<BTreeMap<String, String>>,
    options: Option<auth::Options>,
    /// Made for the first server that may want a token: it costs memory and milliseconds.
    authorizer: Arc<OnceLock<Authorizer>>,
    /// Clients may be on other machines.
    serves_others: bool,
}

impl Definitions {
    /// Returns the enabled upstreams.
    fn of(&self, config: &Config) -> Result<Arc<[Definition]>, CliError> {
        let enabled = config.upstreams.iter().filter(|upstream| upstream.enabled);
        let definitions: Arc<[_]> =
            enabled.map(|upstream| self.one(upstream)).collect::<Result<_, _>>()?;
        if definitions.is_empty() {
            let path = config.path.as_ref();
            let path = path
                .map_or_else(|| "the config file".to_owned(), |path| path.display().to_string());
            tracing::warn!("no upstream is enabled: add one under `upstream` in {path}");
        }
        Ok(definitions)
    }

    fn authorizer(&self) -> Option<Authorizer> {
        let options = self.options.clone()?;
        Some(self.authorizer.get_or_init(|| Authorizer::new(options)).clone())
    }

    fn one(&self, upstream: &config::Upstream) -> Result<Definition, CliError> {
        let endpoint = match &upstream.endpoint {
            config::Endpoint::Stdio { command, args, env, cwd } => Endpoint::Stdio(Program {
                command: command.clone(),
                args: args.clone(),
                env: env.clone(),
                inherited: Arc::clone(&self.inherited),
                cwd: cwd.clone(),
            }),
            config::Endpoint::Http { url, headers, transport, oauth } => {
                let mut remote = Remote::new(url, headers, *transport).map_err(|reason| {
                    CliError::user(format!("upstream `{}`: {reason}", upstream.name))
                })?;
                // Who sets the header has a token already.
                if !remote.headers.contains_key(AUTHORIZATION) {
                    let server = auth::Server::new(Arc::clone(&upstream.name), url, oauth.clone());
                    let auth = self.authorizer().zip(server.ok());
                    remote.auth = auth.map(|(authorizer, server)| Auth { authorizer, server });
                }
                Endpoint::Http(Box::new(remote))
            }
        };
        Ok(Definition {
            name: Arc::clone(&upstream.name),
            endpoint,
            era: upstream.era,
            is_shared: upstream.shared,
            hides_sign_in: self.serves_others,
        })
    }
}

/// Takes over changes of the upstreams in the config file, until nobody wants to know.
async fn follow(
    changes: watch::Sender<Arc<[Definition]>>,
    definitions: Definitions,
    explicit: Option<PathBuf>,
    environment: Environment,
    redactor: Redactor,
) {
    let Ok(cwd) = std::env::current_dir() else { return };
    let seen = || {
        let path = explicit.clone().or_else(|| Config::find(&environment, &cwd).ok().flatten())?;
        let metadata = std::fs::metadata(&path).ok()?;
        Some((path, metadata.modified().ok()?, metadata.len()))
    };
    let mut known = seen();
    loop {
        tokio::select! {
            () = tokio::time::sleep(CONFIG_PERIOD) => {}
            () = changes.closed() => return,
        }
        let now = seen();
        if now == known {
            continue;
        }
        known = now;
        let loaded = Config::load(explicit.as_deref(), &environment, &cwd)
            .map_err(CliError::from)
            .and_then(|config| {
                redactor.learn(config.secrets());
                definitions.of(&config)
            });
        match loaded {
            Ok(upstreams) => {
                let is_other = changes.send_if_modified(|before| {
                    let is_other = **before != *upstreams;
                    *before = upstreams;
                    is_other
                });
                if is_other {
                    tracing::info!(
                        "the config has changed: its upstreams are taken over, all else at the next start"
                    );
                }
            }
            Err(error) => {
                tracing::error!(
                    "the config has changed and is not taken over: {}",
                    error.in_one_line()
                );
            }
        }
    }
}
