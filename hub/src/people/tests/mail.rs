//! How mail is set up, and what stands in it.

use crate::db::testing::TestDatabase;
use crate::people::testing::{OWNER, Site};
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
