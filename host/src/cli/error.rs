//! What a command fails with: for people, with what to do next, and an exit code.

use crate::chain;
use crate::config::{ConfigError, EditError, Problem};
use crate::plugins::PluginsError;
use ultra_store::StoreError;

/// What a command ends with.
pub(crate) type CliResult = Result<(), CliError>;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: Kind,
    /// What is wrong, at least one thing, and what to do about it.
    pub(super) causes: Vec<Cause>,
    /// What is odd besides, and may be the reason.
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The user can mend it.
    User,
    /// Anything else.
    Other,
    /// Nobody listens any more, so there is nothing to say, and nothing went wrong.
    Unheard,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Cause {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl CliError {
    /// Says what is wrong with what the user asked for, in a lower-case fragment.
    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(Kind::User, message.into())
    }

    /// Says why it cannot be done, though the user asked well.
    pub(crate) fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Kind::Other, chain(error))
    }

    fn new(kind: Kind, message: String) -> Self {
        Self { kind, causes: vec![Cause { message, hint: None }], warnings: Vec::new() }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(cause) = self.causes.last_mut() {
            cause.hint = Some(hint.into());
        }
        self
    }

    /// Returns 1 for the user's input, 2 for anything else, 0 when only the reader went away.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::User => 1,
            Kind::Other => 2,
            Kind::Unheard => 0,
        }
    }

    /// Returns what is wrong and what to do about it, for a log.
    pub(super) fn in_one_line(&self) -> String {
        let texts = self.causes.iter().map(|Cause { message, hint }| match hint {
            Some(hint) => format!("{message} ({hint})"),
            None => message.clone(),
        });
        texts.collect::<Vec<_>>().join("; ")
    }

    /// Returns whether there is anything to say.
    pub(super) fn is_heard(&self) -> bool {
        self.kind != Kind::Unheard
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        let mut this = Self::other(&error);
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            this.kind = Kind::Unheard;
        }
        this
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Read { .. } => {
                Self::user(chain(&error)).hint("`--config FILE` names another file")
            }
            ConfigError::NoHome => Self::user(chain(&error))
                .hint("set `HOME`, or `XDG_CONFIG_HOME` and `XDG_CACHE_HOME`"),
            ConfigError::Invalid { path, problems, warnings } => {
                let path = path.display();
                let cause = |Problem { line, column, message, hint }| Cause {
                    message: format!("{path}:{line}:{column}: {message}"),
                    hint,
                };
                Self {
                    kind: Kind::User,
                    causes: problems.into_iter().map(cause).collect(),
                    warnings: warnings.iter().map(|warning| format!("{path}:{warning}")).collect(),
                }
            }
        }
    }
}

impl From<EditError> for CliError {
    fn from(error: EditError) -> Self {
        let text = chain(&error);
        match error {
            EditError::Config(error) => error.into(),
            EditError::Unsafe { .. } => Self::user(text).hint("change it with an editor"),
            EditError::Changed { .. } => Self::user(text).hint("run the command again"),
            EditError::Write { .. } => Self::user(text).hint("check who may write there"),
        }
    }
}

impl From<PluginsError> for CliError {
    fn from(error: PluginsError) -> Self {
        let text = chain(&error);
        match error {
            PluginsError::Refused { .. } => Self::user(text).hint(
                "take it out of the directory, name it in `plugins.disabled`, or start with `--allow-refused-plugins`",
            ),
            PluginsError::Directory { .. } => {
                Self::user(text).hint("`--plugins DIR` and `plugins.directory` name the directory")
            }
        }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let this = Self::other(&error);
        match error {
            StoreError::TooNew { .. } => {
                this.hint("use the newest Ultra that has used this database")
            }
            StoreError::Open { .. } | StoreError::Database { .. } => {
                this.hint("`storage.path` in the config names the file")
            }
            StoreError::Full { .. } | StoreError::Closed => this,
        }
    }
}
