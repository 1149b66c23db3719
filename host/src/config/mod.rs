//! The configuration: validated, immutable. The only place that reads the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::FailureMode;

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
    /// Directory for what can be made again, such as compiled components.
    pub cache_dir: PathBuf,
    /// What is odd about the file but no error, such as unknown keys.
    pub warnings: Vec<Warning>,
}

/// What is odd about a config file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Such as "unknown key `upstream.github.comand`, did you mean `command`?".
    pub message: String,
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
    },
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

/// Which OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    HttpProtobuf,
}
