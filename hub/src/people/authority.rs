//! Roles and where they hold, and the frame of everything that changes an organization: one at a time, by
//! somebody who may, written to the Admin Log in the same transaction.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::People;
use super::admin_log::{self, Act};
use crate::access::{Ability, Account, Role};
use crate::db::{DbError, Dialect, Row, Transaction, Value, values};
use crate::error::ApiError;
use crate::id::{OrganizationId, TeamId, UserId, WorkspaceId};

/// Where a role holds, and in everything below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Organization(OrganizationId),
    Team(TeamId),
    Workspace(WorkspaceId),
}

impl Scope {
    /// As it is stored.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Organization(_) => "organization",
            Self::Team(_) => "team",
            Self::Workspace(_) => "workspace",
        }
    }

    pub(super) fn number(self) -> i64 {
        match self {
            Self::Organization(id) => id.number(),
            Self::Team(id) => id.number(),
            Self::Workspace(id) => id.number(),
        }
    }

    pub(super) fn stored(kind: &str, number: i64) -> Option<Self> {
        match kind {
            "organization" => Some(Self::Organization(OrganizationId::from_number(number))),
            "team" => Some(Self::Team(TeamId::from_number(number))),
            "workspace" => Some(Self::Workspace(WorkspaceId::from_number(number))),
            _ => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Team(id) => id.fmt(f),
            Self::Workspace(id) => id.fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = ApiError;

    /// Reads the id of an organization, a team, or a workspace.
    fn from_str(text: &str) -> Result<Self, ApiError> {
        let organization = text.parse().map(Self::Organization);
        let team = organization.or_else(|_| text.parse().map(Self::Team));
        let scope = team.or_else(|_| text.parse().map(Self::Workspace));
        scope.map_err(|_| ApiError::NotFound("organization, team or workspace"))
    }
}

/// An organization, team or workspace that is there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) scope: Scope,
    /// The team it is in, or is.
    team: Option<TeamId>,
    pub(crate) name: String,
}

impl Place {
    pub(super) fn organization(id: OrganizationId, name: String) -> Self {
        Self { scope: Scope::Organization(id), team: None, name }
    }

    pub(super) fn team(id: TeamId, name: String) -> Self {
        Self { scope: Scope::Team(id), team: Some(id), name }
    }

    pub(super) fn workspace(id: WorkspaceId, team: TeamId, name: String) -> Self {
        Self { scope: Scope::Workspace(id), team: Some(team), name }
    }
}

/// What somebody may do in one organization.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authority(Vec<(Scope, Role)>);

impl Authority {
    /// What to ask the database for: `$1` is the user, `$2` the organization.
    pub(super) const SQL: &'static str = "SELECT m.scope, m.scope_id, m.role FROM memberships m
         JOIN users u ON u.id = m.user_id AND u.disabled_ms IS NULL
         WHERE m.user_id = $1 AND m.organization = $2";

    pub(super) fn read(rows: &[Row]) -> Result<Self, DbError> {
        let mut roles = Vec::with_capacity(rows.len());
        for row in rows {
            let (kind, number, role): (String, i64, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            // What a newer version may store gives nobody anything.
            roles.extend(Scope::stored(&kind, number).zip(Role::parse(&role)));
        }
        Ok(Self(roles))
    }

    /// Whether there is any role.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the role there: the highest of those that hold.
    pub(crate) fn at(&self, place: &Place) -> Option<Role> {
        let holds = |scope: Scope| match scope {
            Scope::Organization(_) => true,
            Scope::Team(team) => place.team == Some(team),
            Scope::Workspace(_) => scope == place.scope,
        };
        self.0.iter().filter(|(scope, _)| holds(*scope)).map(|(_, role)| *role).max()
    }

    /// Whether that is allowed there.
    pub(crate) fn may(&self, ability: Ability, place: &Place) -> bool {
        self.at(place).is_some_and(|role| role.may(ability))
    }

    /// Whether that is allowed in the organization as a whole.
    pub(crate) fn may_everywhere(&self, ability: Ability) -> bool {
        let whole = |scope: Scope| matches!(scope, Scope::Organization(_));
        self.0.iter().any(|(scope, role)| whole(*scope) && role.may(ability))
    }

    /// Whether whoever has it may delete this place: an organization as its Owner, another one as an Admin of
    /// what it is in.
    pub(crate) fn may_delete(&self, place: &Place) -> bool {
        self.0.iter().any(|(scope, role)| match (place.scope, scope) {
            (Scope::Organization(_), Scope::Organization(_)) => role.may(Ability::Own),
            (Scope::Team(_) | Scope::Workspace(_), Scope::Organization(_)) => {
                role.may(Ability::Administer)
            }
            (Scope::Workspace(_), Scope::Team(team)) => {
                place.team == Some(*team) && role.may(Ability::Administer)
            }
            (_, Scope::Team(_) | Scope::Workspace(_)) => false,
        })
    }

    /// Whether whoever has it may give this role there, or take it away.
    pub(crate) fn may_give(&self, role: Role, place: &Place) -> bool {
        self.may(if role == Role::Owner { Ability::Own } else { Ability::Administer }, place)
    }
}

/// Somebody who does something, and from where.
#[derive(Debug, Clone)]
pub(crate) struct By {
    pub(crate) account: Account,
    pub(crate) address: IpAddr,
}

/// A change of an organization that is under way. Dropped, it did not happen.
pub(super) struct Change {
    pub(super) transaction: Box<dyn Transaction>,
    pub(super) organization: OrganizationId,
    pub(super) now_ms: i64,
    pub(super) authority: Authority,
    pub(super) by: By,
}

/// Makes others who change the organization wait until the transaction ends; returns whether there is one.
///
/// First the organization, then what is in it: all who change it do so.
pub(crate) async fn lock(
    transaction: &mut dyn Transaction,
    dialect: Dialect,
    organization: OrganizationId,
) -> Result<bool, DbError> {
    let sql = format!("SELECT id FROM organizations WHERE id = $1{}", dialect.for_update());
    Ok(transaction.row(&sql, &values![organization]).await?.is_some())
}

/// Finds a place of an organization, whatever may be done there.
pub(crate) async fn place(
    transaction: &mut dyn Transaction,
    organization: OrganizationId,
    scope: Scope,
) -> Result<Place, ApiError> {
    let (sql, missing) = match scope {
        Scope::Organization(_) => {
            ("SELECT name FROM organizations WHERE id = $2 AND id = $1", "organization")
        }
        Scope::Team(_) => ("SELECT name FROM teams WHERE id = $2 AND organization = $1", "team"),
        Scope::Workspace(_) => {
            ("SELECT name, team FROM workspaces WHERE id = $2 AND organization = $1", "workspace")
        }
    };
    let row = transaction.row(sql, &values![organization, scope.number()]).await?;
    let row = row.ok_or(ApiError::NotFound(missing))?;
    let name = row.get(0)?;
    Ok(match scope {
        Scope::Organization(id) => Place::organization(id, name),
        Scope::Team(id) => Place::team(id, name),
        Scope::Workspace(id) => Place::workspace(id, row.get(1)?, name),
    })
}

impl People {
    /// Begins to change an organization, and waits for others that do.
    pub(super) async fn change(
        &self,
        by: &By,
        organization: OrganizationId,
    ) -> Result<Change, ApiError> {
        let mut transaction = self.database.begin().await?;
        if !lock(&mut *transaction, self.database.dialect(), organization).await? {
            return Err(ApiError::NotFound("organization"));
        }
        let rows = transaction.rows(Authority::SQL, &values![by.account.id, organization]).await?;
        let authority = Authority::read(&rows)?;
        if authority.is_none() {
            return Err(ApiError::NotFound("organization"));
        }
        Ok(Change { transaction, organization, now_ms: self.now_ms(), authority, by: by.clone() })
    }
}

impl Change {
    /// Finds a place of this organization, whatever may be done there.
    pub(super) async fn place(&mut self, scope: Scope) -> Result<Place, ApiError> {
        place(&mut *self.transaction, self.organization, scope).await
    }

    /// Finds a place where that is allowed.
    pub(super) async fn place_for(
        &mut self,
        ability: Ability,
        scope: Scope,
    ) -> Result<Place, ApiError> {
        let place = self.place(scope).await?;
        match self.authority.at(&place) {
            Some(role) if role.may(ability) => Ok(place),
            Some(_) => Err(ApiError::Forbidden(ability.who())),
            None => Err(ApiError::NotFound("place")),
        }
    }

    /// Makes sure that this role may be given or taken there.
    pub(super) fn check_give(&self, role: Role, place: &Place) -> Result<(), ApiError> {
        if self.authority.may_give(role, place) {
            return Ok(());
        }
        let ability = if role == Role::Owner { Ability::Own } else { Ability::Administer };
        Err(ApiError::Forbidden(ability.who()))
    }

    pub(super) fn by(&self) -> UserId {
        self.by.account.id
    }

    pub(super) async fn row(
        &mut self,
        sql: &str,
        parameters: &[Value],
    ) -> Result<Option<Row>, DbError> {
        self.transaction.row(sql, parameters).await
    }

    pub(super) async fn execute(
        &mut self,
        sql: &str,
        parameters: &[Value],
    ) -> Result<u64, DbError> {
        self.transaction.execute(sql, parameters).await
    }

    /// Counts rows, and refuses another one when there are so many.
    pub(super) async fn check_room(
        &mut self,
        (sql, parameters): (&str, &[Value]),
        max: i64,
        what: &str,
    ) -> Result<(), ApiError> {
        let row = self.row(sql, parameters).await?;
        if row.map_or(Ok(0), |row| row.get::<i64>(0))? < max {
            return Ok(());
        }
        Err(ApiError::Conflict(format!("there are {max} {what}; more are not taken")))
    }

    /// Writes to the Admin Log what was done, and makes it all durable.
    pub(super) async fn commit(mut self, act: Act) -> Result<(), ApiError> {
        let act = act.by(&self.by.account).from(self.by.address);
        admin_log::write(&mut *self.transaction, self.organization, self.now_ms, &act).await?;
        Ok(self.transaction.commit().await?)
    }
}
