//! The Admin Log: who did what to the organization, and who signed in.
//!
//! Rows are never changed. Names are as they were then.

use std::net::IpAddr;

use serde_json::{Map, Value as Json};

use super::People;
use crate::access::Account;
use crate::db::{DbError, Transaction, Value, values};
use crate::id::{EntryId, OrganizationId, UserId};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Info,
    /// Something was taken away, opened, or tried.
    Warning,
}

impl Weight {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
        }
    }
}

/// Something that was done.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    action: &'static str,
    weight: Weight,
    target: String,
    target_id: String,
    actor_id: Option<UserId>,
    actor_name: String,
    actor_email: String,
    details: Map<String, Json>,
    address: String,
}

impl Act {
    /// `action` is such as `role.changed`; `target` is what people call what it was done to.
    pub(crate) fn new(action: &'static str, target: &str) -> Self {
        Self {
            action,
            weight: Weight::Info,
            target: target.to_owned(),
            target_id: String::new(),
            actor_id: None,
            actor_name: String::new(),
            actor_email: String::new(),
            details: Map::new(),
            address: String::new(),
        }
    }

    /// The id of what it was done to.
    pub(crate) fn of(mut self, id: &str) -> Self {
        id.clone_into(&mut self.target_id);
        self
    }

    pub(crate) fn warning(mut self) -> Self {
        self.weight = Weight::Warning;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Who did it.
    pub(crate) fn by(mut self, account: &Account) -> Self {
        self.actor_id = Some(account.id);
        self.actor_name.clone_from(&account.name);
        self.actor_email.clone_from(&account.email);
        self
    }

    /// Where it came from.
    pub(crate) fn from(mut self, address: IpAddr) -> Self {
        self.address = address.to_string();
        self
    }
}

/// Writes one, together with what was done.
pub(crate) async fn write(
    transaction: &mut dyn Transaction,
    organization: OrganizationId,
    now_ms: i64,
    act: &Act,
) -> Result<(), DbError> {
    let sql =
        "INSERT INTO admin_log (id, organization, at_ms, severity, action, actor_id, actor_name,
             actor_email, target, target_id, details, address)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let row = values![
        EntryId::new(),
        organization,
        now_ms,
        act.weight.as_str(),
        act.action,
        act.actor_id,
        &act.actor_name,
        &act.actor_email,
        &act.target,
        &act.target_id,
        Json::Object(act.details.clone()).to_string(),
        &act.address,
    ];
    transaction.execute(sql, &row).await.map(drop)
}

/// Which entries. Every field narrows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// The part of the action before the point, such as `member`.
    pub(crate) group: Option<String>,
    pub(crate) weight: Option<Weight>,
    /// Part of who or what, in any case.
    pub(crate) search: Option<String>,
    /// At or after.
    pub(crate) since_ms: Option<i64>,
    /// Before.
    pub(crate) until_ms: Option<i64>,
    /// The entry behind which the page begins.
    pub(crate) after: Option<Place>,
}

/// A place in the log; entries behind it are older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    at_ms: i64,
    id: EntryId,
}

impl Place {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (at_ms, id) = text.split_once('.')?;
        Some(Self { at_ms: at_ms.parse().ok()?, id: id.parse().ok()? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at_ms, self.id)
    }
}

/// An entry.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at_ms: i64,
    pub(crate) severity: String,
    pub(crate) action: String,
    pub(crate) actor_name: String,
    pub(crate) actor_email: String,
    pub(crate) target: String,
    pub(crate) target_id: String,
    /// JSON object.
    pub(crate) details: String,
    pub(crate) address: String,
}

/// A page of the log, and where the next one begins.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) lines: Vec<Line>,
    pub(crate) next: Option<Place>,
}

/// A condition and its values, as they come together.
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition, in which `{}` is the value.
    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let place = format!("${}", self.values.len());
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace("{}", &place));
    }
}

impl People {
    /// Writes what was done elsewhere, such as a sign-in that failed. If that fails, it is in the log of
    /// the process: what was done is done.
    pub(crate) async fn note(
        &self,
        organization: OrganizationId,
        by: Option<&Account>,
        act: Act,
        address: IpAddr,
    ) {
        let act = match by {
            Some(account) => act.by(account),
            None => act,
        };
        let act = act.from(address);
        let written = async {
            let mut transaction = self.database.begin().await?;
            write(&mut *transaction, organization, self.now_ms(), &act).await?;
            transaction.commit().await
        };
        if let Err(error) = written.await {
            tracing::error!(%error, act.action, "the Admin Log misses an entry");
        }
    }

    /// Returns entries, newest first. The asker must have been checked.
    pub(crate) async fn admin_log(
        &self,
        organization: OrganizationId,
        filter: &Filter,
        limit: u32,
    ) -> Result<Page, DbError> {
        let mut conditions =
            Conditions { sql: String::new(), values: values![organization].into() };
        if let Some(group) = &filter.group {
            conditions.and("action LIKE {} ESCAPE '\\'", format!("{}.%", literal(group)));
        }
        if let Some(weight) = filter.weight {
            conditions.and("severity = {}", weight.as_str());
        }
        if let Some(search) = &filter.search {
            let columns = "actor_name || ' ' || actor_email || ' ' || target || ' ' || target_id";
            let pattern = format!("%{}%", literal(search));
            conditions.and(&format!("lower({columns}) LIKE lower({{}}) ESCAPE '\\'"), pattern);
        }
        if let Some(since_ms) = filter.since_ms {
            conditions.and("at_ms >= {}", since_ms);
        }
        if let Some(until_ms) = filter.until_ms {
            conditions.and("at_ms < {}", until_ms);
        }
        if let Some(after) = filter.after {
            conditions.and("at_ms <= {}", after.at_ms);
            let place = conditions.values.len();
            conditions.and(&format!("(at_ms < ${place} OR id < {{}})"), after.id);
        }
        let sql = format!(
            "SELECT id, at_ms, severity, action, actor_name, actor_email, target, target_id, details, address
             FROM admin_log WHERE organization = $1{} ORDER BY at_ms DESC, id DESC LIMIT {}",
            conditions.sql,
            limit.saturating_add(1)
        );
        let rows = self.database.rows(&sql, &conditions.values).await?;
        let limit = limit as usize;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows.iter().take(limit) {
            lines.push(Line {
                at_ms: row.get(1)?,
                severity: row.get(2)?,
                action: row.get(3)?,
                actor_name: row.get(4)?,
                actor_email: row.get(5)?,
                target: row.get(6)?,
                target_id: row.get(7)?,
                details: row.get(8)?,
                address: row.get(9)?,
            });
        }
        let last = rows.get(limit.wrapping_sub(1)).filter(|_| rows.len() > limit);
        let next = last.map(|row| Ok::<_, DbError>(Place { at_ms: row.get(1)?, id: row.get(0)? }));
        Ok(Page { lines, next: next.transpose()? })
    }
}

/// Returns a text as it is found with `LIKE`.
fn literal(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
