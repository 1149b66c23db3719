//! One's own account: name, sessions, the command line.

use askama::Template;
use axum::response::Response;

use super::answer::{correctable, page_with, see};
use super::settings::Tabs;
use super::visit::Visit;
use crate::error::ApiError;
use crate::people::sessions::SessionLine;
use crate::people::tokens::Family;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "settings/account.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    csrf: String,
    email: String,
    name: String,
    problem: Option<String>,
    sessions: Vec<SessionLine>,
    families: Vec<Family>,
}

const HERE: &str = "/account";

/// Shows it.
pub(super) async fn show(visit: Visit) -> Result<Response, ApiError> {
    answer(&visit, None).await
}

async fn answer(visit: &Visit, error: Option<ApiError>) -> Result<Response, ApiError> {
    let (status, problem) = match error.map(correctable).transpose()? {
        Some((status, problem)) => (status, Some(problem)),
        None => (http::StatusCode::OK, None),
    };
    let session = visit.session()?;
    let page = Page {
        frame: visit.frame("Account"),
        tabs: Tabs::new(visit, "account").await?,
        csrf: session.csrf.clone(),
        email: session.account.email.clone(),
        name: session.account.name.clone(),
        problem,
        sessions: visit.people.sessions(session).await?,
        families: visit.people.families(session.account.id).await?,
    };
    page_with(status, &page)
}

/// Changes the name.
pub(super) async fn rename(visit: Visit) -> Result<Response, ApiError> {
    match visit.people.rename_account(visit.session()?, visit.form.text("name")).await {
        Ok(()) => Ok(see(HERE)),
        Err(error) => answer(&visit, Some(error)).await,
    }
}

/// Ends a session.
pub(super) async fn end(visit: Visit) -> Result<Response, ApiError> {
    let id: String = visit.param("session", "session")?;
    visit.people.end_session(visit.session()?, &id).await?;
    Ok(see(HERE))
}

/// Ends all but this one.
pub(super) async fn end_others(visit: Visit) -> Result<Response, ApiError> {
    visit.people.end_other_sessions(visit.session()?).await?;
    Ok(see(HERE))
}

/// Ends a sign-in of the command line.
pub(super) async fn end_family(visit: Visit) -> Result<Response, ApiError> {
    let family = visit.param("family", "sign-in")?;
    visit.people.end_family(visit.account()?.id, family).await?;
    Ok(see(HERE))
}
