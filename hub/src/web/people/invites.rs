//! Invites, as the invited see them.

use askama::Template;
use axum::response::Response;

use super::answer::{page, see};
use super::visit::Visit;
use crate::error::ApiError;
use crate::people::invites::Invitation;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "people/invites.html")]
struct Page {
    frame: Frame,
    csrf: String,
    email: String,
    invitations: Vec<Invitation>,
    /// Whether there is something to see already.
    is_in: bool,
}

#[derive(Template)]
#[template(path = "people/invite.html")]
struct LinkPage {
    frame: Frame,
    invitation: Invitation,
    /// Whoever is signed in, if that is somebody else.
    other: Option<String>,
    csrf: Option<String>,
    sign_in: String,
}

/// Lists one's own, or says that there is nothing to see.
pub(super) async fn list(visit: Visit) -> Result<Response, ApiError> {
    let session = visit.session()?;
    let invitations = visit.people.invitations(&session.account.email).await?;
    let is_in = visit.people.viewing(session, None).await?.is_some();
    let (csrf, email) = (session.csrf.clone(), session.account.email.clone());
    page(&Page { frame: Visit::outside("Invites"), csrf, email, invitations, is_in })
}

/// Says what a link is for.
pub(super) async fn link(visit: Visit) -> Result<Response, ApiError> {
    let ticket = visit.ticket("invite")?;
    let invitation = visit.people.invitation(&ticket).await?;
    let session = visit.session.as_ref();
    let own = session.filter(|session| session.account.email == invitation.email);
    let other = session.filter(|session| session.account.email != invitation.email);
    let csrf = own.or(other).map(|session| session.csrf.clone());
    let other = other.map(|session| session.account.email.clone());
    let sign_in = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("email", &invitation.email)
        .append_pair("return_to", visit.parts.uri.path())
        .finish();
    let sign_in = format!("/sign-in?{sign_in}");
    page(&LinkPage { frame: Visit::outside("You are invited"), invitation, other, csrf, sign_in })
}

/// Accepts one.
pub(super) async fn accept(visit: Visit) -> Result<Response, ApiError> {
    visit.people.accept_invite(&visit.by()?, visit.param("invite", "invite")?).await?;
    Ok(see("/"))
}
