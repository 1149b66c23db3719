//! Every page, opened by everybody.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, StatusCode};

use super::routes::{Need, ROUTES, Route, Verb};
use crate::access::{Ability, Role};
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Home, OWNER, Page, Site};
use crate::people::ticket::Ticket;

const TARGET: &str = "target@acme.test";

/// Somebody who tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Actor {
    Nobody,
    /// In the whole organization.
    In(Role),
    /// An Admin of the workspace, and a Viewer of the rest.
    RunsWorkspace,
    /// An Owner of another organization.
    Elsewhere,
    /// Somebody who was removed.
    Removed,
}

impl Actor {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Nobody, Self::RunsWorkspace, Self::Elsewhere, Self::Removed];
        all.extend(Role::ALL.map(Self::In));
        all
    }

    fn email(self) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::In(role) => format!("{}@acme.test", role.as_str()),
            Self::RunsWorkspace => "runs@acme.test".to_owned(),
            Self::Elsewhere => "owner@other.test".to_owned(),
            Self::Removed => "removed@acme.test".to_owned(),
        }
    }

    /// What is allowed in the workspace.
    fn may(self, ability: Ability) -> bool {
        match self {
            Self::In(role) => role.may(ability),
            Self::RunsWorkspace => Role::Admin.may(ability),
            Self::Nobody | Self::Elsewhere | Self::Removed => false,
        }
    }

    /// What is allowed in the organization.
    fn may_everywhere(self, ability: Ability) -> bool {
        match self {
            Self::In(role) => role.may(ability),
            Self::RunsWorkspace => Role::Viewer.may(ability),
            Self::Nobody | Self::Elsewhere | Self::Removed => false,
        }
    }
}

/// What the door says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    SignIn,
    Forbidden,
    NotFound,
}

fn expected(need: Need, actor: Actor) -> Door {
    let inside = |open: bool| match actor {
        Actor::Nobody => Door::SignIn,
        Actor::Elsewhere | Actor::Removed => Door::NotFound,
        Actor::In(_) | Actor::RunsWorkspace if open => Door::Open,
        Actor::In(_) | Actor::RunsWorkspace => Door::Forbidden,
    };
    match (need, actor) {
        (Need::Anyone | Need::Program, _) => Door::Open,
        (_, Actor::Nobody) => Door::SignIn,
        (Need::Account, _) => Door::Open,
        (Need::Viewer, Actor::Elsewhere) => Door::Open,
        (Need::Viewer, actor) if actor.may(Ability::SeeRecords) => Door::Open,
        (Need::Viewer, _) => Door::Forbidden,
        (Need::Workspace(ability), actor) => inside(actor.may(ability)),
        (Need::Organization(ability), actor) => inside(actor.may_everywhere(ability)),
    }
}

fn said(page: &Page) -> Door {
    match page.status {
        StatusCode::SEE_OTHER if page.location().starts_with("/sign-in?return_to=%2F") => {
            Door::SignIn
        }
        StatusCode::SEE_OTHER if page.location() == "/sign-in" => Door::SignIn,
        StatusCode::FORBIDDEN => Door::Forbidden,
        StatusCode::NOT_FOUND => Door::NotFound,
        _ => Door::Open,
    }
}

/// A place with one of everything.
struct Fixture {
    site: Site,
    home: Home,
    number: u32,
}

impl Fixture {
    async fn new(site: Site) -> Self {
        let home = site.organization("acme").await;
        site.organization("other").await;
        let scope = Scope::Organization(home.organization);
        for role in Role::ALL {
            if role != Role::Owner {
                site.member(&Actor::In(role).email(), &home, scope, role).await;
            }
        }
        let runs = Actor::RunsWorkspace.email();
        site.member(&runs, &home, scope, Role::Viewer).await;
        site.member(&runs, &home, Scope::Team(home.team), Role::Admin).await;
        Self { site, home, number: 0 }
    }

    /// A browser of somebody, who has just signed in.
    async fn browser(&self, actor: Actor) -> Browser {
        match actor {
            Actor::Nobody => self.site.browser(),
            Actor::In(_) | Actor::RunsWorkspace | Actor::Elsewhere => {
                self.site.signed_in(&actor.email()).await
            }
            Actor::Removed => {
                let scope = Scope::Workspace(self.home.workspace);
                let email = actor.email();
                let account = self.site.member(&email, &self.home, scope, Role::Admin).await;
                let browser = self.site.signed_in(&email).await;
                let owner = self.site.by(OWNER).await;
                let organization = self.home.organization;
                let removed =
                    self.site.people.remove_member(&owner, organization, account.id, scope);
                removed.await.unwrap();
                browser
            }
        }
    }

    /// Returns the path of a route and what to send, all of which is there.
    async fn request(&mut self, route: &Route) -> (String, Vec<(&'static str, String)>) {
        self.number += 1;
        let (site, home) = (&self.site, self.home);
        let by = site.by(OWNER).await;
        let scope = Scope::Workspace(home.workspace);
        let mut path = route.path.to_owned();
        for name in route.path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()) {
            let value = match name {
                "workspace" | "target" => home.workspace.to_string(),
                "team" => home.team.to_string(),
                "user" => site.member(TARGET, &home, scope, Role::Viewer).await.id.to_string(),
                "invite" => {
                    let email = format!("invited-{}@acme.test", self.number);
                    let people = &site.people;
                    people
                        .invite(&by, home.organization, &email, scope, Role::Viewer)
                        .await
                        .unwrap();
                    people.invitations(&email).await.unwrap()[0].id.to_string()
                }
                "key" => {
                    let people = &site.people;
                    let key = people
                        .create_key(&by, home.organization, home.workspace, "key", None)
                        .await;
                    people.deploy_key(&key.unwrap()).await.unwrap().id.to_string()
                }
                "ticket" => Ticket::new().reveal().to_owned(),
                "session" => "00".repeat(32),
                "family" => "7".to_owned(),
                other => panic!("no `{other}` to try it with"),
            };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let fields = vec![
            ("name", format!("Name {}", self.number)),
            ("first_workspace", "First".to_owned()),
            ("scope", scope.to_string()),
            ("role", "viewer".to_owned()),
            ("email", format!("new-{}@acme.test", self.number)),
            ("workspace_id", home.workspace.to_string()),
            ("days", "30".to_owned()),
            ("code", "00000000".to_owned()),
        ];
        (path, fields)
    }

    async fn open(&mut self, route: &Route, browser: &mut Browser, csrf: &str) -> Page {
        let (path, fields) = self.request(route).await;
        match route.verb {
            Verb::Get => browser.get(&path).await,
            Verb::Post => {
                let mut fields: Vec<_> =
                    fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                fields.push(("csrf", csrf));
                browser.post(&path, &fields).await
            }
        }
    }
}

/// Behind these doors there may be nothing, for this person or at all.
fn may_be_empty(route: &Route) -> bool {
    let paths = ["{ticket}", "/sign-in/oidc", "{session}", "/invites/{invite}/accept", "/sign-out"];
    paths.iter().any(|path| route.path.contains(path))
}

#[tokio::test]
async fn every_page_opens_for_those_who_may_and_for_nobody_else() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        for route in ROUTES {
            for actor in Actor::all() {
                let mut browser = fixture.browser(actor).await;
                let csrf = browser.csrf();

                let page = fixture.open(route, &mut browser, &csrf).await;

                let (door, expected) = (said(&page), expected(route.need, actor));
                let what = format!(
                    "{actor:?} {:?} {}: {} {}",
                    route.verb, route.path, page.status, page.text
                );
                if expected == Door::Open && may_be_empty(route) {
                    assert_ne!(door, Door::Forbidden, "{what}");
                } else {
                    assert_eq!(door, expected, "{what}");
                }
                assert!(!page.status.is_server_error(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_changed_without_the_form_of_this_session() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        let other = fixture.browser(Actor::In(Role::Owner)).await.csrf();
        for route in
            ROUTES.iter().filter(|route| route.verb == Verb::Post && route.need.is_signed_in())
        {
            for csrf in ["", "x", other.as_str()] {
                let mut browser = fixture.browser(Actor::In(Role::Owner)).await;
                let page = fixture.open(route, &mut browser, csrf).await;
                assert_eq!(page.status, StatusCode::BAD_REQUEST, "{} {}", route.path, page.text);
            }
        }
        for route in
            ROUTES.iter().filter(|route| route.verb == Verb::Post && route.need != Need::Program)
        {
            let mut browser = fixture
                .browser(Actor::In(Role::Owner))
                .await
                .saying("sec-fetch-site", "cross-site");
            let csrf = browser.csrf();
            let page = fixture.open(route, &mut browser, &csrf).await;
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{} {}", route.path, page.text);
        }
    }
}

#[tokio::test]
async fn what_does_not_stand_in_the_table_is_not_there() {
    let site = Site::each().await.remove(0);
    site.organization("acme").await;
    let mut browser = site.signed_in(OWNER).await;
    let table: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.path, route.verb == Verb::Post)).collect();
    assert_eq!(table.len(), ROUTES.len());

    for route in ROUTES {
        let path = route.path.replace(['{', '}'], "");
        for method in [Method::PUT, Method::DELETE, Method::PATCH] {
            let page = browser.send(method, &path, Body::empty()).await;
            assert!([404, 405].contains(&page.status.as_u16()), "{path} {}", page.status);
        }
        if !table.contains(&(route.path, route.verb != Verb::Post)) {
            let method = if route.verb == Verb::Post { Method::GET } else { Method::POST };
            let page = browser.send(method, &path, Body::empty()).await;
            assert!([303, 404, 405].contains(&page.status.as_u16()), "{path} {}", page.status);
        }
    }
}

#[tokio::test]
async fn every_page_says_what_it_may_not_do() {
    for site in Site::each().await {
        let mut fixture = Fixture::new(site).await;
        for route in ROUTES.iter().filter(|route| route.verb == Verb::Get) {
            for actor in [Actor::Nobody, Actor::In(Role::Beacon), Actor::In(Role::Owner)] {
                let mut browser = fixture.browser(actor).await;

                let page = fixture.open(route, &mut browser, "").await;

                let policy = page.header("content-security-policy");
                assert!(policy.starts_with("default-src 'none'"), "{} {policy}", route.path);
                assert_eq!(page.header("cache-control"), "no-store", "{}", route.path);
                for inline in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
                    assert!(!page.text.contains(inline), "{} {inline}", route.path);
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
            Need::Workspace(Ability::Administer) | Need::Organization(Ability::Administer)
        )
    };
    for route in ROUTES.iter().filter(|route| route.path.starts_with("/w/{workspace}/settings/")) {
        assert!(runs(route.need), "{}", route.path);
    }
}
