-- Records of gateways, and which the Hub has. Never changed once they are there. Times are nanoseconds since 1970
-- UTC as the gateway's clock has them, but for `…_ms`, which are the Hub's own.

-- What the Hub has of each stream: `spans` is JSON, `[[1, 5000], [9001, 9400]]`; `lost` are those of them that the
-- gateway had no more. `batches` grows with each batch that brought something.
CREATE TABLE streams (
    workspace BIGINT NOT NULL,
    gateway BIGINT NOT NULL,
    database_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    spans TEXT NOT NULL,
    lost TEXT NOT NULL,
    batches BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (gateway, database_id, kind)
);

-- What records have in common but for their time: everything that lists are filtered by. `id` is made from the
-- rest, so whoever has a record knows its series. `operation` is the event's type for audit events, `outcome` the
-- status for traces. A gateway with very many names has series without: `named` is 0, and the name is with the
-- record. `first_ns` and `last_ns` are exact until retention deletes records.
CREATE TABLE series (
    workspace BIGINT NOT NULL,
    id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    gateway BIGINT NOT NULL,
    operation TEXT NOT NULL,
    method TEXT NOT NULL,
    severity TEXT NOT NULL,
    outcome TEXT NOT NULL,
    upstream TEXT,
    name TEXT,
    client TEXT NOT NULL,
    named BIGINT NOT NULL,
    transport TEXT,
    calls BIGINT NOT NULL,
    duration_ns BIGINT NOT NULL,
    first_ns BIGINT NOT NULL,
    last_ns BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)
--postgres ) WITH (fillfactor = 70);
--sqlite );
CREATE INDEX series_by_gateway ON series (workspace, gateway);

-- One row per call, without what only its own page shows. PostgreSQL has a partition for each day, and one for odd
-- clocks and days that were too many.
CREATE TABLE traces (
    workspace BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    id {bytes} NOT NULL,
    series BIGINT NOT NULL,
    session_key BIGINT NOT NULL,
    session TEXT NOT NULL,
    name TEXT,
    trace_id {bytes} NOT NULL,
    error TEXT,
    duration_ns BIGINT NOT NULL,
    request_bytes BIGINT NOT NULL,
    response_bytes BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    PRIMARY KEY (workspace, at_ns, id)
--postgres ) PARTITION BY RANGE (at_ns);
--sqlite ) WITHOUT ROWID;
CREATE INDEX traces_by_series ON traces (workspace, series, at_ns, id);
CREATE INDEX traces_by_session ON traces (workspace, session_key, at_ns, id);
CREATE INDEX traces_by_name ON traces (workspace, name, at_ns, id) WHERE name IS NOT NULL;
CREATE INDEX traces_by_trace ON traces (workspace, trace_id);
--postgres CREATE TABLE traces_odd PARTITION OF traces DEFAULT;

-- The rest of a trace. `payload` is JSON with `request`, `response` and `metadata`, compressed if that is shorter.
CREATE TABLE trace_details (
    workspace BIGINT NOT NULL,
    id {bytes} NOT NULL,
    at_ns BIGINT NOT NULL,
    span_id BIGINT NOT NULL,
    parent_span_id BIGINT,
    payload {bytes} NOT NULL,
    PRIMARY KEY (workspace, id, at_ns)
--postgres ) PARTITION BY RANGE (at_ns);
--postgres ALTER TABLE trace_details ALTER COLUMN payload SET STORAGE EXTERNAL;
--sqlite );
--postgres CREATE TABLE trace_details_odd PARTITION OF trace_details DEFAULT;

CREATE TABLE audit_events (
    workspace BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    id {bytes} NOT NULL,
    series BIGINT NOT NULL,
    session_key BIGINT NOT NULL,
    session TEXT,
    name TEXT,
    trace_id {bytes},
    reason TEXT,
    details TEXT NOT NULL,
    received_ms BIGINT NOT NULL,
    PRIMARY KEY (workspace, at_ns, id)
--postgres ) PARTITION BY RANGE (at_ns);
--sqlite ) WITHOUT ROWID;
CREATE INDEX audit_events_by_series ON audit_events (workspace, series, at_ns, id);
CREATE INDEX audit_events_by_session ON audit_events (workspace, session_key, at_ns, id);
CREATE INDEX audit_events_by_name ON audit_events (workspace, name, at_ns, id) WHERE name IS NOT NULL;
CREATE INDEX audit_events_by_id ON audit_events (workspace, id);
--postgres CREATE TABLE audit_events_odd PARTITION OF audit_events DEFAULT;

-- How servers were used in each hour since 1970: by tool (`name` is empty for all that is no call of a tool, and for
-- names that were too many), and by gateway.
CREATE TABLE tool_usage (
    workspace BIGINT NOT NULL,
    upstream TEXT NOT NULL,
    hour BIGINT NOT NULL,
    name TEXT NOT NULL,
    calls BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    duration_ns BIGINT NOT NULL,
    last_ns BIGINT NOT NULL,
    PRIMARY KEY (workspace, upstream, hour, name)
--postgres ) WITH (fillfactor = 70);
--sqlite ) WITHOUT ROWID;
CREATE TABLE gateway_usage (
    workspace BIGINT NOT NULL,
    upstream TEXT NOT NULL,
    hour BIGINT NOT NULL,
    gateway BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    duration_ns BIGINT NOT NULL,
    last_ns BIGINT NOT NULL,
    PRIMARY KEY (workspace, upstream, hour, gateway)
--postgres ) WITH (fillfactor = 70);
--sqlite ) WITHOUT ROWID;

-- Records that could not be read, as they came, and why. Only the first of each stream.
CREATE TABLE rejected (
    workspace BIGINT NOT NULL,
    gateway BIGINT NOT NULL,
    database_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    seq BIGINT NOT NULL,
    reason TEXT NOT NULL,
    line TEXT NOT NULL,
    received_ms BIGINT NOT NULL,
    PRIMARY KEY (gateway, database_id, kind, seq)
);

-- SQLite chooses its indices by these figures, and would read a whole workspace for a session without them. They are
-- those of a million records, and stay: nobody has to run ANALYZE.
--sqlite ANALYZE;
--sqlite INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
--sqlite ('traces', 'traces', '1000000 1000000 1 1'),
--sqlite ('traces', 'traces_by_series', '1000000 1000000 1000 1 1'),
--sqlite ('traces', 'traces_by_session', '1000000 1000000 40 1 1'),
--sqlite ('traces', 'traces_by_name', '10000 10000 10 1 1'),
--sqlite ('trace_details', 'sqlite_autoindex_trace_details_1', '1000000 1000000 1 1'),
--sqlite ('traces', 'traces_by_trace', '1000000 1000000 2'),
--sqlite ('audit_events', 'audit_events', '1000000 1000000 1 1'),
--sqlite ('audit_events', 'audit_events_by_series', '1000000 1000000 1000 1 1'),
--sqlite ('audit_events', 'audit_events_by_session', '1000000 1000000 40 1 1'),
--sqlite ('audit_events', 'audit_events_by_name', '10000 10000 10 1 1'),
--sqlite ('audit_events', 'audit_events_by_id', '1000000 1000000 1');
--sqlite ANALYZE sqlite_schema;
