//! Mail: by SMTP, or where no server is named, into the log, for whoever runs the Hub to pass on.
//!
//! Sent in the background, so that an answer takes as long whether there is mail or not.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::{Mailbox, SinglePart};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use url::Url;
use uuid::Uuid;

use super::address::Email;

/// Mails under way; further ones are dropped, and people ask again.
const UNDER_WAY_MAX: usize = 64;

/// Connections to the server at the same time.
const CONNECTIONS_MAX: usize = 4;

/// Of one command; a mail has six.
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// Of one mail.
const MAIL_MAX: Duration = Duration::from_secs(30);

/// A server that is busy, or asks to come back, gets another try.
const TRIES: u32 = 2;

const PAUSE: Duration = Duration::from_secs(5);

/// Why mail cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// No address of a server.
    #[error("`--smtp-url` is no address such as `smtps://user:password@mail.example.com`")]
    Url,
    /// The password would be readable on the way.
    #[error(
        "`--smtp-url` has a password and no TLS; use `smtps://`, or `smtp://…?tls=required` for STARTTLS"
    )]
    Plain,
    /// There is a server, and no sender.
    #[error("`--mail-from` is missing; it is the address that mail comes from")]
    NoSender,
    /// No address of a person or program.
    #[error("`--mail-from` is no address such as `Ultra Hub <hub@example.com>`")]
    Sender,
}

/// Sends mail.
#[derive(Clone)]
pub(super) struct Mailer {
    server: Option<Arc<Server>>,
    tasks: TaskTracker,
}

struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    under_way: Arc<Semaphore>,
    connections: Semaphore,
}

impl Mailer {
    /// Returns a mailer for the server at `url`; one that writes to the log if there is none.
    pub(super) fn new(url: Option<&str>, from: Option<&str>) -> Result<Self, MailError> {
        let server = match (url, from) {
            (None, _) => None,
            (Some(_), None) => return Err(MailError::NoSender),
            (Some(url), Some(from)) => Some(Arc::new(Server::new(url, from)?)),
        };
        Ok(Self { server, tasks: TaskTracker::new() })
    }

    /// Whether there is a server.
    pub(super) fn sends(&self) -> bool {
        self.server.is_some()
    }

    /// Sends a code to sign in with.
    pub(super) fn code(&self, to: &Email, code: &str) {
        let code = format!("{} {}", &code[..4], &code[4..]);
        let Some(server) = &self.server else {
            tracing::info!("no mail server is set up: the code to sign in as `{to}` is {code}");
            return;
        };
        let text = format!(
            "Your code to sign in to Ultra Hub is\n\n    {code}\n\nIt works for ten minutes, once, in the \
             browser that asked for it.\nNobody will ask you for it. If you did not ask for it, do nothing.\n"
        );
        self.send(server, to, format!("{code} is your code for Ultra Hub"), text);
    }

    /// Sends the link of an invite. Without a server it is only shown to who made it.
    pub(super) fn invite(&self, to: &Email, organization: &str, inviter: &str, link: &str) {
        let Some(server) = &self.server else { return };
        let text = format!(
            "{inviter} invites you to {organization} on Ultra Hub. To accept, open\n\n    {link}\n\nwithin \
             seven days, and sign in as {to}. If you do not know them, do nothing.\n"
        );
        self.send(server, to, format!("You are invited to {organization} on Ultra Hub"), text);
    }

    fn send(&self, server: &Arc<Server>, to: &Email, subject: String, text: String) {
        let Ok(permit) = Arc::clone(&server.under_way).try_acquire_owned() else {
            tracing::error!("more than {UNDER_WAY_MAX} mails wait to be sent; one is dropped");
            return;
        };
        let mail = match server.mail(to, subject, text) {
            Ok(mail) => mail,
            Err(error) => {
                tracing::error!(%error, "a mail cannot be written");
                return;
            }
        };
        let server = Arc::clone(server);
        self.tasks.spawn(async move {
            server.deliver(mail).await;
            drop(permit);
        });
    }

    /// Waits until all mail is sent that is under way.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

impl Server {
    fn new(url: &str, from: &str) -> Result<Self, MailError> {
        let parsed: Url = url.parse().map_err(|_| MailError::Url)?;
        // To `url`, the host of an address that is not of the web is a text.
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = |address: std::net::IpAddr| address.is_loopback();
        let is_here = host == "localhost" || host.parse().is_ok_and(is_loopback);
        let required =
            parsed.query_pairs().any(|(name, value)| name == "tls" && value == "required");
        let is_safe = parsed.scheme() == "smtps" || required || is_here;
        if parsed.password().is_some() && !is_safe {
            return Err(MailError::Plain);
        }
        let builder =
            AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailError::Url)?;
        Ok(Self {
            transport: builder.timeout(Some(COMMAND_MAX)).build(),
            from: from.parse().map_err(|_| MailError::Sender)?,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            connections: Semaphore::new(CONNECTIONS_MAX),
        })
    }

    fn mail(
        &self,
        to: &Email,
        subject: String,
        text: String,
    ) -> Result<Message, Box<dyn std::error::Error>> {
        let to: Address = to.as_str().parse()?;
        let message =
            Message::builder().from(self.from.clone()).to(Mailbox::new(None, to)).subject(subject);
        // Without a type readers take it for ASCII, and without an id for spam.
        let id = format!("<{}@{}>", Uuid::now_v7(), self.from.email.domain());
        Ok(message.message_id(Some(id)).singlepart(SinglePart::plain(text))?)
    }

    async fn deliver(&self, mail: Message) {
        // Never closed.
        let Ok(_connection) = self.connections.acquire().await else { return };
        for attempt in 1..=TRIES {
            let reason =
                match tokio::time::timeout(MAIL_MAX, self.transport.send(mail.clone())).await {
                    Ok(Ok(_)) => return,
                    Ok(Err(error)) if error.is_permanent() => {
                        tracing::error!(%error, "the mail server refuses a mail");
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("it took more than {} s", MAIL_MAX.as_secs()),
                };
            if attempt == TRIES {
                tracing::error!(reason, "a mail could not be sent");
                return;
            }
            tracing::warn!(reason, "a mail could not be sent yet");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
