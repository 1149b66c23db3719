//! Signing in, by a code or at the identity provider, and out.

use askama::Template;
use axum::response::Response;

use super::answer::{correctable, page, page_with, see, with_cookie};
use super::visit::Visit;
use crate::error::{ApiError, chain};
use crate::people::cookies::Cookie;
use crate::people::gate::local;
use crate::people::oidc::Callback;
use crate::people::sign_in::Method;
use crate::people::ticket::Ticket;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "people/sign_in.html")]
struct Page {
    frame: Frame,
    return_to: String,
    email: String,
    problem: Option<String>,
    has_oidc: bool,
    /// The address of the other way, with the way back.
    oidc: String,
}

#[derive(Template)]
#[template(path = "people/code.html")]
struct CodePage {
    frame: Frame,
    return_to: String,
    problem: Option<String>,
    sends_mail: bool,
    /// Where to ask for another one.
    again: String,
}

/// Returns an address with a way back behind it.
fn with_return(path: &str, return_to: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("return_to", return_to)
        .finish();
    format!("{path}?{query}")
}

fn sign_in_page(visit: &Visit, return_to: &str, email: &str, problem: Option<String>) -> Page {
    Page {
        frame: Visit::outside("Sign in"),
        return_to: return_to.to_owned(),
        email: email.to_owned(),
        problem,
        has_oidc: visit.people.has_oidc(),
        oidc: with_return("/sign-in/oidc", return_to),
    }
}

fn code_page(visit: &Visit, return_to: &str, problem: Option<String>) -> CodePage {
    CodePage {
        frame: Visit::outside("Sign in"),
        return_to: return_to.to_owned(),
        problem,
        sends_mail: visit.people.sends_mail(),
        again: with_return("/sign-in", return_to),
    }
}

/// Asks for an e-mail address. With `again`, also whoever is signed in.
pub(super) async fn form(visit: Visit) -> Result<Response, ApiError> {
    visit.channel()?;
    let return_to = local(visit.query.get("return_to"));
    if visit.session.is_some() && visit.query.get("again").is_none() {
        return Ok(see(return_to));
    }
    page(&sign_in_page(&visit, return_to, visit.query.text("email"), None))
}

/// Sends a code, or does as if.
pub(super) async fn ask(visit: Visit) -> Result<Response, ApiError> {
    let channel = visit.channel()?;
    let return_to = local(visit.form.get("return_to"));
    let email = visit.form.text("email");
    match visit.people.ask_code(email, visit.device.address).await {
        Ok(ticket) => {
            let cookie = Cookie::Code.set(channel, &ticket);
            Ok(with_cookie(see(&with_return("/sign-in/code", return_to)), cookie))
        }
        Err(error) => {
            let (status, problem) = correctable(error)?;
            page_with(status, &sign_in_page(&visit, return_to, email, Some(problem)))
        }
    }
}

/// Asks for the code.
pub(super) async fn code_form(visit: Visit) -> Result<Response, ApiError> {
    visit.channel()?;
    page(&code_page(&visit, local(visit.query.get("return_to")), None))
}

/// Signs in whoever has the code.
pub(super) async fn take(visit: Visit) -> Result<Response, ApiError> {
    let channel = visit.channel()?;
    let return_to = local(visit.form.get("return_to"));
    let taken = async {
        let missing = || {
            ApiError::Invalid(
                "this browser did not ask for a code, or too long ago; begin again".to_owned(),
            )
        };
        let ticket = visit.cookie(Cookie::Code).ok_or_else(missing)?;
        let email =
            visit.people.take_code(&ticket, visit.form.text("code"), visit.device.address).await?;
        let session = visit.people.sign_in(&email, Method::Email, &visit.device).await?;
        visit.end_old().await;
        Ok(session)
    };
    match taken.await {
        Ok(session) => {
            let response = with_cookie(see(return_to), Cookie::Session.set(channel, &session));
            Ok(with_cookie(response, Cookie::Code.clear(channel)))
        }
        Err(error) => {
            let (status, problem) = correctable(error)?;
            page_with(status, &code_page(&visit, return_to, Some(problem)))
        }
    }
}

/// Leads to the identity provider.
pub(super) async fn begin_oidc(visit: Visit) -> Result<Response, ApiError> {
    let channel = visit.channel()?;
    let return_to = local(visit.query.get("return_to"));
    // Several windows of one browser may be on their way.
    let browser = visit.cookie(Cookie::Flow).unwrap_or_else(Ticket::new);
    let url = visit.people.begin_oidc(&browser, return_to).await?;
    Ok(with_cookie(see(url.as_str()), Cookie::Flow.set(channel, &browser)))
}

/// Signs in whoever comes back from there.
pub(super) async fn finish_oidc(visit: Visit) -> Result<Response, ApiError> {
    let channel = visit.channel()?;
    let browser = visit.cookie(Cookie::Flow);
    let callback = Callback {
        state: visit.query.text("state"),
        code: visit.query.get("code"),
        issuer: visit.query.get("iss"),
        error: visit.query.get("error"),
    };
    let finished = visit.people.finish_oidc(browser.as_ref(), &callback, &visit.device).await;
    match finished {
        Ok((session, return_to)) => {
            visit.end_old().await;
            Ok(with_cookie(see(local(Some(&return_to))), Cookie::Session.set(channel, &session)))
        }
        Err(error) => {
            let (status, problem) = correctable(error)?;
            page_with(status, &sign_in_page(&visit, "/", "", Some(problem)))
        }
    }
}

impl Visit {
    /// Ends the session that another one takes the place of.
    async fn end_old(&self) {
        let Some(old) = &self.session else { return };
        if let Err(error) = self.people.sign_out(old).await {
            tracing::warn!(error = chain(&error), "a session that was replaced could not be ended");
        }
    }
}

/// Ends the session.
pub(super) async fn sign_out(visit: Visit) -> Result<Response, ApiError> {
    visit.people.sign_out(visit.session()?).await?;
    let cookie = Cookie::Session.clear(visit.channel()?);
    Ok(with_cookie(see("/sign-in"), cookie))
}
