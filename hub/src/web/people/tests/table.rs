//! Who tries, every way there is, and what its door says to them.

use http::Method;

use super::super::routes::{Need, ROUTES, Verb};
use crate::access::{Ability, Role};

/// Somebody who may or may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Person {
    /// In the whole organization.
    In(Role),
    /// An Admin of the workspace, and a Viewer of the rest.
    RunsWorkspace,
    /// An Owner of another organization.
    Elsewhere,
    /// Somebody who was removed.
    Removed,
}

impl Person {
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::RunsWorkspace, Self::Elsewhere, Self::Removed];
        all.extend(Role::ALL.map(Self::In));
        all
    }

    pub(super) fn email(self) -> String {
        match self {
            Self::In(role) => format!("{}@acme.test", role.as_str()),
            Self::RunsWorkspace => "runs@acme.test".to_owned(),
            Self::Elsewhere => super::THEIR_OWNER.to_owned(),
            Self::Removed => "removed@acme.test".to_owned(),
        }
    }

    /// What is allowed in the workspace.
    fn may(self, ability: Ability) -> bool {
        match self {
            Self::In(role) => role.may(ability),
            Self::RunsWorkspace => Role::Admin.may(ability),
            Self::Elsewhere | Self::Removed => false,
        }
    }

    /// What is allowed in the organization.
    fn may_everywhere(self, ability: Ability) -> bool {
        match self {
            Self::In(role) => role.may(ability),
            Self::RunsWorkspace => Role::Viewer.may(ability),
            Self::Elsewhere | Self::Removed => false,
        }
    }
}

/// Somebody who tries, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Actor {
    Nobody,
    /// With the session of a browser.
    Session(Person),
    /// With an access token.
    Token(Person),
    /// With an Owner's access token that is not valid any more.
    Expired,
    /// With the secret of a gateway of the workspace, of another organization's, of a deploy key that was
    /// revoked.
    Gateway,
    GatewayElsewhere,
    GatewayRevoked,
    /// With a deploy key of the workspace, or of another organization's.
    Key,
    KeyElsewhere,
}

impl Actor {
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Nobody,
            Self::Expired,
            Self::Gateway,
            Self::GatewayElsewhere,
            Self::GatewayRevoked,
            Self::Key,
            Self::KeyElsewhere,
        ];
        all.extend(Person::all().into_iter().flat_map(|of| [Self::Session(of), Self::Token(of)]));
        all
    }

    /// Whether it is one of the other organization.
    pub(super) fn is_elsewhere(self) -> bool {
        match self {
            Self::Session(of) | Self::Token(of) => of == Person::Elsewhere,
            Self::GatewayElsewhere | Self::KeyElsewhere => true,
            Self::Nobody | Self::Expired | Self::Gateway | Self::GatewayRevoked | Self::Key => {
                false
            }
        }
    }
}

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Anybody.
    Open,
    /// As the table of people's pages says.
    People(Need),
    /// Whoever is signed in, and is led on.
    First,
    /// Whoever is signed in and may see the records of the workspace.
    Page,
    /// Whoever is signed in and looks after its gateways.
    Form,
    /// Whoever has an access token.
    Program,
    /// Whoever has one and may see the records of the workspace.
    Reader,
    /// Whoever has one, or a deploy key, and may link a gateway.
    Linker,
    /// A gateway.
    Gateway,
}

/// A way into the site.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) guard: Guard,
}

/// What is not among the pages of people.
fn others() -> Vec<Way> {
    let page = |path| Way { method: Method::GET, path, guard: Guard::Page };
    let get = |path, guard| Way { method: Method::GET, path, guard };
    let post = |path, guard| Way { method: Method::POST, path, guard };
    vec![
        get("/", Guard::First),
        page("/w/{workspace}"),
        page("/w/{workspace}/gateways"),
        page("/w/{workspace}/servers"),
        page("/w/{workspace}/server"),
        page("/w/{workspace}/session"),
        page("/w/{workspace}/live"),
        page("/w/{workspace}/traces"),
        page("/w/{workspace}/traces/{trace}"),
        page("/w/{workspace}/traces/{trace}/json"),
        page("/w/{workspace}/audit"),
        page("/w/{workspace}/audit/{event}"),
        page("/w/{workspace}/export/{file}"),
        post("/w/{workspace}/gateways/{gateway}/unlink", Guard::Form),
        post("/w/{workspace}/gateways/{gateway}/archive", Guard::Form),
        get("/api/v1/workspaces", Guard::Program),
        get("/api/v1/workspaces/{workspace}/gateways", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/gateways/{gateway}", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/gateways/{gateway}/streams", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/traces", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/traces/{trace}", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/audit", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/audit/{event}", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/servers", Guard::Reader),
        get("/api/v1/workspaces/{workspace}/servers/{server}", Guard::Reader),
        post("/api/v1/gateways", Guard::Linker),
        get("/api/v1/gateways/self", Guard::Gateway),
        Way { method: Method::DELETE, path: "/api/v1/gateways/self", guard: Guard::Gateway },
        post("/api/v1/heartbeat", Guard::Gateway),
        post("/api/v1/records", Guard::Gateway),
        get("/api/openapi.json", Guard::Open),
        get("/assets/{name}", Guard::Open),
        get("/livez", Guard::Open),
        get("/readyz", Guard::Open),
        get("/metrics", Guard::Open),
    ]
}

/// Every way into the site.
pub(super) fn ways() -> Vec<Way> {
    let people = ROUTES.iter().map(|route| Way {
        method: match route.verb {
            Verb::Get => Method::GET,
            Verb::Post => Method::POST,
        },
        path: route.path,
        guard: Guard::People(route.need),
    });
    people.chain(others()).collect()
}

impl Way {
    /// Whether it takes a form that somebody else could send in the name of whoever is signed in.
    pub(super) fn is_guarded_form(&self) -> bool {
        let is_signed_in = match self.guard {
            Guard::People(need) => need.is_signed_in(),
            Guard::Form => true,
            Guard::Open
            | Guard::First
            | Guard::Page
            | Guard::Program
            | Guard::Reader
            | Guard::Linker
            | Guard::Gateway => false,
        };
        is_signed_in && self.method == Method::POST
    }

    /// The name of what the path ends with besides the workspace.
    pub(super) fn second(&self) -> Option<&'static str> {
        let mut names = names(self.path).filter(|name| *name != "workspace");
        names.next().filter(|_| self.path.contains("{workspace}"))
    }
}

/// The names in a path.
pub(super) fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap())
}

/// What the door says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    SignIn,
    Unauthorized,
    Forbidden,
    NotFound,
}

pub(super) fn expected(guard: Guard, actor: Actor) -> Door {
    let session = match actor {
        Actor::Session(person) => Some(person),
        _ => None,
    };
    match guard {
        Guard::Open => Door::Open,
        Guard::People(need) => of_people(need, session),
        Guard::First => session.map_or(Door::SignIn, |_| Door::Open),
        Guard::Page => of_people(Need::Workspace(Ability::SeeRecords), session),
        Guard::Form => of_people(Need::Workspace(Ability::ManageGateways), session),
        Guard::Program | Guard::Reader | Guard::Linker | Guard::Gateway => of_api(guard, actor),
    }
}

fn of_people(need: Need, session: Option<Person>) -> Door {
    let inside = |open: bool| match session {
        None => Door::SignIn,
        Some(Person::Elsewhere | Person::Removed) => Door::NotFound,
        Some(Person::In(_) | Person::RunsWorkspace) if open => Door::Open,
        Some(Person::In(_) | Person::RunsWorkspace) => Door::Forbidden,
    };
    let may = |ability| session.is_some_and(|person| person.may(ability));
    match (need, session) {
        (Need::Anyone | Need::Program, _) => Door::Open,
        (_, None) => Door::SignIn,
        (Need::Account, Some(_)) => Door::Open,
        (Need::Viewer, Some(Person::Elsewhere)) => Door::Open,
        (Need::Viewer, Some(person)) if person.may(Ability::SeeRecords) => Door::Open,
        (Need::Viewer, Some(_)) => Door::Forbidden,
        (Need::Workspace(ability), Some(_)) => inside(may(ability)),
        (Need::Organization(ability), Some(person)) => inside(person.may_everywhere(ability)),
    }
}

fn of_api(guard: Guard, actor: Actor) -> Door {
    let inside = |person: Person, ability| match person {
        Person::Elsewhere | Person::Removed => Door::NotFound,
        person if person.may(ability) => Door::Open,
        Person::In(_) | Person::RunsWorkspace => Door::Forbidden,
    };
    match (guard, actor) {
        (Guard::Program, Actor::Token(_)) => Door::Open,
        (Guard::Reader, Actor::Token(person)) => inside(person, Ability::SeeRecords),
        (Guard::Linker, Actor::Token(person)) => inside(person, Ability::LinkGateway),
        (Guard::Linker, Actor::Key) => Door::Open,
        (Guard::Linker, Actor::KeyElsewhere) => Door::Forbidden,
        (Guard::Gateway, Actor::Gateway | Actor::GatewayElsewhere) => Door::Open,
        _ => Door::Unauthorized,
    }
}
