//! Roles, and what they may do.

use std::fmt;

use serde::Serialize;

use crate::id::{OrganizationId, UserId, WorkspaceId};

/// What somebody is in an organization, a team or a workspace. A higher one may all that a lower one may,
/// and it holds for everything below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Links gateways, and sees nothing.
    Beacon,
    /// Sees records.
    Viewer,
    /// Links gateways too, and looks after those.
    Member,
    /// Runs the organization.
    Admin,
    /// Makes Owners, and unmakes them; ends the organization.
    Owner,
}

/// What must be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Traces, audit events, servers, gateways.
    SeeRecords,
    /// A gateway of one's own.
    LinkGateway,
    /// Any gateway: rename, unlink, archive.
    ManageGateways,
    /// Settings, teams, workspaces, members up to Admin, deploy keys, the Admin Log.
    Administer,
    /// Make Owners, change and remove them; delete the organization.
    Own,
}

impl Role {
    pub(crate) const ALL: [Self; 5] =
        [Self::Owner, Self::Admin, Self::Member, Self::Viewer, Self::Beacon];

    /// As it is stored, and stands in forms.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Beacon => "beacon",
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Returns the role with this name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether somebody in this role may do that.
    pub(crate) fn may(self, ability: Ability) -> bool {
        match ability {
            Ability::SeeRecords => self >= Self::Viewer,
            // Viewers see and do nothing; Beacons are there to link.
            Ability::LinkGateway => self >= Self::Member || self == Self::Beacon,
            Ability::ManageGateways | Ability::Administer => self >= Self::Admin,
            Ability::Own => self == Self::Owner,
        }
    }
}

impl Ability {
    /// Who may, for an error.
    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::SeeRecords => "viewers and above",
            Self::LinkGateway => "members, admins, owners and beacons",
            Self::ManageGateways | Self::Administer => "admins and owners",
            Self::Own => "owners",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Beacon => "Beacon",
            Self::Viewer => "Viewer",
            Self::Member => "Member",
            Self::Admin => "Admin",
            Self::Owner => "Owner",
        })
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: UserId,
    pub(crate) email: String,
    /// May be empty.
    pub(crate) name: String,
}

/// A workspace that somebody may enter, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) organization: OrganizationId,
    pub(crate) organization_name: String,
    pub(crate) team_name: String,
    pub(crate) workspace: WorkspaceId,
    pub(crate) workspace_name: String,
    pub(crate) role: Role,
}
