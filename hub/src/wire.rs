//! What gateways and the Hub say to each other: JSON over HTTP, below `/api/v1`.
//!
//! | Request | Authorization | Body | Answer |
//! |---|---|---|---|
//! | `GET workspaces` | person | | [`Workspaces`] |
//! | `POST gateways` | person or deploy key | [`LinkRequest`] | [`Linked`] |
//! | `GET gateways/self` | gateway | | [`Me`] |
//! | `DELETE gateways/self` | gateway | | 204 |
//! | `POST heartbeat` | gateway | [`Heartbeat`] | [`HeartbeatReply`] |
//! | `POST records` | gateway | [`BatchHead`] and a line per record | [`Acknowledgement`] |
//!
//! People come with an access token of the Hub's own authorization server: `GET /oauth/authorize` (code with
//! PKCE S256, client `ultra-cli`, a loopback redirect with any port), `POST /oauth/token` (`authorization_code`,
//! `refresh_token`; a refresh token works once), `POST /oauth/revoke`. Its errors are those of RFC 6749.
//!
//! What a gateway meets: 401 `revoked` or `unauthorized` and 403 are final; 409 `gaps_first` names what the
//! Hub has; 429 and 503 come with `Retry-After` in seconds; everything else is tried again later.
//!
//! What is sent may have members more than are known here, and the other way round: members that a
//! newer side added have a default. Errors are a [`Problem`] each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Content type of a batch: a [`BatchHead`] on the first line, then one record per line.
pub const BATCH_CONTENT_TYPE: &str = "application/x-ndjson";

/// Records of a batch.
pub const BATCH_RECORDS_MAX: u64 = 1000;

/// Bytes of a batch as it is sent.
pub const BATCH_SENT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a batch when it is no longer compressed.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Spans of a stream: a batch that would make more is refused (`gaps_first`).
pub const SPANS_MAX: usize = 1000;

/// The shortest heartbeat period, in seconds.
pub const HEARTBEAT_PERIOD_S_MIN: u32 = 30;

/// Numbers from the first to the second, both included.
pub type Span = (i64, i64);

/// Which records.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// What calls did.
    Traces,
    /// What must not be forgotten.
    Audit,
}

impl RecordKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Audit => "audit",
        }
    }
}

/// A run of records of one database: the first line of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchHead {
    /// Id of the gateway's database: 32 hex digits.
    pub database: String,
    /// What the records are.
    pub kind: RecordKind,
    /// Number of the first record; at least 1. The others follow without a gap.
    pub first: i64,
    /// How many lines follow; at most [`BATCH_RECORDS_MAX`], and none if only `lost` is to be said.
    pub count: u64,
    /// Numbers that will never come, because the gateway has them no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Vec<i64>>)]
    pub lost: Vec<Span>,
}

/// What the Hub has of a stream, after the batch was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    /// The numbers that need not be sent again: rising, apart from each other.
    #[schema(value_type = Vec<Vec<i64>>)]
    pub spans: Vec<Span>,
    /// How many records of this batch could not be read. They are kept aside and count as taken.
    #[serde(default)]
    pub rejected: u64,
}

/// What the Hub has of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamState {
    /// Id of the gateway's database.
    pub database: String,
    /// What the records are.
    pub kind: RecordKind,
    /// The numbers that need not be sent again.
    #[schema(value_type = Vec<Vec<i64>>)]
    pub spans: Vec<Span>,
}

/// A workspace that the asker may link gateways to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// `ws_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of its team.
    pub team: String,
    /// Name of its organization.
    pub organization: String,
}

/// The answer to `GET workspaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workspaces {
    /// Who asks.
    pub user: Person,
    /// Those that the asker may link gateways to.
    pub workspaces: Vec<Workspace>,
}

/// Somebody with an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Person {
    /// `usr_…`
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Name; may be empty.
    pub name: String,
}

/// Asks to link this gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkRequest {
    /// The workspace. A deploy key has its own, and may leave it out.
    #[serde(default)]
    pub workspace: Option<String>,
    /// What people shall see.
    pub name: String,
    /// The machine.
    pub host: Host,
    /// What the gateway's database has from before it was linked, and keeps to itself.
    #[serde(default)]
    pub before: Vec<StreamState>,
    /// A UUID made by the gateway: whoever asks again with the same one gets the same gateway, with a new secret.
    #[serde(default)]
    pub request: Option<String>,
}

/// The answer to a [`LinkRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Linked {
    /// `gw_…`
    pub gateway_id: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub workspace: Workspace,
    /// The gateway's own secret, `ugw_…`. It is not shown again.
    pub secret: String,
}

/// The answer to `GET gateways/self`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// `gw_…`
    pub gateway_id: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub workspace: Workspace,
    /// What the Hub has of its streams.
    pub streams: Vec<StreamState>,
}

/// The machine and the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Host {
    /// `linux`, `macos`, `windows`.
    pub os: String,
    /// Such as `Debian GNU/Linux 12`.
    pub os_version: Option<String>,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Name of the machine.
    pub hostname: String,
    /// Version of Ultra.
    pub version: String,
    /// `personal`, `team`, `ci`, `container`, `server`.
    pub kind: String,
    /// `local`, `dev`, `prod`, or what the config says.
    pub environment: String,
}

/// Says that a process of a gateway runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// Of this process: a UUID made at its start.
    pub process: String,
    /// The machine and the program.
    pub host: Host,
    /// Seconds until the next one.
    pub period_s: u32,
    /// The process ends. Its silence means nothing.
    #[serde(default)]
    pub farewell: bool,
    /// Id of the gateway's database; the answer has its streams.
    pub database: String,
    /// Records that wait to be sent.
    #[serde(default)]
    pub unsent: u64,
    /// The clients in front of this process.
    #[serde(default)]
    pub clients: Vec<ClientReport>,
    /// The servers behind it.
    #[serde(default)]
    pub upstreams: Vec<UpstreamReport>,
    /// How the machine is set up. Nothing in it if the gateway does not know.
    #[serde(default)]
    pub setup: SetupReport,
}

/// An MCP client that uses the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientReport {
    /// As it calls itself.
    pub name: String,
    /// Likewise.
    #[serde(default)]
    pub version: String,
    /// Whether its configuration is Ultra's; nothing if that was not looked at.
    #[serde(default)]
    pub managed: Option<bool>,
    /// When it last asked for something, in milliseconds since 1970 UTC.
    #[serde(default)]
    pub active_unix_ms: Option<i64>,
}

/// A server behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpstreamReport {
    /// Name in the config.
    pub name: String,
    /// `starting`, `ready`, `waiting`, `stopped`.
    pub state: String,
    /// Name and version from its `serverInfo`.
    #[serde(default)]
    pub server: Option<String>,
    /// `stdio`, `http`, `sse`.
    #[serde(default)]
    pub transport: Option<String>,
    /// How many tools it lists.
    #[serde(default)]
    pub tools: u64,
    /// Why it is not ready.
    #[serde(default)]
    pub error: Option<String>,
}

/// How the machine is set up. What is missing is shown as "not reported".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SetupReport {
    /// Name of the enforcement profile.
    pub enforcement_profile: Option<String>,
    /// When the clients' configurations were last looked at, in milliseconds since 1970 UTC.
    pub config_scan_unix_ms: Option<i64>,
    /// MCP servers that are only reached through Ultra.
    pub servers_managed: Option<u64>,
    /// MCP servers of all clients.
    pub servers_total: Option<u64>,
    /// Times that a managed configuration was changed behind Ultra's back.
    pub drift_events: Option<u64>,
}

/// The answer to a [`Heartbeat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatReply {
    /// What the Hub has of this database. Less than it once had: it was restored from a backup.
    pub streams: Vec<StreamState>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One word that does not change, such as `unauthorized`, `revoked`, `full`, `gaps_first`.
    pub error: String,
    /// What happened and what to do next, for people.
    pub message: String,
    /// With `gaps_first`: what the Hub has of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<i64>>>)]
    pub spans: Option<Vec<Span>>,
}

impl std::fmt::Debug for Linked {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linked")
            .field("gateway_id", &self.gateway_id)
            .field("name", &self.name)
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}
