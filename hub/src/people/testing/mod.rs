//! What tests of people need: a site with a mail server, browsers, an identity provider.

mod browser;
mod provider;
mod smtp;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;

use serde_json::{Value as Json, json};
use tokio_util::task::TaskTracker;

pub(crate) use browser::{Browser, ORIGIN, Page};
pub(crate) use provider::{Person, Provider, Signer};
pub(crate) use smtp::{Mail, Mood, Smtp};

use super::address::Email;
use super::authority::{By, Scope};
use super::organization::Founding;
use super::sessions::Device;
use super::sign_in::Method;
use super::{OidcOptions, Options, People};
use crate::access::{Account, Role};
use crate::api::Api;
use crate::db::testing::TestDatabase;
use crate::db::{Database, Dialect, FromValue, Value, values};
use crate::events::EventStore;
use crate::events::sql::{self, SqlEvents};
use crate::id::{OrganizationId, TeamId, UserId, WorkspaceId};
use crate::{router, serve};

/// Who owns the organization of a site.
pub(crate) const OWNER: &str = "owner@acme.test";

/// A Hub, with a mail server.
pub(crate) struct Site {
    pub(crate) people: Arc<People>,
    pub(crate) api: Api,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) mail: Smtp,
    router: Router,
    addresses: AtomicU32,
    _test: TestDatabase,
}

/// An organization, with its one team and workspace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) organization: OrganizationId,
    pub(crate) team: TeamId,
    pub(crate) workspace: WorkspaceId,
}

impl Home {
    /// The address of a page of the workspace.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("/w/{}/{path}", self.workspace)
    }
}

impl Site {
    /// One on each database there is.
    pub(crate) async fn each() -> Vec<Self> {
        Self::each_with(None).await
    }

    /// Likewise, with an identity provider.
    pub(crate) async fn each_with(oidc: Option<OidcOptions>) -> Vec<Self> {
        let mut sites = Vec::new();
        for test in TestDatabase::each().await {
            sites.push(Self::new(test, oidc.clone()).await);
        }
        sites
    }

    async fn new(test: TestDatabase, oidc: Option<OidcOptions>) -> Self {
        let mail = Smtp::start().await;
        let options = Options {
            smtp_url: Some(mail.url()),
            mail_from: Some("Ultra Hub <hub@acme.test>".to_owned()),
            oidc,
        };
        let database = Arc::clone(&test.database);
        let url = ORIGIN.parse().unwrap();
        let people = Arc::new(People::new(Arc::clone(&database), options, url).unwrap());
        let store = sql::Options::default();
        let events = SqlEvents::open(Arc::clone(&database), store, &TaskTracker::new()).await;
        let events: Arc<dyn EventStore> = Arc::new(events.unwrap());
        let (api, web) = serve::wire(&database, Arc::clone(&people), events).await.unwrap();
        let router = router::hub(api.clone(), web, Arc::clone(&database));
        Self { api, people, database, mail, router, addresses: 1.into(), _test: test }
    }

    /// A browser at an address of its own.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.router.clone(), self.address())
    }

    pub(crate) fn address(&self) -> IpAddr {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    /// An organization with its owner, whose address is `owner@` and the name below `.test`.
    pub(crate) async fn organization(&self, name: &str) -> Home {
        let owner = Account {
            id: UserId::new(),
            email: format!("owner@{name}.test"),
            name: "Olga Owner".to_owned(),
        };
        let founding = Founding {
            organization: name,
            slug: name,
            team: "Team",
            workspace: "Main",
            owner: &owner,
        };
        let mut transaction = self.database.begin().await.unwrap();
        let organization = founding.insert(&mut *transaction, self.people.now_ms()).await.unwrap();
        transaction.commit().await.unwrap();
        let sql = "SELECT team, id FROM workspaces WHERE organization = $1";
        let row = self.database.row(sql, &values![organization]).await.unwrap().unwrap();
        Home { organization, team: row.get(0).unwrap(), workspace: row.get(1).unwrap() }
    }

    /// Gives somebody a role, and an account if there is none.
    pub(crate) async fn member(
        &self,
        email: &str,
        home: &Home,
        scope: Scope,
        role: Role,
    ) -> Account {
        let email = Email::parse(email).unwrap();
        let mut transaction = self.database.begin().await.unwrap();
        let account = self.people.account(&mut *transaction, &email, "").await.unwrap();
        let now_ms = self.people.now_ms();
        super::members::join(&mut *transaction, account.id, home.organization, scope, role, now_ms)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        account
    }

    /// A browser in which somebody is signed in.
    pub(crate) async fn signed_in(&self, email: &str) -> Browser {
        let mut browser = self.browser();
        let device = Device { address: browser.address, agent: "Browser/1.0".to_owned() };
        let email = Email::parse(email).unwrap();
        let session = self.people.sign_in(&email, Method::Email, &device).await.unwrap();
        browser.cookies.insert("ultra_session".to_owned(), session.reveal().to_owned());
        browser
    }

    /// An access token of somebody, as `ultra login` gets it.
    pub(crate) async fn token(&self, email: &str) -> String {
        let user = self.by(email).await.account.id;
        let mut transaction = self.database.begin().await.unwrap();
        let issued =
            self.people.issue(&mut *transaction, user, rand::random(), None).await.unwrap();
        transaction.commit().await.unwrap();
        issued.access.reveal()
    }

    /// A program that shows a token.
    pub(crate) fn program(&self, token: &str) -> Browser {
        let browser = self.browser().saying("accept", "application/json");
        browser.saying("sec-fetch-site", "").saying("authorization", &format!("Bearer {token}"))
    }

    /// Links a gateway with the token of a person or a deploy key; returns what the Hub answers.
    pub(crate) async fn link(&self, token: &str, workspace: WorkspaceId, name: &str) -> Json {
        let host = json!({"os": "linux", "arch": "x86_64", "hostname": name, "version": "0.1.0",
            "kind": "personal", "environment": "local"});
        let body = json!({"workspace": workspace.to_string(), "name": name, "host": host});
        let linked = self.program(token).tell("/api/v1/gateways", &body).await;
        assert_eq!(linked.status, 201, "{}", linked.text);
        linked.json()
    }

    /// Returns every path of the site, each with the methods it takes.
    pub(crate) async fn routes(&self) -> BTreeSet<(String, http::Method)> {
        // Its `Debug` is the only thing that tells.
        let router = format!("{:?}", self.router);
        let routes = router.split("fallback_router").next().unwrap();
        let mut found = BTreeSet::new();
        for path in routes.split('"').filter(|text| text.starts_with('/')) {
            let page = self.browser().send(http::Method::OPTIONS, path, Body::empty()).await;
            assert_eq!(page.status, 405, "{path}");
            let allowed = page.header("allow").split(',').filter(|method| *method != "HEAD");
            found.extend(allowed.map(|method| (path.to_owned(), method.parse().unwrap())));
        }
        found
    }

    pub(crate) async fn by(&self, email: &str) -> By {
        let sql = "SELECT id, email, name FROM users WHERE email = $1";
        let row = self.database.row(sql, &values![email]).await.unwrap().unwrap();
        let account = Account {
            id: row.get(0).unwrap(),
            email: row.get(1).unwrap(),
            name: row.get(2).unwrap(),
        };
        By { account, address: self.address() }
    }

    /// Returns the code that was last sent to an address.
    pub(crate) async fn code(&self, email: &str) -> String {
        self.people.finish().await;
        let mails = self.mail.mails();
        // Invites are on their way too, in any order.
        let is_code = |mail: &&Mail| mail.to.contains(email) && mail.text.contains("is your code");
        let mail = mails.iter().rev().find(is_code).expect("a mail");
        let line = mail.text.lines().find(|line| line.starts_with("    ")).expect("a code");
        line.trim().to_owned()
    }

    /// Makes the database refuse to change rows of a table from now on.
    pub(crate) async fn refuse_updates(&self, table: &str) {
        let sql = match self.database.dialect() {
            Dialect::Sqlite => format!(
                "CREATE TRIGGER refuse_{table} BEFORE UPDATE ON {table}
                 BEGIN SELECT RAISE(FAIL, 'no room'); END"
            ),
            Dialect::Postgres => format!(
                "CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN RAISE EXCEPTION ''no room''; END';
                 CREATE TRIGGER refuse_{table} BEFORE UPDATE ON {table}
                 FOR EACH ROW EXECUTE FUNCTION refuse_{table}()"
            ),
        };
        let mut transaction = self.database.begin().await.unwrap();
        transaction.batch(&sql).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Lets time pass.
    pub(crate) fn later(&self, ms: i64) {
        self.people.later_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Returns one value of the database.
    pub(crate) async fn value<T: FromValue>(&self, sql: &str, parameters: &[Value]) -> T {
        self.database.row(sql, parameters).await.unwrap().expect("a row").get(0).unwrap()
    }

    /// Returns what the Admin Log has, oldest first: action and target.
    pub(crate) async fn log(&self) -> Vec<(String, String)> {
        let sql = "SELECT action, target FROM admin_log ORDER BY at_ms, id";
        let rows = self.database.rows(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect()
    }
}

/// Runs something many times at once; returns what came of each.
pub(crate) async fn all_at_once<F>(times: usize, mut task: impl FnMut() -> F) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let tasks: Vec<_> = (0..times).map(|_| tokio::spawn(task())).collect();
    let mut outcomes = Vec::with_capacity(times);
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}
