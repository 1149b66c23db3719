//! The first start: a link that was printed makes the organization and its owner, once.

use std::net::IpAddr;

use url::Url;

use super::People;
use super::address::{self, Email};
use super::admin_log::{self, Act};
use super::organization::Founding;
use super::ticket::{Ticket, hex};
use crate::access::Account;
use crate::db::{DbError, Transaction, values};
use crate::error::ApiError;
use crate::id::UserId;

/// Each start makes a link, and replicas start at the same time: one that nobody uses dies in a week.
const VALID_MS: i64 = 7 * 86_400_000;

/// Of settings: links. The rest of the name is the hash; the value says until when.
const LINK: &str = "setup_link:";

/// Of settings: that the Hub is set up, and when.
const DONE: &str = "setup_done";

/// What the first person says.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) organization: String,
    pub(crate) team: String,
    pub(crate) workspace: String,
    pub(crate) email: String,
    pub(crate) name: String,
}

impl People {
    /// Returns a link by which the first person sets the Hub up; nothing once somebody did.
    pub(crate) async fn setup_url(&self) -> Result<Option<Url>, DbError> {
        if self.is_set_up().await? {
            return Ok(None);
        }
        let (ticket, now_ms) = (Ticket::new(), self.now_ms());
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2)";
        let row = values![setting(&ticket), (now_ms + VALID_MS).to_string()];
        self.database.execute(sql, &row).await?;
        let url = self.url(&format!("setup/{}", ticket.reveal()));
        Ok(Some(url.parse().expect("below the public URL")))
    }

    /// Whether somebody did.
    pub(crate) async fn is_set_up(&self) -> Result<bool, DbError> {
        let sql = "SELECT 1 FROM settings WHERE name = $1";
        Ok(self.database.row(sql, &values![DONE]).await?.is_some())
    }

    /// Makes sure that a link still sets the Hub up.
    pub(crate) async fn check_setup(&self, ticket: &Ticket) -> Result<(), ApiError> {
        let sql = "SELECT value FROM settings WHERE name = $1";
        let row = self.database.row(sql, &values![setting(ticket)]).await?;
        let until = row.map(|row| row.get::<String>(0)).transpose()?.unwrap_or_default();
        if until.parse().is_ok_and(|until_ms: i64| until_ms > self.now_ms())
            && !self.is_set_up().await?
        {
            return Ok(());
        }
        Err(ApiError::NotFound(
            "set-up link, or not any more; start the Hub again to get one, or sign in",
        ))
    }

    /// Makes the organization, its first team and workspace, and its owner, whose address this returns. All
    /// links die.
    pub(crate) async fn set_up(
        &self,
        ticket: &Ticket,
        setup: &Setup,
        address: IpAddr,
    ) -> Result<Email, ApiError> {
        self.check_setup(ticket).await?;
        let organization = address::name(&setup.organization, "an organization")?;
        let team = address::name(&setup.team, "a team")?;
        let workspace = address::name(&setup.workspace, "a workspace")?;
        let email = Email::parse(&setup.email)?;
        let name = address::person(&setup.name)?;
        let owner = Account { id: UserId::new(), email: email.to_string(), name };
        let mut transaction = self.database.begin().await?;
        let now_ms = self.now_ms();
        // Of several at the same time one gets further.
        let sql =
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        if transaction.execute(sql, &values![DONE, now_ms.to_string()]).await? == 0 {
            return Err(ApiError::Conflict(
                "somebody else set the Hub up just now; sign in".to_owned(),
            ));
        }
        transaction
            .execute("DELETE FROM settings WHERE name LIKE $1", &values![format!("{LINK}%")])
            .await?;
        let slug = address::slug(&organization);
        let founding = Founding {
            organization: &organization,
            slug: &slug,
            team: &team,
            workspace: &workspace,
            owner: &owner,
        };
        let id = founding.insert(&mut *transaction, now_ms).await?;
        let act = Act::new("organization.created", &organization).of(&id.to_string());
        let act = act.with("team", team).with("workspace", workspace).by(&owner).from(address);
        admin_log::write(&mut *transaction, id, now_ms, &act).await?;
        transaction.commit().await?;
        Ok(email)
    }
}

/// Lets the Hub be set up anew, when it has no organization any more.
pub(super) async fn reopen(transaction: &mut dyn Transaction) -> Result<(), DbError> {
    let sql = "DELETE FROM settings WHERE name = $1 AND NOT EXISTS (SELECT 1 FROM organizations)";
    transaction.execute(sql, &values![DONE]).await.map(drop)
}

fn setting(ticket: &Ticket) -> String {
    format!("{LINK}{}", hex(&ticket.hash()))
}
