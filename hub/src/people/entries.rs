//! Where somebody may go.

use super::People;
use crate::access::{Ability, Entry, Role};
use crate::db::{DbError, Row, values};
use crate::error::ApiError;
use crate::id::{UserId, WorkspaceId};

/// Every workspace below each role of the user `$1`, once per role.
const ENTRIES: &str = "SELECT o.id, o.name, t.name, w.id, w.name, m.role
     FROM memberships m
     JOIN users u ON u.id = m.user_id AND u.disabled_ms IS NULL
     JOIN workspaces w ON w.organization = m.organization
         AND (m.scope = 'organization'
              OR (m.scope = 'team' AND w.team = m.scope_id)
              OR (m.scope = 'workspace' AND w.id = m.scope_id))
     JOIN teams t ON t.id = w.team
     JOIN organizations o ON o.id = w.organization
     WHERE m.user_id = $1";

impl People {
    /// Returns the workspaces that somebody may enter, each with the highest role that holds there, by name.
    ///
    /// That of a Beacon is among them: it may link there, and see nothing.
    pub(crate) async fn entries(&self, user: UserId) -> Result<Vec<Entry>, DbError> {
        let sql = format!("{ENTRIES} ORDER BY o.name, o.id, t.name, t.id, w.name, w.id");
        highest(&self.database.rows(&sql, &values![user]).await?)
    }

    /// Returns one workspace, if that is allowed there.
    ///
    /// # Errors
    ///
    /// - [`ApiError::NotFound`]: no role there. Whether there is such a workspace is nobody's business then.
    /// - [`ApiError::Forbidden`]: not in this role.
    pub(crate) async fn entry(
        &self,
        user: UserId,
        workspace: WorkspaceId,
        ability: Ability,
    ) -> Result<Entry, ApiError> {
        let sql = format!("{ENTRIES} AND w.id = $2");
        let entries = highest(&self.database.rows(&sql, &values![user, workspace]).await?)?;
        let entry = entries.into_iter().next().ok_or(ApiError::NotFound("workspace"))?;
        if entry.role.may(ability) { Ok(entry) } else { Err(ApiError::Forbidden(ability.who())) }
    }
}

/// Makes one entry of the rows of each workspace, which follow each other.
fn highest(rows: &[Row]) -> Result<Vec<Entry>, DbError> {
    let mut entries: Vec<Entry> = Vec::new();
    for row in rows {
        // What a newer version may store gives nobody anything.
        let Some(role) = Role::parse(&row.get::<String>(5)?) else { continue };
        let workspace = row.get(3)?;
        match entries.last_mut().filter(|last| last.workspace == workspace) {
            Some(last) => last.role = last.role.max(role),
            None => entries.push(Entry {
                organization: row.get(0)?,
                organization_name: row.get(1)?,
                team_name: row.get(2)?,
                workspace,
                workspace_name: row.get(4)?,
                role,
            }),
        }
    }
    Ok(entries)
}
