//! How mail is set up, and what stands in it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::access::Role;
use crate::db::testing::TestDatabase;
use crate::people::authority::Scope;
use crate::people::setup::Setup;
use crate::people::testing::{OWNER, Site};
use crate::people::ticket::Ticket;
use crate::people::{MailError, Options, OptionsError, People};

async fn refusal(url: &str, from: Option<&str>) -> Option<MailError> {
    let test = TestDatabase::sqlite().await;
    let options = Options {
        smtp_url: Some(url.to_owned()),
        mail_from: from.map(str::to_owned),
        ..Options::default()
    };
    match People::new(test.database.clone(), options, "https://hub.test".parse().unwrap()) {
        Err(OptionsError::Mail(error)) => Some(error),
        _ => None,
    }
}

#[tokio::test]
async fn a_password_is_not_sent_for_all_to_read() {
    let from = Some("hub@acme.test");

    for good in [
        "smtps://u:p@mail.test",
        "smtps://u:p@mail.test:465",
        "smtp://u:p@mail.test:587?tls=required",
        "smtp://u:p@127.0.0.1:25",
        "smtp://mail.test",
    ] {
        assert!(refusal(good, from).await.is_none(), "{good}");
    }
    for bad in ["smtp://u:p@mail.test", "smtp://u:p@mail.test?tls=opportunistic"] {
        assert!(matches!(refusal(bad, from).await, Some(MailError::Plain)), "{bad}");
    }
}

#[tokio::test]
async fn what_cannot_send_is_said_at_the_start() {
    assert!(matches!(refusal("mail.test", Some("a@b.test")).await, Some(MailError::Url)));
    assert!(matches!(refusal("http://mail.test", Some("a@b.test")).await, Some(MailError::Url)));
    assert!(matches!(refusal("smtps://mail.test", None).await, Some(MailError::NoSender)));
    assert!(matches!(refusal("smtps://mail.test", Some("nobody")).await, Some(MailError::Sender)));
}

#[tokio::test]
async fn a_code_says_what_it_is_for() {
    let site = Site::each().await.remove(0);
    site.organization("acme").await;
    site.people.ask_code(OWNER, site.address()).await.unwrap();

    let code = site.code(OWNER).await;

    let mail = site.mail.mails().remove(0);
    assert!(mail.from.contains("<hub@acme.test>"), "{}", mail.from);
    assert!(
        mail.text.contains(&format!("Subject: {code} is your code for Ultra Hub")),
        "{}",
        mail.text
    );
    assert!(mail.text.contains("ten minutes"), "{}", mail.text);
}

/// In letters that are not ASCII, and longer than a line of a mail.
#[tokio::test]
async fn a_mail_is_read_as_it_was_written() {
    let site = Site::each().await.remove(0);
    let home = site.organization("acme").await;
    let (by, name) = (site.by(OWNER).await, format!("{}é", "x".repeat(99)));
    let scope = Scope::Organization(home.organization);
    site.people.rename(&by, home.organization, scope, &name).await.unwrap();
    site.people.invite(&by, home.organization, "ada@acme.test", scope, Role::Viewer).await.unwrap();
    site.people.finish().await;

    let mail = site.mail.mails().remove(0).text;

    let (head, body) = mail.split_once("\n\n").unwrap();
    for line in [
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
        "Message-ID: <",
    ] {
        assert!(head.lines().any(|it| it.starts_with(line)), "{line}: {head}");
    }
    assert!(head.contains("@acme.test>\nMIME"), "{head}");
    assert!(mail.is_ascii() && body.lines().all(|line| line.len() <= 76), "{mail}");
    let body = body.replace("=\n", "");
    assert!(body.contains("x=C3=A9") && body.contains("/invites/"), "{body}");
}

/// Keeps what is logged at `info` and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ultra_hub") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whoever runs the Hub passes the code on.
#[tokio::test]
async fn without_a_mail_server_the_code_is_in_the_log() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let test = TestDatabase::sqlite().await;
    let url = "http://127.0.0.1:8080".parse().unwrap();
    let people = People::new(test.database.clone(), Options::default(), url).unwrap();
    let link = people.setup_url().await.unwrap().unwrap();
    let setup = Setup {
        organization: "Acme".to_owned(),
        team: "T".to_owned(),
        workspace: "W".to_owned(),
        email: OWNER.to_owned(),
        name: String::new(),
    };
    let address = [127, 0, 0, 1].into();
    let ticket = Ticket::parse(link.path().strip_prefix("/setup/").unwrap()).unwrap();
    people.set_up(&ticket, &setup, address).await.unwrap();

    people.ask_code("stranger@acme.test", address).await.unwrap();
    let ticket = people.ask_code(OWNER, address).await.unwrap();

    let said = log.0.lock().unwrap().clone();
    assert!(!said.contains("stranger"), "{said}");
    let code = said.split(&format!("`{OWNER}` is ")).nth(1).expect(&said).get(..9).unwrap();
    assert!(people.take_code(&ticket, code, address).await.is_ok(), "{code}");
}
