//! The first page ever: who the organization is, and who owns it.

use askama::Template;
use axum::response::Response;

use super::answer::{correctable, page_with, see, with_cookie};
use super::visit::Visit;
use crate::error::ApiError;
use crate::people::cookies::Cookie;
use crate::people::setup::Setup;
use crate::people::sign_in::Method;
use crate::web::Frame;

const LINK: &str = "set-up link";

#[derive(Template)]
#[template(path = "people/setup.html")]
struct Page {
    frame: Frame,
    ticket: String,
    problem: Option<String>,
    setup: Setup,
}

/// Shows the form, if the link still lives.
pub(super) async fn form(visit: Visit) -> Result<Response, ApiError> {
    visit.channel()?;
    let ticket = visit.ticket(LINK)?;
    visit.people.check_setup(&ticket).await?;
    let setup = Setup {
        organization: String::new(),
        team: "Everyone".to_owned(),
        workspace: "Main".to_owned(),
        email: String::new(),
        name: String::new(),
    };
    let frame = Visit::outside("Set up");
    let page = Page { frame, ticket: ticket.reveal().to_owned(), problem: None, setup };
    super::answer::page(&page)
}

/// Makes everything, and signs the owner in.
pub(super) async fn set_up(visit: Visit) -> Result<Response, ApiError> {
    let channel = visit.channel()?;
    let ticket = visit.ticket(LINK)?;
    let text = |name| visit.form.text(name).to_owned();
    let setup = Setup {
        organization: text("organization"),
        team: text("team"),
        workspace: text("workspace"),
        email: text("email"),
        name: text("name"),
    };
    match visit.people.set_up(&ticket, &setup, visit.device.address).await {
        Ok(email) => {
            let session = visit.people.sign_in(&email, Method::SetupLink, &visit.device).await?;
            Ok(with_cookie(see("/"), Cookie::Session.set(channel, &session)))
        }
        Err(error) => {
            let (status, problem) = correctable(error)?;
            let frame = Visit::outside("Set up");
            let ticket = ticket.reveal().to_owned();
            page_with(status, &Page { frame, ticket, problem: Some(problem), setup })
        }
    }
}
