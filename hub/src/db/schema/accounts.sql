-- Who there is, and who may do what. Times are milliseconds since 1970 UTC.

CREATE TABLE organizations (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL
);

CREATE TABLE teams (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE workspaces (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    team BIGINT NOT NULL REFERENCES teams (id),
    name TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    UNIQUE (team, name)
);

-- `email` is in lower case.
CREATE TABLE users (
    id BIGINT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    seen_ms BIGINT,
    disabled_ms BIGINT
);

-- `scope` is `organization`, `team` or `workspace`, and `scope_id` the id of one. Roles hold for what is below.
CREATE TABLE memberships (
    user_id BIGINT NOT NULL REFERENCES users (id),
    organization BIGINT NOT NULL REFERENCES organizations (id),
    scope TEXT NOT NULL,
    scope_id BIGINT NOT NULL,
    role TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (user_id, scope, scope_id)
);
CREATE INDEX memberships_by_organization ON memberships (organization, user_id);

-- `scope`, `scope_id` and `role` are those of the membership that comes of it; `hash` is of the link's token.
CREATE TABLE invites (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    scope TEXT NOT NULL,
    scope_id BIGINT NOT NULL,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    hash {bytes} NOT NULL UNIQUE,
    created_by BIGINT NOT NULL REFERENCES users (id),
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    accepted_ms BIGINT,
    revoked_ms BIGINT
);
CREATE INDEX invites_by_organization ON invites (organization);
CREATE INDEX invites_by_email ON invites (email);
CREATE INDEX invites_by_creator ON invites (created_by);

-- Browsers. `hash` is of what their cookie says.
CREATE TABLE sessions (
    hash {bytes} PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users (id),
    created_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);

-- Codes sent by e-mail. `hash` is of the cookie of the browser that asked; `code_hash` is keyed with the cookie,
-- so that nobody can find eight digits from what stands here.
CREATE TABLE codes (
    hash {bytes} PRIMARY KEY,
    email TEXT NOT NULL,
    code_hash {bytes} NOT NULL,
    attempts BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX codes_by_email ON codes (email);

-- Attempts that are counted, such as wrong codes for an address.
CREATE TABLE attempts (
    name TEXT PRIMARY KEY,
    count BIGINT NOT NULL,
    until_ms BIGINT NOT NULL
);

-- Sign-ins of the command line: a code that was handed out, and what became of it.
CREATE TABLE grants (
    hash {bytes} PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users (id),
    challenge TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    used_ms BIGINT,
    family BIGINT NOT NULL
);
CREATE INDEX grants_by_user ON grants (user_id);

-- Tokens of the command line. Those of one `family` come from one sign-in.
CREATE TABLE tokens (
    lookup BIGINT PRIMARY KEY,
    hash {bytes} NOT NULL,
    purpose TEXT NOT NULL,
    family BIGINT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    used_ms BIGINT,
    revoked_ms BIGINT,
    -- The refresh token that got it, if one did.
    got_by BIGINT,
    -- Of a refresh token: when somebody showed what it got.
    shown_ms BIGINT
);
CREATE INDEX tokens_by_family ON tokens (family);
CREATE INDEX tokens_by_user ON tokens (user_id);

-- Sign-ins at an identity provider that are under way.
CREATE TABLE flows (
    hash {bytes} PRIMARY KEY,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    return_to TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- Who an identity provider says somebody is.
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identities_by_user ON identities (user_id);

-- Who did what, as they were called then. `details` is JSON.
CREATE TABLE admin_log (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    at_ms BIGINT NOT NULL,
    severity TEXT NOT NULL,
    action TEXT NOT NULL,
    actor_id BIGINT,
    actor_name TEXT NOT NULL,
    actor_email TEXT NOT NULL,
    target TEXT NOT NULL,
    target_id TEXT NOT NULL,
    details TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE INDEX admin_log_by_time ON admin_log (organization, at_ms, id);

-- Of the installation, such as the hash of the link that sets it up.
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
