//! Every way into the site, tried by everybody.

mod table;

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::json;

use self::table::{Actor, Door, Guard, Person, Way, expected, names, ways};
use super::routes::{Need, ROUTES};
use crate::access::{Ability, Role};
use crate::api::tests::{heartbeat, recent, records};
use crate::db::values;
use crate::events::tests::{event, id, with};
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Home, OWNER, Page, Site};
use crate::people::ticket::Ticket;
use crate::secret::{Purpose, Secret};
use crate::wire::{BATCH_CONTENT_TYPE, RecordKind};

const TARGET: &str = "target@acme.test";

/// Who owns the other organization.
const THEIR_OWNER: &str = "owner@other.test";

/// Stands in everything that the other organization has.
const THEIRS: &str = "their-secret";

fn said(page: &Page) -> Door {
    match page.status {
        StatusCode::SEE_OTHER if page.location().starts_with("/sign-in?return_to=%2F") => {
            Door::SignIn
        }
        StatusCode::SEE_OTHER if page.location() == "/sign-in" => Door::SignIn,
        StatusCode::UNAUTHORIZED => Door::Unauthorized,
        StatusCode::FORBIDDEN => Door::Forbidden,
        StatusCode::NOT_FOUND => Door::NotFound,
        _ => Door::Open,
    }
}

/// What an organization has.
struct Place {
    home: Home,
    /// Whoever owns it: their address, and an access token.
    owner: &'static str,
    token: String,
    key: Secret,
    /// A gateway with records: its id and its secret.
    gateway: String,
    secret: String,
    /// The number of its records.
    record: i64,
}

impl Place {
    /// Fills an organization with records that all have `mark` in them.
    async fn fill(site: &Site, name: &str, owner: &'static str, mark: &str, record: i64) -> Self {
        let home = site.organization(name).await;
        let token = site.token(owner).await;
        let by = site.by(owner).await;
        let key = site.people.create_key(&by, home.organization, home.workspace, mark, None).await;
        let linked = site.link(&token, home.workspace, mark).await;
        let secret = linked["secret"].as_str().unwrap().to_owned();
        let beat = site.program(&secret).tell("/api/v1/heartbeat", &heartbeat(mark)).await;
        assert_eq!(beat.status, 200, "{}", beat.text);
        site.api.presence.flush().await.unwrap();
        let marks = json!({"upstream": mark, "name": mark, "action": mark, "reason": mark,
            "session_id": mark, "principal": mark, "request": {"name": mark}, "details": {"x": mark}});
        let place = Self {
            home,
            owner,
            token,
            key: key.unwrap(),
            gateway: linked["gateway_id"].as_str().unwrap().to_owned(),
            secret,
            record,
        };
        let of = |kind| match kind {
            RecordKind::Traces => with(recent(record), marks.clone()),
            RecordKind::Audit => with(event(record), marks.clone()),
        };
        for kind in [RecordKind::Traces, RecordKind::Audit] {
            let body = records(kind, &[of(kind)]);
            let mut device = site.program(&place.secret).saying("content-type", BATCH_CONTENT_TYPE);
            let page = device.send(Method::POST, "/api/v1/records", Body::from(body)).await;
            assert_eq!((page.status.as_u16(), &page.json()["rejected"]), (200, &json!(0)));
        }
        place
    }
}

/// A site with two organizations that have one of everything.
struct Fixture {
    site: Site,
    ours: Place,
    theirs: Place,
    expired: String,
    removed: String,
    revoked: String,
    number: u32,
}

impl Fixture {
    async fn new(site: Site) -> Self {
        let ours = Place::fill(&site, "acme", OWNER, "our-own", 1).await;
        let theirs = Place::fill(&site, "other", THEIR_OWNER, THEIRS, 2).await;
        let scope = Scope::Organization(ours.home.organization);
        for role in Role::ALL {
            if role != Role::Owner {
                site.member(&Person::In(role).email(), &ours.home, scope, role).await;
            }
        }
        let runs = Person::RunsWorkspace.email();
        site.member(&runs, &ours.home, scope, Role::Viewer).await;
        site.member(&runs, &ours.home, Scope::Team(ours.home.team), Role::Admin).await;
        let expired = site.token(OWNER).await;
        let lookup = Secret::parse(Purpose::AccessToken, &expired).unwrap().lookup();
        let sql = "UPDATE tokens SET expires_ms = 0 WHERE lookup = $1";
        site.database.execute(sql, &values![lookup]).await.unwrap();
        let mut fixture = Self {
            site,
            ours,
            theirs,
            expired,
            removed: String::new(),
            revoked: String::new(),
            number: 0,
        };
        fixture.removed = fixture.removed_token().await;
        fixture.revoked = fixture.revoked_gateway().await;
        fixture
    }

    /// The access token of somebody who was removed after they got it.
    async fn removed_token(&self) -> String {
        let email = Person::Removed.email();
        self.join_removed().await;
        let token = self.site.token(&email).await;
        self.remove(&email).await;
        token
    }

    async fn join_removed(&self) {
        let scope = Scope::Workspace(self.ours.home.workspace);
        self.site.member(&Person::Removed.email(), &self.ours.home, scope, Role::Admin).await;
    }

    async fn remove(&self, email: &str) {
        let (by, gone) = (self.site.by(OWNER).await, self.site.by(email).await.account.id);
        let home = self.ours.home;
        let scope = Scope::Workspace(home.workspace);
        self.site.people.remove_member(&by, home.organization, gone, scope).await.unwrap();
    }

    /// The secret of a gateway whose deploy key was revoked.
    async fn revoked_gateway(&self) -> String {
        let key = self.key(&self.ours).await;
        let secret = self.gateway(&self.ours, &key.reveal()).await.1;
        self.revoke(&key).await;
        secret
    }

    async fn key(&self, of: &Place) -> Secret {
        let (people, by) = (&self.site.people, self.site.by(of.owner).await);
        let key = people.create_key(&by, of.home.organization, of.home.workspace, "key", None);
        key.await.unwrap()
    }

    async fn revoke(&self, key: &Secret) {
        let (people, by) = (&self.site.people, self.site.by(OWNER).await);
        let id = people.deploy_key(key).await.unwrap().id;
        people.revoke_key(&by, self.ours.home.organization, id).await.unwrap();
    }

    /// The id and the secret of a gateway that was linked just now.
    async fn gateway(&self, of: &Place, token: &str) -> (String, String) {
        let linked = self.site.link(token, of.home.workspace, "new").await;
        let text = |name: &str| linked[name].as_str().unwrap().to_owned();
        (text("gateway_id"), text("secret"))
    }

    /// A browser of somebody, who has just signed in, or a program with a token.
    async fn browser(&self, actor: Actor, way: &Way) -> Browser {
        let token = match actor {
            Actor::Nobody => return self.site.browser(),
            Actor::Session(Person::Removed) => {
                let email = Person::Removed.email();
                self.join_removed().await;
                let browser = self.site.signed_in(&email).await;
                self.remove(&email).await;
                return browser;
            }
            Actor::Session(person) => return self.site.signed_in(&person.email()).await,
            Actor::Token(Person::Removed) => self.removed.clone(),
            Actor::Token(person) => self.site.token(&person.email()).await,
            Actor::Expired => self.expired.clone(),
            // It will be gone afterwards.
            Actor::Gateway if way.method == Method::DELETE => {
                self.gateway(&self.ours, &self.ours.token).await.1
            }
            Actor::GatewayElsewhere if way.method == Method::DELETE => {
                self.gateway(&self.theirs, &self.theirs.token).await.1
            }
            Actor::Gateway => self.ours.secret.clone(),
            Actor::GatewayElsewhere => self.theirs.secret.clone(),
            Actor::GatewayRevoked => self.revoked.clone(),
            Actor::Key => self.ours.key.reveal(),
            Actor::KeyElsewhere => self.theirs.key.reveal(),
        };
        self.site.browser().saying("authorization", &format!("Bearer {token}"))
    }

    /// What stands for a name in a path, in one of the places.
    async fn value(&mut self, way: &Way, name: &str, is_ours: bool) -> String {
        self.number += 1;
        let (site, of) = (&self.site, if is_ours { &self.ours } else { &self.theirs });
        let by = site.by(of.owner).await;
        let scope = Scope::Workspace(of.home.workspace);
        match name {
            "workspace" | "target" => of.home.workspace.to_string(),
            "team" => of.home.team.to_string(),
            "user" if !is_ours => by.account.id.to_string(),
            "user" => site.member(TARGET, &of.home, scope, Role::Viewer).await.id.to_string(),
            "invite" => {
                let email = format!("invited-{}@acme.test", self.number);
                let invited =
                    site.people.invite(&by, of.home.organization, &email, scope, Role::Viewer);
                invited.await.unwrap();
                site.people.invitations(&email).await.unwrap()[0].id.to_string()
            }
            "key" => {
                let key = self.key(of).await;
                site.people.deploy_key(&key).await.unwrap().id.to_string()
            }
            // Forms leave nothing of it.
            "gateway" if is_ours && way.guard == Guard::Form => self.gateway(of, &of.token).await.0,
            "gateway" => of.gateway.clone(),
            "trace" | "event" => id(of.record).to_string(),
            "server" if is_ours => "our-own".to_owned(),
            "server" => THEIRS.to_owned(),
            "file" => "traces.csv".to_owned(),
            "name" => crate::web::assets::path("hub.css").replace("/assets/", ""),
            "ticket" => Ticket::new().reveal().to_owned(),
            "session" => "00".repeat(32),
            "family" => "7".to_owned(),
            other => panic!("no `{other}` to try it with"),
        }
    }

    /// The path of a way, all of which is there.
    async fn path(&mut self, way: &Way) -> String {
        let mut path = way.path.to_owned();
        for name in names(way.path) {
            let value = self.value(way, name, true).await;
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        match way.path {
            "/w/{workspace}/server" => format!("{path}?name=our-own"),
            "/w/{workspace}/session" => {
                format!("{path}?gateway={}&session=our-own", self.ours.gateway)
            }
            _ => path,
        }
    }

    async fn send(&self, way: &Way, path: &str, browser: &mut Browser, csrf: &str) -> Page {
        let home = self.ours.home;
        let scope = Scope::Workspace(home.workspace).to_string();
        let (name, email) =
            (format!("Name {}", self.number), format!("new-{}@acme.test", self.number));
        let workspace = home.workspace.to_string();
        match (&way.method, way.path) {
            (&Method::POST, "/api/v1/gateways") => {
                let link = json!({"name": name, "workspace": workspace, "host": {}});
                browser.tell(path, &link).await
            }
            (&Method::POST, "/api/v1/heartbeat") => browser.tell(path, &heartbeat("our-own")).await,
            (&Method::POST, "/api/v1/records") => {
                let body = Body::from(records(RecordKind::Traces, &[recent(1)]));
                let mut browser = browser.clone().saying("content-type", BATCH_CONTENT_TYPE);
                browser.send(Method::POST, path, body).await
            }
            (&Method::POST, _) => {
                let fields = [
                    ("name", name.as_str()),
                    ("first_workspace", "First"),
                    ("scope", &scope),
                    ("role", "viewer"),
                    ("email", &email),
                    ("workspace_id", &workspace),
                    ("days", "30"),
                    ("code", "00000000"),
                    ("csrf", csrf),
                ];
                browser.post(path, &fields).await
            }
            (method, _) => browser.send(method.clone(), path, Body::empty()).await,
        }
    }

    async fn open(&mut self, way: &Way, browser: &mut Browser, csrf: &str) -> Page {
        let path = self.path(way).await;
        self.send(way, &path, browser, csrf).await
    }
}

/// Behind these doors there may be nothing, for this person or at all.
fn may_be_empty(way: &Way) -> bool {
    let paths = ["{ticket}", "/sign-in/oidc", "{session}", "/invites/{invite}/accept", "/sign-out"];
    paths.iter().any(|path| way.path.contains(path))
}

#[tokio::test]
async fn every_way_is_open_for_those_who_may_and_for_nobody_else() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        for way in ways() {
            for actor in Actor::all() {
                let mut browser = fixture.browser(actor, &way).await;
                let csrf = browser.csrf();

                let page = fixture.open(&way, &mut browser, &csrf).await;

                let (door, expected) = (said(&page), expected(way.guard, actor));
                let what = format!("{actor:?} {way:?}: {} {}", page.status, page.text);
                if expected == Door::Open && may_be_empty(&way) {
                    assert!(![Door::Forbidden, Door::Unauthorized].contains(&door), "{what}");
                } else {
                    assert_eq!(door, expected, "{what}");
                }
                assert!(!page.status.is_server_error(), "{what}");
                assert!(actor.is_elsewhere() || !page.text.contains(THEIRS), "{what}");
                assert!(!actor.is_elsewhere() || !page.text.contains("our-own"), "{what}");
            }
        }
    }
}

/// What the other organization has, is not there in one's own workspace either.
#[tokio::test]
async fn no_id_of_others_opens_anything_in_ones_own_workspace() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        let token = format!("Bearer {}", fixture.ours.token);
        for way in ways() {
            let Some(name) = way.second().filter(|name| *name != "file") else { continue };
            let theirs = fixture.value(&way, name, false).await;
            let home = fixture.ours.home.workspace.to_string();
            let path =
                way.path.replace("{workspace}", &home).replace(&format!("{{{name}}}"), &theirs);
            let mut browser = fixture.site.signed_in(OWNER).await.saying("authorization", &token);
            let csrf = browser.csrf();

            let page = fixture.send(&way, &path, &mut browser, &csrf).await;

            assert_eq!(page.status, StatusCode::NOT_FOUND, "{way:?} {}", page.text);
            assert!(!page.text.contains(THEIRS), "{way:?} {}", page.text);
        }
        let (gateway, trace) = (fixture.theirs.gateway.clone(), id(fixture.theirs.record));
        let mut browser = fixture.site.signed_in(OWNER).await;
        for page in [
            format!("gateways?panel={gateway}"),
            format!("gateways?scope=all&panel={gateway}"),
            format!("traces?panel={trace}"),
            format!("session?gateway={gateway}&session={THEIRS}"),
        ] {
            let page = browser.get(&fixture.ours.home.page(&page)).await;
            assert_eq!(page.status, StatusCode::NOT_FOUND, "{}", page.text);
        }
        // Their own people see all that nobody else does.
        let mut browser = fixture.site.signed_in(THEIR_OWNER).await;
        for page in ["gateways", "traces", "audit", "servers", "export/traces.json"] {
            let page = browser.get(&fixture.theirs.home.page(page)).await;
            assert!(page.text.contains(THEIRS), "{}", page.text);
        }
    }
}

#[tokio::test]
async fn nothing_is_changed_without_the_form_of_this_session() {
    let owner = Actor::Session(Person::In(Role::Owner));
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        let ways = ways();
        let other = fixture.browser(owner, &ways[0]).await.csrf();
        for way in ways.iter().filter(|way| way.is_guarded_form()) {
            for csrf in ["", "x", other.as_str()] {
                let mut browser = fixture.browser(owner, way).await;
                let page = fixture.open(way, &mut browser, csrf).await;
                assert_eq!(page.status, StatusCode::BAD_REQUEST, "{way:?} {}", page.text);
            }
        }
        let is_page = |way: &&Way| match way.guard {
            Guard::People(need) => need != Need::Program,
            _ => way.is_guarded_form(),
        };
        for way in ways.iter().filter(|way| way.method == Method::POST).filter(is_page) {
            let browser = fixture.browser(owner, way).await;
            let mut browser = browser.saying("sec-fetch-site", "cross-site");
            let csrf = browser.csrf();
            let page = fixture.open(way, &mut browser, &csrf).await;
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{way:?} {}", page.text);
        }
        let sql = "SELECT count(*) FROM gateways WHERE unlinked_ms IS NOT NULL OR archived_ms IS NOT NULL";
        assert_eq!(fixture.site.value::<i64>(sql, &[]).await, 0);
    }
}

#[tokio::test]
async fn a_gateway_is_refused_from_the_moment_it_may_not_any_more() {
    for site in Site::each().await {
        let fixture = Fixture::new(site).await;
        let home = fixture.ours.home;
        for how in ["key", "owner", "unlink", "archive"] {
            let key = fixture.key(&fixture.ours).await;
            fixture.join_removed().await;
            let email = Person::Removed.email();
            let person = fixture.site.token(&email).await;
            let token = if how == "owner" { person } else { key.reveal() };
            let (gateway, secret) = fixture.gateway(&fixture.ours, &token).await;
            let mut device = fixture.site.program(&secret);
            assert_eq!(device.get("/api/v1/gateways/self").await.status, StatusCode::OK, "{how}");

            match how {
                "key" => fixture.revoke(&key).await,
                "owner" => fixture.remove(&email).await,
                form => {
                    let mut browser = fixture.site.signed_in(OWNER).await;
                    let path = home.page(&format!("gateways/{gateway}/{form}"));
                    let page = browser.submit(&path, &[]).await;
                    assert_eq!(page.status, StatusCode::SEE_OTHER, "{form} {}", page.text);
                }
            }

            let mut lines = device.clone().saying("content-type", BATCH_CONTENT_TYPE);
            let body = Body::from(records(RecordKind::Traces, &[recent(1)]));
            for page in [
                device.get("/api/v1/gateways/self").await,
                device.tell("/api/v1/heartbeat", &heartbeat("laptop")).await,
                lines.send(Method::POST, "/api/v1/records", body).await,
                device.send(Method::DELETE, "/api/v1/gateways/self", Body::empty()).await,
            ] {
                assert_eq!(page.status, StatusCode::UNAUTHORIZED, "{how} {}", page.text);
                assert_eq!(page.json()["error"], "revoked", "{how}");
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_stand_in_the_table_is_not_there() {
    let site = Site::each().await.remove(0);
    let ways = ways();
    let count = ways.len();

    let table: BTreeSet<_> =
        ways.into_iter().map(|way| (way.path.to_owned(), way.method)).collect();

    assert_eq!(table.len(), count);
    assert_eq!(site.routes().await, table);
}

#[tokio::test]
async fn every_page_says_what_it_may_not_do() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        for way in ways().iter().filter(|way| way.method == Method::GET) {
            // Assets may be kept; events and what operators ask are not pages.
            if way.guard == Guard::Open || way.path.ends_with("/live") {
                continue;
            }
            for person in [None, Some(Person::In(Role::Beacon)), Some(Person::In(Role::Owner))] {
                let actor = person.map_or(Actor::Nobody, Actor::Session);
                let mut browser = fixture.browser(actor, way).await;

                let page = fixture.open(way, &mut browser, "").await;

                let policy = page.header("content-security-policy");
                assert!(policy.starts_with("default-src 'none'"), "{way:?} {policy}");
                assert_eq!(page.header("cache-control"), "no-store", "{way:?}");
                for inline in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
                    assert!(!page.text.contains(inline), "{way:?} {inline}");
                }
            }
        }
    }
}

/// Beside the matrix, which believes the table: what it must say.
#[test]
fn only_these_are_open_to_people_without_a_role() {
    let of = |which: fn(Need) -> bool| {
        let routes = ROUTES.iter().filter(|route| which(route.need));
        routes.map(|route| route.path).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };

    assert_eq!(
        of(|need| !need.is_signed_in()),
        [
            "/.well-known/oauth-authorization-server",
            "/invites/{ticket}",
            "/oauth/revoke",
            "/oauth/token",
            "/setup/{ticket}",
            "/sign-in",
            "/sign-in/code",
            "/sign-in/oidc",
            "/sign-in/oidc/callback",
        ]
    );
    assert_eq!(
        of(|need| need == Need::Account),
        ["/invites", "/invites/{invite}/accept", "/oauth/authorize", "/sign-out"]
    );
    let runs = |need| {
        matches!(
            need,
            Need::Workspace(Ability::Administer)
                | Need::Organization(Ability::Administer | Ability::Own)
        )
    };
    for route in ROUTES.iter().filter(|route| route.path.starts_with("/w/{workspace}/settings/")) {
        assert!(runs(route.need), "{}", route.path);
    }
}
