//! Somebody at a page that they may open.

use std::sync::Arc;

use http::request::Parts;

use super::fields::Fields;
use crate::access::Account;
use crate::error::ApiError;
use crate::id::OrganizationId;
use crate::people::People;
use crate::people::authority::By;
use crate::people::cookies::{Channel, Cookie};
use crate::people::organization::Tree;
use crate::people::sessions::{Device, Session};
use crate::people::ticket::Ticket;
use crate::web::{Frame, Tab, Viewing};

/// Somebody at a page that they may open, and what they said.
pub(super) struct Visit {
    pub(super) people: Arc<People>,
    pub(super) parts: Parts,
    pub(super) device: Device,
    pub(super) params: Vec<(String, String)>,
    pub(super) query: Fields,
    pub(super) form: Fields,
    pub(super) session: Option<Session>,
    pub(super) viewing: Option<Viewing>,
}

impl Visit {
    /// Reads an id, or another thing, out of the path.
    pub(super) fn param<T: std::str::FromStr>(
        &self,
        name: &str,
        what: &'static str,
    ) -> Result<T, ApiError> {
        let value = self.params.iter().find(|(known, _)| known == name);
        value.and_then(|(_, value)| value.parse().ok()).ok_or(ApiError::NotFound(what))
    }

    /// Reads the ticket of a link.
    pub(super) fn ticket(&self, what: &'static str) -> Result<Ticket, ApiError> {
        let value = self.params.iter().find(|(known, _)| known == "ticket");
        value.and_then(|(_, value)| Ticket::parse(value)).ok_or(ApiError::NotFound(what))
    }

    /// Who is there. The route lets nobody in without a session.
    pub(super) fn session(&self) -> Result<&Session, ApiError> {
        self.session.as_ref().ok_or(ApiError::Unauthorized)
    }

    pub(super) fn account(&self) -> Result<&Account, ApiError> {
        Ok(&self.session()?.account)
    }

    /// Whether whoever is there signed in just now.
    pub(super) fn is_fresh(&self) -> Result<bool, ApiError> {
        Ok(self.people.is_fresh(self.session()?))
    }

    /// Makes sure of it: a browser that was left alone, or a cookie that was copied, does nothing lasting.
    pub(super) fn check_fresh(&self) -> Result<(), ApiError> {
        if self.is_fresh()? {
            return Ok(());
        }
        let message = "for this, sign in again: the last time is more than an hour ago";
        Err(ApiError::Conflict(message.to_owned()))
    }

    pub(super) fn by(&self) -> Result<By, ApiError> {
        Ok(By { account: self.account()?.clone(), address: self.device.address })
    }

    /// The workspace of the page. The route lets nobody in without.
    pub(super) fn viewing(&self) -> Result<&Viewing, ApiError> {
        self.viewing.as_ref().ok_or(ApiError::NotFound("workspace"))
    }

    pub(super) fn organization(&self) -> Result<OrganizationId, ApiError> {
        Ok(self.viewing()?.entry.organization)
    }

    /// The organization of the page as whoever is there sees it.
    pub(super) async fn tree(&self) -> Result<Tree, ApiError> {
        self.people.tree(self.account()?.id, self.organization()?).await
    }

    /// How cookies go to the browser.
    ///
    /// # Errors
    ///
    /// Not at all: everybody on the way would have the session.
    pub(super) fn channel(&self) -> Result<Channel, ApiError> {
        match Channel::of(&self.parts) {
            Channel::Open => {
                let message = "signing in needs HTTPS: start the Hub with a certificate, or put a proxy before \
                    it that has one. Without, it only works on the machine itself, at http://127.0.0.1";
                Err(ApiError::Invalid(message.to_owned()))
            }
            channel @ (Channel::Secure | Channel::Loopback) => Ok(channel),
        }
    }

    /// Returns what a cookie of the browser says.
    pub(super) fn cookie(&self, cookie: Cookie) -> Option<Ticket> {
        cookie.read(Channel::of(&self.parts), &self.parts.headers)
    }

    /// A page of the site, with its navigation.
    pub(super) fn frame(&self, title: &str) -> Frame {
        Frame { title: title.to_owned(), tab: Tab::Settings, viewing: self.viewing.clone() }
    }

    /// A page for somebody who is not inside.
    pub(super) fn outside(title: &str) -> Frame {
        Frame { title: title.to_owned(), tab: Tab::None, viewing: None }
    }
}
