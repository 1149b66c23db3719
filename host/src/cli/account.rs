//! What the commands towards the Hub have in common: who asks whom, and which file says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ultra_store::{SqliteOptions, SqliteStore, Store};

use super::{CliError, CliResult, Output};
use crate::auth::{Browser, Options};
use crate::chain;
use crate::config::{Backend, Config, ConfigFile, Environment};
use crate::hub::Membership;
use crate::hub::{self, Client, ClientError, Credentials, CredentialsError, Link, LinkError};

/// A Hub that does not answer must not keep anybody from leaving it.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// A database in use gives way within this time, or keeps its records a little longer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The config, the Hub it names, and what lets us in there.
pub(super) struct Account {
    pub(super) config: Config,
    /// The config file that was loaded, or where one would be.
    pub(super) file: PathBuf,
    pub(super) client: Client,
    pub(super) credentials: Credentials,
    pub(super) browser: Browser,
}

impl Account {
    /// Finds out where we are, with `hub` in the place of the config's.
    pub(super) fn open(
        hub: Option<&str>,
        explicit: Option<&Path>,
        environment: &Environment,
        cwd: &Path,
    ) -> Result<Self, CliError> {
        // The Hub's address may have variables. Those of servers need not be set in this shell.
        let config = Config::load(explicit, environment, cwd)
            .or_else(|_| Config::read(explicit, environment, cwd))?;
        let file = match &config.path {
            Some(path) => path.clone(),
            None => Config::default_path(environment)?,
        };
        let options = Options::of(environment)?;
        Ok(Self {
            client: Client::new(hub.unwrap_or(&config.hub.url))?,
            credentials: Credentials::new(&options),
            browser: options.browser,
            config,
            file,
        })
    }

    /// The Hub's address, as people read it.
    pub(super) fn hub(&self) -> &str {
        self.client.url().as_str().trim_end_matches('/')
    }

    /// Returns by which link this gateway belongs to a workspace.
    pub(super) async fn membership(&self) -> Result<Membership, CliError> {
        Ok(Membership::of(&self.config.hub, &self.client, &self.credentials).await?)
    }

    /// Makes the Hub that was asked for that of the config.
    pub(super) fn keep_hub(&self, asked: &str) -> Result<(), CliError> {
        let known = Client::new(&self.config.hub.url);
        if known.is_ok_and(|known| known.url() == self.client.url()) {
            return Ok(());
        }
        let mut file = ConfigFile::open(&self.file)?;
        file.set(&["hub", "url"], &asked.into())?;
        Ok(file.save()?)
    }

    /// Forgets here that the gateway belongs to a workspace.
    ///
    /// # Errors
    ///
    /// The config file still names it. Everything else is done then.
    pub(super) async fn forget(&self, link: Option<&Link>, out: &mut Output) -> CliResult {
        if let Some(link) = link
            && let Err(error) = self.credentials.forget_link(link).await
        {
            out.warn(&format!("the gateway's secret is still here: {}", chain(&error)))?;
        }
        release(&self.config);
        Ok(hub::clear_config(&self.file)?)
    }

    /// Tells the Hub that the gateway leaves; returns what came of it. Without its secret it cannot.
    pub(super) async fn leave(&self, link: Option<&Link>) -> Left {
        let Some(link) = link else {
            return Left::Unheard("the gateway's secret is not on this machine".into());
        };
        let told = self.client.unlink(link.secret.expose());
        match in_time(told).await {
            Ok(()) => Left::Heard,
            Err(Untold::Failed(ClientError::Refused { .. })) => Left::Before,
            Err(error) => Left::Unheard(chain(&error)),
        }
    }
}

/// What the Hub made of a gateway's leaving.
pub(super) enum Left {
    /// It knows.
    Heard,
    /// It had let go of it.
    Before,
    /// It does not know, for this reason.
    Unheard(String),
}

impl Left {
    pub(super) fn say(&self, out: &mut Output) -> CliResult {
        match self {
            Self::Heard => Ok(()),
            Self::Before => out.done("The Hub had let go of this gateway before"),
            Self::Unheard(reason) => {
                out.warn(&format!("could not tell the Hub: {reason}"))?;
                out.hint("its page *Gateways* can unlink it too")
            }
        }
    }
}

/// Why the Hub was not told something.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold<E: std::error::Error + 'static> {
    #[error(transparent)]
    Failed(E),
    #[error("no answer within {} s", TELL_TIMEOUT.as_secs())]
    Late,
}

/// Waits for a Hub that is told something, but not for long.
pub(super) async fn in_time<E: std::error::Error + 'static>(
    told: impl Future<Output = Result<(), E>>,
) -> Result<(), Untold<E>> {
    match tokio::time::timeout(TELL_TIMEOUT, told).await {
        Ok(told) => told.map_err(Untold::Failed),
        Err(_) => Err(Untold::Late),
    }
}

/// Nobody will send what waits: it need not be kept longer than the rest.
fn release(config: &Config) {
    let storage = &config.storage;
    if storage.backend != Backend::Sqlite || !storage.path.exists() {
        return;
    }
    if let Ok(store) = SqliteStore::open(SqliteOptions::new(&storage.path)) {
        store.hold_unsent(None);
        store.flush(Instant::now() + RELEASE_TIMEOUT);
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let text = chain(&error);
        match error {
            ClientError::Address { .. } => Self::user(text)
                .hint("`hub.url` and `--hub` name the Hub, `https://hub.example.com`"),
            ClientError::Refused { status: 401, .. } => {
                Self::user(text).hint("`ultra login` signs in again")
            }
            ClientError::Refused { .. } | ClientError::Invalid { .. } => Self::user(text),
            ClientError::Away { .. } => Self::other(&error).hint("try again when it is back"),
            ClientError::Busy { .. } => Self::other(&error).hint("try again in a while"),
            ClientError::GapsFirst { .. } => Self::other(&error),
            ClientError::Answer { .. } => {
                Self::other(&error).hint("`hub.url` and `--hub` name the Hub")
            }
        }
    }
}

impl From<CredentialsError> for CliError {
    fn from(error: CredentialsError) -> Self {
        match error {
            CredentialsError::SignedOut { .. } => {
                Self::user(chain(&error)).hint("`ultra login` signs in")
            }
            CredentialsError::Ended { .. } => {
                Self::user(chain(&error)).hint("`ultra login` signs in again")
            }
            CredentialsError::Hub(error) => error.into(),
            CredentialsError::Vault(ref vault) => match vault.hint() {
                Some(hint) => Self::other(&error).hint(hint),
                None => Self::other(&error),
            },
            CredentialsError::Locked { .. }
            | CredentialsError::Refused { .. }
            | CredentialsError::Ending => Self::other(&error),
        }
    }
}

impl From<LinkError> for CliError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Hub(error) => error.into(),
            LinkError::Keep(_) => Self::other(&error),
        }
    }
}
