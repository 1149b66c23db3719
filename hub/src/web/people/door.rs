//! The door of every page: who is there, whether they may open it, and whether what they send comes from a
//! page of ours. Nothing behind it is reached in another way.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::Response;
use http::header;
use http::request::Parts;

use super::answer::failure;
use super::fields::Fields;
use super::routes::{Need, Route, Verb};
use super::token;
use super::visit::Visit;
use crate::access::Ability;
use crate::error::ApiError;
use crate::people::People;
use crate::people::gate::to_sign_in;
use crate::people::sessions::{Device, Session};
use crate::server::Peer;
use crate::web::Viewing;

/// Of a form.
const BODY_BYTES_MAX: usize = 64 * 1024;

const FORM: &str = "application/x-www-form-urlencoded";

/// Why somebody does not get in.
enum Refused {
    /// They have to sign in first.
    Stranger,
    /// Likewise, but they are known, and see the page within the site.
    Error(Option<Box<Viewing>>, ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Error(None, error)
    }
}

/// Answers a request for a page.
pub(super) async fn serve(
    people: Arc<People>,
    route: &'static Route,
    params: Vec<(String, String)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let here = parts.clone();
    let answered = match enter(people, route, params, parts, body).await {
        Ok(visit) => {
            let viewing = visit.viewing.clone().map(Box::new);
            (route.act)(visit).await.map_err(|error| Refused::Error(viewing, error))
        }
        Err(refused) => Err(refused),
    };
    match (answered, route.need) {
        (Ok(response), _) => response,
        (Err(Refused::Error(_, error)), Need::Program) => token::refusal(error.into()),
        (Err(Refused::Error(_, ApiError::Unauthorized) | Refused::Stranger), _) => {
            to_sign_in(&here)
        }
        (Err(Refused::Error(viewing, error)), _) => {
            failure(viewing.map(|viewing| *viewing), &error)
        }
    }
}

async fn enter(
    people: Arc<People>,
    route: &Route,
    params: Vec<(String, String)>,
    parts: Parts,
    body: axum::body::Body,
) -> Result<Visit, Refused> {
    let address = parts
        .extensions
        .get::<Peer>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address);
    let is_page = route.need != Need::Program;
    if !route.need.is_signed_in() {
        people.check_asker(address)?;
    }
    if is_page && route.verb == Verb::Post {
        people.check_site(&parts)?;
    }
    let session = if is_page { people.session_of(&parts).await? } else { None };
    let workspace =
        params.iter().find(|(name, _)| name == "workspace").map(|(_, value)| value.as_str());
    let viewing = admit(&people, route.need, session.as_ref(), workspace).await?;
    let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes())?;
    let form = match route.verb {
        Verb::Get => Fields::default(),
        Verb::Post => read(&parts, body).await?,
    };
    // Whoever needs no session has nothing that somebody else could use.
    if let Some(session) = &session
        && route.verb == Verb::Post
        && route.need.is_signed_in()
    {
        people.check_form(&parts, &session.csrf, form.get("csrf"))?;
    }
    let device = Device::new(&parts.headers, address);
    Ok(Visit { people, parts, device, params, query, form, session, viewing })
}

/// Says whether somebody may, and what they see then.
async fn admit(
    people: &People,
    need: Need,
    session: Option<&Session>,
    workspace: Option<&str>,
) -> Result<Option<Viewing>, Refused> {
    if !need.is_signed_in() {
        return Ok(None);
    }
    let session = session.ok_or(Refused::Stranger)?;
    let refused = |viewing: &Viewing, ability: Ability| {
        Refused::Error(Some(Box::new(viewing.clone())), ApiError::Forbidden(ability.who()))
    };
    match need {
        Need::Anyone | Need::Program | Need::Account => Ok(None),
        Need::Viewer => {
            let viewing = people.viewing(session, None).await?;
            let viewing = viewing.ok_or(ApiError::Forbidden(Ability::SeeRecords.who()))?;
            Ok(Some(viewing))
        }
        Need::Workspace(ability) => {
            let viewing = people.viewing(session, Some(workspace.unwrap_or_default())).await?;
            let viewing = viewing.ok_or(ApiError::NotFound("workspace"))?;
            if viewing.entry.role.may(ability) {
                Ok(Some(viewing))
            } else {
                Err(refused(&viewing, ability))
            }
        }
        Need::Organization(ability) => {
            let viewing = people.viewing(session, Some(workspace.unwrap_or_default())).await?;
            let viewing = viewing.ok_or(ApiError::NotFound("workspace"))?;
            let tree = people.tree(session.account.id, viewing.entry.organization).await?;
            let may = tree.authority.may_everywhere(ability);
            if may { Ok(Some(viewing)) } else { Err(refused(&viewing, ability)) }
        }
    }
}

async fn read(parts: &Parts, body: axum::body::Body) -> Result<Fields, ApiError> {
    let kind = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let bytes =
        to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| ApiError::TooLarge(BODY_BYTES_MAX))?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !bytes.is_empty() && !kind.eq_ignore_ascii_case(FORM) {
        return Err(ApiError::Invalid(format!("a form is sent as `{FORM}`")));
    }
    Fields::parse(&bytes)
}
