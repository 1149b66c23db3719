//! The YAML file: its keys, their types and their defaults.
//!
//! A walk over the tree instead of a serde mirror, because every message names a line and a column, and
//! because all that is wrong is named at once. Unknown keys are warnings: an older gateway must live with
//! the file of a newer one. Writing the file back is not done here, see [`ConfigFile`](super::ConfigFile).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::interpolate::{InterpolateError, interpolate};
use super::yaml::{Document, Entry, Kind, Node, Position, parse};
use super::{
    Backend, Config, ConfigError, Endpoint, Environment, Hub, LogLevel, OAuth, Observability,
    OtlpProtocol, PluginOverride, Plugins, Problem, Server, ServerAuth, Storage, Upstream, Warning,
    duration, search,
};
use crate::aggregator::Naming;
use crate::auth::{Secret, is_loopback};
use crate::mcp::Era;
use crate::pipeline::FailureMode;
use crate::upstream::Transport;

/// A config file of a thousand upstreams has a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longer names leave too little of the 64 characters that clients allow for a tool's name.
const UPSTREAM_NAME_CHARS_MAX: usize = 32;

/// Above what clients wait by default, so that a gateway between gives up no call that the client would
/// still wait for, unless told so.
const CALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Each takes some 20 KiB, and processes where upstreams are not shared.
const HTTP_SESSIONS_MAX: usize = 1000;
const HTTP_SESSION_IDLE: Duration = Duration::from_secs(30 * 60);

/// What can be guessed lets its finder read and forge what other gateways sealed.
const SEAL_KEY_BYTES_MIN: usize = 32;

const PAYLOAD_BYTES_MAX: usize = 16 << 10;
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// With payloads of the largest size, about 3 GB.
const RETENTION_ROWS: u64 = 100_000;

/// The Hub that Ultra's makers run.
const HUB_URL: &str = "https://hub.ultra.security";
const SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// Each look for new records is a request.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);

const ROOT: &[&str] =
    &["version", "server", "upstream", "plugins", "storage", "observability", "policy", "hub"];
const SERVER: &[&str] = &[
    "name",
    "log_level",
    "call_timeout",
    "naming",
    "http_token",
    "http_hosts",
    "auth",
    "http_sessions_max",
    "http_session_idle",
    "seal_key",
];
const AUTH: &[&str] = &["issuer", "audience", "jwks_url", "scopes", "principal_claim"];
const UPSTREAM: &[&str] = &[
    "command",
    "args",
    "env",
    "cwd",
    "url",
    "headers",
    "oauth",
    "transport",
    "era",
    "enabled",
    "shared",
    "description",
];
const OAUTH: &[&str] =
    &["client_id", "client_secret", "client_metadata_url", "scopes", "callback_port"];
const PLUGINS: &[&str] = &["directory", "disabled", "allow_refused", "overrides"];
const OVERRIDE: &[&str] = &["priority", "request", "response", "sees", "capabilities", "settings"];
const STORAGE: &[&str] = &["backend", "path", "payload_bytes_max", "retention", "retention_rows"];
const OBSERVABILITY: &[&str] = &["enabled", "endpoint", "protocol", "service_name", "headers"];

const HUB: &[&str] = &[
    "enabled",
    "url",
    "gateway_id",
    "workspace_id",
    "sync_interval",
    "offline_mode",
    "deploy_key",
    "environment",
];

const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("error", LogLevel::Error),
];
const MODES: &[(&str, FailureMode)] =
    &[("open", FailureMode::Open), ("closed", FailureMode::Closed)];
const NAMINGS: &[(&str, Naming)] =
    &[("prefixed", Naming::Prefixed), ("on_collision", Naming::OnCollision)];
const TRANSPORTS: &[(&str, Transport)] = &[
    ("auto", Transport::Auto),
    ("streamable-http", Transport::Streamable),
    ("sse", Transport::Sse),
];
const ERAS: &[(&str, Option<Era>)] =
    &[("auto", None), ("legacy", Some(Era::Legacy)), ("modern", Some(Era::Modern))];
const BACKENDS: &[(&str, Backend)] = &[("sqlite", Backend::Sqlite), ("memory", Backend::Memory)];
const PROTOCOLS: &[(&str, OtlpProtocol)] =
    &[("grpc", OtlpProtocol::Grpc), ("http", OtlpProtocol::HttpProtobuf)];

/// What becomes of `${VAR}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variables {
    /// It becomes the variable's value, and an unset one is an error.
    Replace,
    /// It stays.
    Keep,
}

/// Finds, reads and validates the config file.
pub(super) fn load(
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    variables: Variables,
) -> Result<Config, ConfigError> {
    let path = match explicit {
        Some(path) => Some(cwd.join(path).components().collect()),
        None => search::find(environment, cwd)?,
    };
    let Some(path) = path else {
        return validate("", None, environment, variables);
    };
    let text = read(&path)?;
    validate(&text, Some(path), environment, variables)
}

/// Returns the text of a config file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(ErrorKind::FileTooLarge.into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = valid.split('\n').count();
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let problem = Problem::at(Position { line, column }, "not UTF-8");
        ConfigError::Invalid {
            path: path.to_owned(),
            problems: vec![problem],
            warnings: Vec::new(),
        }
    })
}

/// Makes a configuration of the text of a file; `path` is where it came from.
pub(super) fn validate(
    text: &str,
    path: Option<PathBuf>,
    environment: &Environment,
    variables: Variables,
) -> Result<Config, ConfigError> {
    let invalid = |problems, warnings| {
        let path = path.clone().unwrap_or_default();
        ConfigError::Invalid { path, problems, warnings }
    };
    let Document { root, duplicates } =
        parse(text).map_err(|problem| invalid(vec![problem], Vec::new()))?;
    let base = path.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
    let mut reader = Reader {
        environment,
        variables,
        base,
        problems: duplicates,
        warnings: vec![],
        secrets: vec![],
    };
    let root = reader.section(root.as_ref(), String::new(), ROOT);

    reader.version(&root);
    let server = reader.server(&root);
    let upstreams = reader.upstreams(&root);
    let plugins = reader.plugins(&root);
    let storage = reader.storage(&root);
    let observability = reader.observability(&root);
    let hub = reader.hub(&root);
    // Documented, without an effect yet.
    reader.mapping(root.get("policy"), root.path("policy"));

    let Reader { mut problems, mut warnings, secrets, .. } = reader;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    if !problems.is_empty() {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        return Err(invalid(problems, warnings));
    }
    let cache_dir = environment.cache_dir().ok_or(ConfigError::NoHome)?;
    let storage = storage.ok_or(ConfigError::NoHome)?;
    Ok(Config {
        path,
        server,
        upstreams,
        plugins,
        storage,
        observability,
        hub,
        cache_dir,
        warnings,
        secrets,
    })
}

/// A mapping of the file and the dotted path of its key.
struct Section<'n> {
    path: String,
    entries: &'n [Entry],
}

impl<'n> Section<'n> {
    /// Returns the value of a key; one without a value is as good as absent.
    fn get(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.value).filter(|value| !value.is_null())
    }

    fn key_at(&self, key: &str) -> Option<Position> {
        Some(self.entries.iter().find(|entry| entry.key == key)?.at)
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The walk over the tree, gathering all that is wrong.
struct Reader<'e> {
    environment: &'e Environment,
    variables: Variables,
    /// Relative paths start at the directory of the file: clients start the gateway just anywhere.
    base: PathBuf,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    secrets: Vec<String>,
}

/// The sections, in the order of the documentation.
impl Reader<'_> {
    fn version(&mut self, root: &Section<'_>) {
        let Some(version) = self.text(root, "version") else { return };
        if version != "1" {
            self.problem(
                root,
                "version",
                format!("unknown version `{version}`"),
                "this Ultra knows \"1\"",
            );
        }
    }

    fn server(&mut self, root: &Section<'_>) -> Server {
        let section = self.section(root.get("server"), root.path("server"), SERVER);
        let call_timeout = self.duration(&section, "call_timeout").unwrap_or(CALL_TIMEOUT);
        let http_sessions_max =
            self.integer(&section, "http_sessions_max").unwrap_or(HTTP_SESSIONS_MAX);
        if http_sessions_max == 0 {
            let message = "`server.http_sessions_max` is 0";
            self.problem(&section, "http_sessions_max", message, "a client needs at least 1");
        }
        Server {
            name: self.text(&section, "name").unwrap_or_else(|| "ultra".into()),
            log_level: self.choice(&section, "log_level", LOG_LEVELS).unwrap_or(LogLevel::Info),
            call_timeout,
            naming: self.choice(&section, "naming", NAMINGS).unwrap_or(Naming::Prefixed),
            http_token: self.replaced(&section, "http_token", true),
            http_hosts: self.list(&section, "http_hosts", false),
            seal_key: self.seal_key(&section),
            http_sessions_max,
            http_session_idle: self
                .duration(&section, "http_session_idle")
                .unwrap_or(HTTP_SESSION_IDLE),
            auth: self.auth(&section),
        }
    }

    fn auth(&mut self, server: &Section<'_>) -> Option<ServerAuth> {
        let node = server.get("auth")?;
        let replace = self.replaces(true);
        let section = self.section(Some(node), server.path("auth"), AUTH);
        let auth = ServerAuth {
            issuer: self.replaced(&section, "issuer", replace).unwrap_or_default(),
            audience: self.replaced(&section, "audience", replace).unwrap_or_default(),
            jwks_url: self.replaced(&section, "jwks_url", replace),
            scopes: self.list(&section, "scopes", replace),
            principal_claim: self
                .text(&section, "principal_claim")
                .unwrap_or_else(|| "sub".to_owned()),
        };
        let issuer = "the URL of the authorization server, just as `iss` of its tokens has it";
        let audience =
            "the URL by which clients know the gateway, such as `https://gateway.example/mcp`";
        for (key, hint) in [("issuer", issuer), ("audience", audience)] {
            if section.get(key).is_none() && matches!(node.kind, Kind::Map(_)) {
                let message = format!("`{}` is missing", section.path(key));
                self.problems.push(Problem::at(node.at, message).hint(hint));
            }
        }
        if replace {
            self.safe_url(&section, "issuer", Some(&auth.issuer), false);
            self.safe_url(&section, "audience", Some(&auth.audience), false);
            self.safe_url(&section, "jwks_url", auth.jwks_url.as_deref(), true);
        }
        if let Some(scope) = auth.scopes.iter().find(|scope| replace && !is_scope(scope)) {
            let message = format!("`{}` has `{scope}`, which is no scope", section.path("scopes"));
            self.problem(&section, "scopes", message, "a scope has no spaces and no quotes");
        }
        if auth.principal_claim.is_empty() {
            let message = format!("`{}` is empty", section.path("principal_claim"));
            self.problem(&section, "principal_claim", message, "such as `sub` or `email`");
        }
        Some(auth)
    }

    /// Reports a URL to which nothing secret should go, or that two parties could read differently.
    fn safe_url(&mut self, section: &Section<'_>, key: &str, text: Option<&str>, query: bool) {
        let Some(text) = text.filter(|_| section.get(key).is_some()) else { return };
        if !is_safe_url(text, query) {
            let message = format!("`{}` cannot be `{text}`", section.path(key));
            let rule = "it begins with `https://`, or on this machine with `http://`";
            let hint =
                if query { rule.to_owned() } else { format!("{rule}, and has no `?` or `#`") };
            self.problem(section, key, message, &hint);
        }
    }

    fn seal_key(&mut self, section: &Section<'_>) -> Option<Secret> {
        let replace = self.replaces(true);
        let key = self.replaced(section, "seal_key", replace)?;
        if replace && key.len() < SEAL_KEY_BYTES_MIN {
            let message =
                format!("`server.seal_key` has less than {SEAL_KEY_BYTES_MIN} characters");
            self.problem(
                section,
                "seal_key",
                message,
                "such as the output of `openssl rand -hex 32`",
            );
        }
        Some(Secret::new(key))
    }

    fn upstreams(&mut self, root: &Section<'_>) -> Vec<Upstream> {
        let all = self.mapping(root.get("upstream"), root.path("upstream"));
        let mut upstreams = Vec::with_capacity(all.entries.len());
        for entry in all.entries {
            self.upstream_name(entry);
            let section = self.section(Some(&entry.value), all.path(&entry.key), UPSTREAM);
            upstreams.extend(self.upstream(entry, &section));
        }
        upstreams
    }

    fn upstream(&mut self, entry: &Entry, section: &Section<'_>) -> Option<Upstream> {
        let enabled = self.flag(section, "enabled").unwrap_or(false);
        let description = self.text(section, "description");
        let replace = self.replaces(enabled);
        let endpoint = match (section.get("command"), section.get("url")) {
            (Some(_), None) => {
                self.no_effect(section, &["headers", "oauth", "transport"], "command");
                let command = self.replaced(section, "command", replace).unwrap_or_default();
                Some(Endpoint::Stdio {
                    command: self.home_expanded(&command).unwrap_or(command),
                    args: self.list(section, "args", replace),
                    env: self.table(section, "env", replace, is_variable_name),
                    cwd: self.replaced(section, "cwd", replace).map(|cwd| self.path(&cwd)),
                })
            }
            (None, Some(_)) => {
                self.no_effect(section, &["args", "env", "cwd"], "url");
                let url = self.replaced(section, "url", replace).unwrap_or_default();
                if replace && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
                {
                    let message = format!("`{}` is no HTTP URL", section.path("url"));
                    self.problem(section, "url", message, "it begins with `http://` or `https://`");
                }
                Some(Endpoint::Http {
                    url,
                    headers: self.table(section, "headers", replace, is_header_name),
                    transport: self
                        .choice(section, "transport", TRANSPORTS)
                        .unwrap_or(Transport::Auto),
                    oauth: self.oauth(section, replace),
                })
            }
            (Some(_), Some(_)) => {
                self.left_out(entry, enabled, "has both `command` and `url`", "keep one of them");
                None
            }
            (None, None) => {
                // A value of the wrong type has been named already.
                if matches!(entry.value.kind, Kind::Map(_)) || entry.value.is_null() {
                    let message = "has neither `command` nor `url`";
                    self.left_out(entry, enabled, message, "give it one of them");
                }
                None
            }
        };
        Some(Upstream {
            name: Arc::from(entry.key.as_str()),
            enabled,
            description,
            era: self.choice(section, "era", ERAS).flatten(),
            shared: self.flag(section, "shared").unwrap_or(false),
            endpoint: endpoint?,
        })
    }

    fn oauth(&mut self, upstream: &Section<'_>, replace: bool) -> OAuth {
        let section = self.section(upstream.get("oauth"), upstream.path("oauth"), OAUTH);
        let oauth = OAuth {
            client_id: self.replaced(&section, "client_id", replace),
            client_secret: self.replaced(&section, "client_secret", replace).map(Secret::new),
            client_metadata_url: self.replaced(&section, "client_metadata_url", replace),
            scopes: self.list(&section, "scopes", replace),
            callback_port: self.integer(&section, "callback_port"),
        };
        if oauth.client_id.is_none() && oauth.client_secret.is_some() {
            let message =
                format!("`{}` has no `client_id` beside it", section.path("client_secret"));
            self.problem(&section, "client_secret", message, "name the client whose secret it is");
        }
        // A path is part of what the authorization server checks.
        let is_document = |url: &Url| url.scheme() == "https" && url.path() != "/";
        if let Some(url) = oauth.client_metadata_url.as_deref().filter(|_| replace)
            && !Url::parse(url).is_ok_and(|url| is_document(&url))
        {
            let message =
                format!("`{}` is no URL of a document", section.path("client_metadata_url"));
            let hint = "it begins with `https://` and has a path";
            self.problem(&section, "client_metadata_url", message, hint);
        }
        oauth
    }

    /// Reports an upstream that cannot be used: a problem only where it is meant to be used.
    fn left_out(&mut self, entry: &Entry, enabled: bool, message: &str, hint: &str) {
        let message = format!("upstream `{}` {message}", entry.key);
        if enabled {
            self.problems.push(Problem::at(entry.at, message).hint(hint));
        } else {
            let Position { line, column } = entry.at;
            let message = format!("{message}, and is left out");
            self.warnings.push(Warning { line, column, message });
        }
    }

    /// The name is the namespace of the upstream's tools, and clients are narrow about their names.
    fn upstream_name(&mut self, entry: &Entry) {
        let name = &entry.key;
        let problem = |message: String| Problem::at(entry.at, message);
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let problem = if name == "ultra" {
            problem("the name `ultra` is taken by the gateway's own tools".into())
                .hint("choose another name")
        } else if name.contains("__") {
            problem(format!("the upstream name `{name}` contains `__`"))
                .hint("`__` stands between the names of upstream and tool; use a single `_`")
        } else if name.is_empty()
            || name.len() > UPSTREAM_NAME_CHARS_MAX
            || !name.chars().all(allowed)
        {
            problem(format!("`{name}` is no name for an upstream")).hint(format!(
                "use 1 to {UPSTREAM_NAME_CHARS_MAX} letters, digits, `-` and `_`, without accents"
            ))
        } else {
            return;
        };
        self.problems.push(problem);
    }

    fn plugins(&mut self, root: &Section<'_>) -> Plugins {
        let section = self.section(root.get("plugins"), root.path("plugins"), PLUGINS);
        let overrides = self.mapping(section.get("overrides"), section.path("overrides"));
        Plugins {
            directory: self.replaced(&section, "directory", true).map(|path| self.path(&path)),
            disabled: self.list(&section, "disabled", false),
            allow_refused: self.flag(&section, "allow_refused").unwrap_or(false),
            overrides: overrides
                .entries
                .iter()
                .map(|entry| (entry.key.clone(), self.plugin(entry, overrides.path(&entry.key))))
                .collect(),
        }
    }

    fn plugin(&mut self, entry: &Entry, path: String) -> PluginOverride {
        let section = self.section(Some(&entry.value), path, OVERRIDE);
        let settings = self.mapping(section.get("settings"), section.path("settings"));
        PluginOverride {
            priority: self.integer(&section, "priority"),
            request: self.choice(&section, "request", MODES),
            response: self.choice(&section, "response", MODES),
            sees: section.get("sees").is_some().then(|| self.list(&section, "sees", false)),
            capabilities: section
                .get("capabilities")
                .is_some()
                .then(|| self.list(&section, "capabilities", false)),
            settings: settings
                .entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.to_json()))
                .collect(),
        }
    }

    /// Returns nothing if no place for the database is known.
    fn storage(&mut self, root: &Section<'_>) -> Option<Storage> {
        let section = self.section(root.get("storage"), root.path("storage"), STORAGE);
        let backend = self.choice(&section, "backend", BACKENDS).unwrap_or(Backend::Sqlite);
        let path = self.replaced(&section, "path", true).map(|path| self.path(&path));
        let default = || self.environment.config_dir().map(|dir| dir.join("ultra.db"));
        let path = path.or_else(default).or((backend == Backend::Memory).then(PathBuf::new));
        let retention_rows = self.integer(&section, "retention_rows").unwrap_or(RETENTION_ROWS);
        if retention_rows == 0 {
            let message = "`storage.retention_rows` is 0";
            self.problem(
                &section,
                "retention_rows",
                message,
                "keep at least 1; `backend: memory` keeps none on disk",
            );
        }
        Some(Storage {
            backend,
            payload_bytes_max: self
                .bytes(&section, "payload_bytes_max")
                .unwrap_or(PAYLOAD_BYTES_MAX),
            retention: self.duration(&section, "retention").unwrap_or(RETENTION),
            retention_rows,
            path: path?,
        })
    }

    fn observability(&mut self, root: &Section<'_>) -> Observability {
        let section =
            self.section(root.get("observability"), root.path("observability"), OBSERVABILITY);
        let enabled = self.flag(&section, "enabled").unwrap_or(false);
        let replace = self.replaces(enabled);
        let endpoint = self.replaced(&section, "endpoint", replace).unwrap_or_default();
        if enabled && endpoint.is_empty() {
            let message = "`observability` is enabled without an `endpoint`";
            self.problem(&section, "enabled", message, "such as `endpoint: localhost:4317`");
        }
        // 4318 is the port OTLP/HTTP has of IANA; whoever names it means it.
        let by_port = match endpoint.trim_end_matches('/').ends_with(":4318") {
            true => OtlpProtocol::HttpProtobuf,
            false => OtlpProtocol::Grpc,
        };
        Observability {
            enabled,
            protocol: self.choice(&section, "protocol", PROTOCOLS).unwrap_or(by_port),
            service_name: self
                .replaced(&section, "service_name", replace)
                .unwrap_or_else(|| "ultra".into()),
            headers: self.table(&section, "headers", replace, is_header_name),
            endpoint,
        }
    }

    fn hub(&mut self, root: &Section<'_>) -> Hub {
        let section = self.section(root.get("hub"), root.path("hub"), HUB);
        let enabled = self.flag(&section, "enabled");
        let replace = self.replaces(enabled != Some(false));
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let url = some(self.replaced(&section, "url", replace));
        if replace {
            self.safe_url(&section, "url", url.as_deref(), false);
        }
        let sync_interval = self.duration(&section, "sync_interval").unwrap_or(SYNC_INTERVAL);
        if sync_interval < SYNC_INTERVAL_MIN {
            let message = "`hub.sync_interval` is shorter than a second";
            self.problem(&section, "sync_interval", message, "such as `60s`");
        }
        let named = some(self.environment.get("ULTRA_DEPLOY_KEY").map(str::to_owned));
        let deploy_key = named.or_else(|| some(self.replaced(&section, "deploy_key", replace)));
        // Also what does not count now, and keys that this version does not know.
        let secret = |entry: &&Entry| entry.key.ends_with("_key") || entry.key.contains("token");
        for entry in section.entries.iter().filter(secret) {
            if let Kind::Scalar { text, .. } = &entry.value.kind {
                self.secrets.push(text.clone());
            }
        }
        self.secrets.extend(deploy_key.clone());
        Hub {
            enabled,
            url: url.unwrap_or_else(|| HUB_URL.to_owned()),
            gateway_id: some(self.text(&section, "gateway_id")),
            workspace_id: some(self.text(&section, "workspace_id")),
            sync_interval,
            offline_mode: self.flag(&section, "offline_mode").unwrap_or(false),
            deploy_key: deploy_key.map(Secret::new),
            environment: some(self.text(&section, "environment"))
                .unwrap_or_else(|| "local".to_owned()),
        }
    }
}

/// The types.
impl Reader<'_> {
    /// Reads a mapping with known keys.
    fn section<'n>(&mut self, node: Option<&'n Node>, path: String, known: &[&str]) -> Section<'n> {
        let section = self.mapping(node, path);
        for entry in section.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let mut message = format!("unknown key `{}`", section.path(&entry.key));
            if let Some(meant) = similar(&entry.key, known.iter().copied()) {
                message.push_str(&format!(", did you mean `{meant}`?"));
            }
            self.warnings.push(Warning { line: entry.at.line, column: entry.at.column, message });
        }
        section
    }

    /// Reads a mapping with any keys.
    fn mapping<'n>(&mut self, node: Option<&'n Node>, path: String) -> Section<'n> {
        let entries: &[Entry] = match node {
            Some(Node { kind: Kind::Map(entries), .. }) => entries,
            Some(node) if !node.is_null() => {
                let subject = if path.is_empty() { "the file".into() } else { format!("`{path}`") };
                let message = format!("{subject} must be a mapping, not {}", node.kind.name());
                self.problems
                    .push(Problem::at(node.at, message).hint("write `key: value` lines, indented"));
                &[]
            }
            _ => &[],
        };
        Section { path, entries }
    }

    /// Reads one value as it is written.
    fn text(&mut self, section: &Section<'_>, key: &str) -> Option<String> {
        self.replaced(section, key, false)
    }

    /// Reads one value and replaces its variables if told so.
    fn replaced(&mut self, section: &Section<'_>, key: &str, replace: bool) -> Option<String> {
        self.value(section.get(key)?, &section.path(key), replace)
    }

    fn value(&mut self, node: &Node, path: &str, replace: bool) -> Option<String> {
        let Kind::Scalar { text, .. } = &node.kind else {
            let message = format!("`{path}` must be a single value, not {}", node.kind.name());
            self.problems.push(Problem::at(node.at, message));
            return None;
        };
        if node.is_null() {
            let problem = Problem::at(node.at, format!("`{path}` has no value"));
            self.problems.push(problem.hint("write `\"\"` if it is meant to be empty"));
            return None;
        }
        if text.contains('\0') {
            self.problems.push(Problem::at(node.at, format!("`{path}` contains a NUL character")));
            return None;
        }
        if !replace {
            return Some(text.clone());
        }
        match interpolate(text, |name| self.environment.get(name)) {
            Ok(interpolated) => {
                self.secrets.extend(interpolated.secrets);
                Some(interpolated.text)
            }
            Err(error) => {
                self.problems.push(interpolation_problem(node.at, path, error));
                None
            }
        }
    }

    fn list(&mut self, section: &Section<'_>, key: &str, replace: bool) -> Vec<String> {
        let path = section.path(key);
        match section.get(key) {
            None => Vec::new(),
            Some(Node { kind: Kind::List(items), .. }) => {
                let value = |(index, item)| self.value(item, &format!("{path}[{index}]"), replace);
                items.iter().enumerate().filter_map(value).collect()
            }
            Some(node) => {
                let message = format!("`{path}` must be a list, not {}", node.kind.name());
                self.problems.push(
                    Problem::at(node.at, message).hint(format!("write `{key}: [\"a\", \"b\"]`")),
                );
                Vec::new()
            }
        }
    }

    fn table(
        &mut self,
        section: &Section<'_>,
        key: &str,
        replace: bool,
        is_name: fn(&str) -> bool,
    ) -> BTreeMap<String, String> {
        let table = self.mapping(section.get(key), section.path(key));
        let mut values = BTreeMap::new();
        for entry in table.entries {
            if !is_name(&entry.key) {
                let message = format!("`{}` is no name for `{}`", entry.key, table.path);
                self.problems.push(Problem::at(entry.at, message));
            }
            if let Some(value) = self.value(&entry.value, &table.path(&entry.key), replace) {
                values.insert(entry.key.clone(), value);
            }
        }
        values
    }

    fn flag(&mut self, section: &Section<'_>, key: &str) -> Option<bool> {
        match section.get(key)?.to_json() {
            serde_json::Value::Bool(flag) => Some(flag),
            _ => {
                let message = format!("`{}` must be true or false", section.path(key));
                self.problem(section, key, message, "write `true` or `false`, without quotes");
                None
            }
        }
    }

    fn integer<T: TryFrom<i64>>(&mut self, section: &Section<'_>, key: &str) -> Option<T> {
        let number =
            section.get(key)?.to_json().as_i64().and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let message =
                format!("`{}` must be a whole number within its range", section.path(key));
            self.problem(section, key, message, "such as `100`");
        }
        number
    }

    fn bytes(&mut self, section: &Section<'_>, key: &str) -> Option<usize> {
        let text = self.text(section, key)?;
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match &text[number.len()..] {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            _ => None,
        };
        let bytes =
            factor.and_then(|factor| number.trim().parse::<usize>().ok()?.checked_mul(factor));
        if bytes.is_none() {
            let message =
                format!("`{}` must be a number of bytes, not `{text}`", section.path(key));
            self.problem(section, key, message, "such as `16384` or `16 KiB`");
        }
        bytes
    }

    fn duration(&mut self, section: &Section<'_>, key: &str) -> Option<Duration> {
        let text = self.text(section, key)?;
        let duration = duration::parse(&text).filter(|duration| !duration.is_zero());
        if duration.is_none() {
            let message = format!("`{}` must be a duration, not `{text}`", section.path(key));
            self.problem(section, key, message, "such as `30s`, `5m`, `1h30m` or `30d`");
        }
        duration
    }

    fn choice<T: Copy>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(section, key)?;
        let chosen = choices.iter().find(|(name, _)| *name == text);
        if chosen.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!("`{}` cannot be `{text}`", section.path(key));
            self.problem(section, key, message, &format!("one of {}", names.join(", ")));
        }
        chosen.map(|(_, value)| *value)
    }

    fn replaces(&self, enabled: bool) -> bool {
        enabled && self.variables == Variables::Replace
    }

    /// Reports a problem with the value of a key, or with the key's section if it has none.
    fn problem(
        &mut self,
        section: &Section<'_>,
        key: &str,
        message: impl Into<String>,
        hint: &str,
    ) {
        let at = section.get(key).map_or(Position { line: 1, column: 1 }, |node| node.at);
        self.problems.push(Problem::at(at, message).hint(hint));
    }

    fn no_effect(&mut self, section: &Section<'_>, keys: &[&str], beside: &str) {
        for (key, at) in keys.iter().filter_map(|key| Some((key, section.key_at(key)?))) {
            let message = format!("`{}` has no effect beside `{beside}`", section.path(key));
            self.warnings.push(Warning { line: at.line, column: at.column, message });
        }
    }

    fn path(&self, text: &str) -> PathBuf {
        self.base.join(self.home_expanded(text).unwrap_or_else(|| text.to_owned()))
    }

    /// Returns the path with the home directory for a leading `~`.
    fn home_expanded(&self, text: &str) -> Option<String> {
        let rest =
            text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        Some(format!("{}{rest}", self.environment.home()?.to_str()?))
    }
}

fn interpolation_problem(at: Position, path: &str, error: InterpolateError) -> Problem {
    match error {
        InterpolateError::Unset(name) => {
            let mut hint = format!("set it, or write `${{{name}:-}}` if it may be missing");
            if let Some(upstream) =
                path.strip_prefix("upstream.").and_then(|rest| rest.split('.').next())
            {
                hint.push_str(&format!(", or run `ultra servers disable {upstream}`"));
            }
            Problem::at(at, format!("`{path}` needs the variable `{name}`, which is not set"))
                .hint(hint)
        }
        InterpolateError::Unclosed => {
            Problem::at(at, format!("`{path}` has a `${{` without its `}}`"))
                .hint("write `$${` for a literal `${`")
        }
        InterpolateError::Name(name) => {
            Problem::at(at, format!("`{path}` has `${{{name}}}`, which names no variable"))
                .hint("write `${NAME}` or `${NAME:-default}`, or `$${` for a literal `${`")
        }
    }
}

/// Returns the candidate that `word` is probably a misspelling of.
pub(crate) fn similar<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let (distance, candidate) =
        candidates.into_iter().map(|candidate| (distance(candidate), candidate)).min()?;
    (distance <= 1.max(word.chars().count() / 3)).then_some(candidate)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// A `token` of RFC 9110, section 5.6.2.
fn is_header_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token)
}

/// A URL to which and about which nothing secret can leak: `https`, or on this machine.
fn is_safe_url(text: &str, may_have_query: bool) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    // Parsers pass over some characters; whoever compares the text does not.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
    let is_private = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
    is_plain
        && is_private
        && url.host().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
        && (may_have_query || url.query().is_none())
}

/// A `scope-token` of RFC 6749, section 3.3.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

#[cfg(test)]
mod tests;
