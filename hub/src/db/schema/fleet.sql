-- Gateways, how they come in, and how they are. Times are milliseconds since 1970 UTC.

-- `lookup` and `hash` are of the key.
CREATE TABLE deploy_keys (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    workspace BIGINT NOT NULL REFERENCES workspaces (id),
    name TEXT NOT NULL,
    lookup BIGINT NOT NULL UNIQUE,
    hash {bytes} NOT NULL,
    created_by BIGINT NOT NULL REFERENCES users (id),
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    used_ms BIGINT,
    revoked_ms BIGINT
);
CREATE INDEX deploy_keys_by_organization ON deploy_keys (organization);
CREATE INDEX deploy_keys_by_workspace ON deploy_keys (workspace);
CREATE INDEX deploy_keys_by_creator ON deploy_keys (created_by);

-- Linked by a person (`owner`) or by a key (`deploy_key`). `lookup` and `hash` are of the gateway's own secret.
-- `request` is the UUID of the request that linked it.
CREATE TABLE gateways (
    id BIGINT PRIMARY KEY,
    organization BIGINT NOT NULL REFERENCES organizations (id),
    workspace BIGINT NOT NULL REFERENCES workspaces (id),
    name TEXT NOT NULL,
    owner BIGINT REFERENCES users (id),
    deploy_key BIGINT REFERENCES deploy_keys (id),
    request TEXT,
    lookup BIGINT NOT NULL UNIQUE,
    hash {bytes} NOT NULL,
    created_ms BIGINT NOT NULL,
    unlinked_ms BIGINT,
    archived_ms BIGINT,
    os TEXT NOT NULL,
    os_version TEXT,
    arch TEXT NOT NULL,
    hostname TEXT NOT NULL,
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    environment TEXT NOT NULL,
    enforcement_profile TEXT,
    config_scan_ms BIGINT,
    servers_managed BIGINT,
    servers_total BIGINT,
    drift_events BIGINT
);
CREATE INDEX gateways_by_workspace ON gateways (workspace, id);
CREATE INDEX gateways_by_request ON gateways (request);
CREATE INDEX gateways_by_owner ON gateways (owner);
CREATE INDEX gateways_by_deploy_key ON gateways (deploy_key);

-- What changes with each heartbeat. `silent_ms` is when the gateway counts as no longer online without a further
-- one; `farewell` is 1 if its last process said good-bye.
CREATE TABLE presence (
    gateway BIGINT PRIMARY KEY REFERENCES gateways (id),
    seen_ms BIGINT NOT NULL,
    silent_ms BIGINT NOT NULL,
    farewell BIGINT NOT NULL,
    synced_ms BIGINT,
    unsent BIGINT NOT NULL
);

-- One row for each process of a gateway that was heard of lately; `report` is JSON: clients and servers. `stamp`
-- says which rows were written together.
CREATE TABLE processes (
    gateway BIGINT NOT NULL REFERENCES gateways (id),
    process TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    silent_ms BIGINT NOT NULL,
    farewell BIGINT NOT NULL,
    unsent BIGINT NOT NULL,
    report TEXT NOT NULL,
    stamp BIGINT NOT NULL,
    PRIMARY KEY (gateway, process)
);

-- Workspaces that were deleted, and whose records are still being deleted.
CREATE TABLE removals (
    workspace BIGINT PRIMARY KEY,
    removed_ms BIGINT NOT NULL
);
