//! The configuration: validated, immutable. The only place that reads the environment.
//!
//! Whatever is wrong with the file is an error for the whole of it, all of it named at once: a gateway
//! that starts without the half of its file that it did not understand is worse than one that says
//! what to mend. Two things keep one bad entry from hurting the rest: an upstream that is not enabled
//! may lack its variables, or even its command, and commands that start nothing ([`Config::read`])
//! need no variables at all.

pub mod duration;
mod edit;
mod environment;
mod file;
mod interpolate;
mod search;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use edit::{ConfigFile, EditError};
pub use environment::Environment;
pub(crate) use file::similar;

use crate::aggregator::Naming;
use crate::auth::Secret;
use crate::mcp::Era;
use crate::pipeline::FailureMode;
use crate::upstream::Transport;
use yaml::Position;

/// Everything a command needs to know about how it shall behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from; none when there is none and defaults apply.
    pub path: Option<PathBuf>,
    /// `server`.
    pub server: Server,
    /// `upstream`, in the order of the file, disabled ones included.
    pub upstreams: Vec<Upstream>,
    /// `plugins`.
    pub plugins: Plugins,
    /// `storage`.
    pub storage: Storage,
    /// `observability`.
    pub observability: Observability,
    /// `hub`.
    pub hub: Hub,
    /// Directory for what can be made again, such as compiled components.
    pub cache_dir: PathBuf,
    /// What is odd about the file but no error, such as unknown keys.
    pub warnings: Vec<Warning>,
    /// Values of variables and keys that nobody may read in a record; see [`Config::secrets`].
    secrets: Vec<String>,
}

/// Shorter values are not searched for: they occur in ordinary text, and protect nothing.
const SECRET_BYTES_MIN: usize = 6;

impl Config {
    /// Reads the configuration a gateway runs with.
    ///
    /// The file is `explicit`, or the first that exists of those listed in [`Config::find`]; without one
    /// the defaults apply. Variables are replaced in all that is enabled.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::Read`]: the file cannot be read. One that was not named need not exist.
    /// - [`ConfigError::Invalid`]: something in it is wrong; all problems are named.
    /// - [`ConfigError::NoHome`]: no place for the data is known.
    pub fn load(
        explicit: Option<&Path>,
        environment: &Environment,
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        file::load(explicit, environment, cwd, file::Variables::Replace)
    }

    /// Reads the configuration for a command that starts nothing.
    ///
    /// Like [`Config::load`], but `${VAR}` in upstreams and `observability` stays as written: such a
    /// command needs no secrets, and must not show any.
    ///
    /// # Errors
    ///
    /// Those of [`Config::load`].
    pub fn read(
        explicit: Option<&Path>,
        environment: &Environment,
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        file::load(explicit, environment, cwd, file::Variables::Keep)
    }

    /// Returns the file that [`Config::load`] takes if none is named.
    ///
    /// The first that exists of `ultra.yaml`, `ultra.yml`, `.ultra.yaml`, `.ultra.yml` in `cwd`,
    /// `config.yaml`, `config.yml` in the config directory, `.ultra.yaml`, `.ultra.yml` in the home
    /// directory.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`]: it cannot be told whether one of them exists.
    pub fn find(environment: &Environment, cwd: &Path) -> Result<Option<PathBuf>, ConfigError> {
        search::find(environment, cwd)
    }

    /// Returns where a configuration is written when there is none yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoHome`]: there is no place for it.
    pub fn default_path(environment: &Environment) -> Result<PathBuf, ConfigError> {
        Ok(environment.config_dir().ok_or(ConfigError::NoHome)?.join("config.yaml"))
    }

    /// Returns the values that must not appear in any record, longest first.
    ///
    /// Values of `env`, `headers` and `oauth.client_secret`, of variables used anywhere, and of the Hub's keys. A header such
    /// as `Bearer x` also counts without its scheme. Left out are values too short to be a secret.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = self.secrets.clone();
        secrets.extend(self.server.http_token.clone());
        secrets.extend(self.server.seal_key.as_ref().map(|key| key.expose().to_owned()));
        let mut headers = vec![&self.observability.headers];
        for upstream in self.upstreams.iter().filter(|upstream| upstream.enabled) {
            match &upstream.endpoint {
                Endpoint::Stdio { env, .. } => secrets.extend(env.values().cloned()),
                Endpoint::Http { headers: own, oauth, .. } => {
                    headers.push(own);
                    secrets.extend(
                        oauth.client_secret.as_ref().map(|secret| secret.expose().to_owned()),
                    );
                }
            }
        }
        for value in headers.into_iter().flat_map(BTreeMap::values) {
            secrets.extend(value.split_once(' ').map(|(_, credentials)| credentials.to_owned()));
            secrets.push(value.clone());
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        secrets
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("the config file `{}` is not valid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file; at least one.
        problems: Vec<Problem>,
        /// What is odd besides; an unknown key is often the reason for a problem.
        warnings: Vec<Warning>,
    },
    /// Neither a home directory nor XDG directories are known.
    #[error("no home directory is known")]
    NoHome,
}

/// What is wrong with a config file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    fn at(at: Position, message: impl Into<String>) -> Self {
        Self { line: at.line, column: at.column, message: message.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What is odd about a config file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Such as "unknown key `upstream.github.comand`, did you mean `command`?".
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// What MCP clients see, and how calls are bounded.
#[derive(Debug, Clone)]
pub struct Server {
    /// Name advertised to MCP clients.
    pub name: String,
    /// Lowest level that is logged.
    pub log_level: LogLevel,
    /// A call without progress is given up after this long.
    pub call_timeout: Duration,
    /// How tools and prompts are named.
    pub naming: Naming,
    /// What clients show to be let in over HTTP.
    pub http_token: Option<String>,
    /// Names by which clients reach us over HTTP, besides the address.
    pub http_hosts: Vec<String>,
    /// The key that gateways behind one address have in common, or a passphrase for it.
    pub seal_key: Option<Secret>,
    /// So many sessions may be open over HTTP.
    pub http_sessions_max: usize,
    /// A session over HTTP is ended after so long without a request or a listener.
    pub http_session_idle: Duration,
    /// Whose access tokens let clients in over HTTP.
    pub auth: Option<ServerAuth>,
}

/// How clients sign in to the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAuth {
    /// The authorization server, as its tokens name it.
    pub issuer: String,
    /// What tokens must be for: the URL by which clients know the gateway.
    pub audience: String,
    /// Where the issuer's keys are; the issuer is asked if none.
    pub jwks_url: Option<String>,
    /// Scopes that every token must have.
    pub scopes: Vec<String>,
    /// The claim that says whom a client acts for.
    pub principal_claim: String,
}

/// Lowest level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What a person running Ultra wants to know.
    Info,
    /// What may need a look.
    Warn,
    /// What needs a person.
    Error,
}

/// An MCP server behind the gateway.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its name: the namespace of its tools.
    pub name: Arc<str>,
    /// Whether it is started.
    pub enabled: bool,
    /// For people.
    pub description: Option<String>,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// The era of the protocol it is talked to in; found out if none.
    pub era: Option<Era>,
    /// One connection serves all sessions.
    pub shared: bool,
}

/// How an upstream is reached.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A child process on stdio.
    Stdio {
        /// Program, looked up in `PATH`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables besides the base environment, `${VAR}` already replaced.
        env: BTreeMap<String, String>,
        /// Working directory; the gateway's own if none.
        cwd: Option<PathBuf>,
    },
    /// Streamable HTTP or HTTP+SSE.
    Http {
        /// Endpoint URL.
        url: String,
        /// Headers sent with every request.
        headers: BTreeMap<String, String>,
        /// How messages travel.
        transport: Transport,
        /// How to sign in, where it wants that.
        oauth: OAuth,
    },
}

/// How to sign in to an upstream. Empty suffices for servers that let clients register themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OAuth {
    /// A client registered beforehand at the authorization server.
    pub client_id: Option<String>,
    /// Its secret, if it has one.
    pub client_secret: Option<Secret>,
    /// URL of a client metadata document, which is the client's id too.
    pub client_metadata_url: Option<String>,
    /// Scopes to ask for in place of all there are.
    pub scopes: Vec<String>,
    /// Where the browser comes back to on this machine; any free port if none.
    pub callback_port: Option<u16>,
}

/// Which interceptors run, and how.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    /// Directory whose components join the built-ins. `--plugins` beats it.
    pub directory: Option<PathBuf>,
    /// Ids that are not loaded.
    pub disabled: Vec<String>,
    /// Start although a component of the directory was refused.
    pub allow_refused: bool,
    /// What the administrator sets, by plugin id.
    pub overrides: BTreeMap<String, PluginOverride>,
}

/// What the administrator sets for one plugin, over its manifest.
#[derive(Debug, Clone, Default)]
pub struct PluginOverride {
    /// Place in the pipeline.
    pub priority: Option<i32>,
    /// Failure mode of the request phase.
    pub request: Option<FailureMode>,
    /// Failure mode of the response phase.
    pub response: Option<FailureMode>,
    /// Kinds of messages it meets; those of the manifest if none.
    pub sees: Option<Vec<String>>,
    /// Capabilities granted; all the manifest asks for if none are named.
    pub capabilities: Option<Vec<String>>,
    /// Merged over the manifest's default settings, key by key.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// Where records go.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Which store.
    pub backend: Backend,
    /// The SQLite file.
    pub path: PathBuf,
    /// Payloads are stored up to this many bytes each; 0 stores none.
    pub payload_bytes_max: usize,
    /// Records older than this are deleted.
    pub retention: Duration,
    /// At most so many traces are kept, and as many audit events.
    pub retention_rows: u64,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file, shared by all gateways of this user.
    Sqlite,
    /// Lost when the gateway stops.
    Memory,
}

/// Export over OTLP. Local recording is always on.
#[derive(Debug, Clone)]
pub struct Observability {
    /// Whether spans and metrics are exported.
    pub enabled: bool,
    /// `localhost:4317`, `http://host:4317` or `http://host:4318`.
    pub endpoint: String,
    /// Which OTLP.
    pub protocol: OtlpProtocol,
    /// `service.name` of the resource.
    pub service_name: String,
    /// Headers sent with every export.
    pub headers: BTreeMap<String, String>,
}

/// The Hub that the gateway is linked to.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Whether records are sent. Nothing if the file does not say: then a deploy key does.
    pub enabled: Option<bool>,
    /// Where it is: `https`, or `http` on this machine.
    pub url: String,
    /// `gw_…`, as the Hub knows the gateway.
    pub gateway_id: Option<String>,
    /// `ws_…`, where it is linked to.
    pub workspace_id: Option<String>,
    /// Records are sent this often.
    pub sync_interval: Duration,
    /// Nothing is sent, and nothing said about it.
    pub offline_mode: bool,
    /// `dk_…`, of `ULTRA_DEPLOY_KEY` or of the file: lets the gateway link itself.
    pub deploy_key: Option<Secret>,
    /// What the gateway is for: `local`, `dev`, `prod`, or whatever people say.
    pub environment: String,
}

/// Which OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    HttpProtobuf,
}
