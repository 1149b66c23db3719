-- Records of gateways, and which the Hub has. Never changed once they are there.

-- What the Hub has of each stream: `spans` is JSON, `[[1, 5000], [9001, 9400]]`.
CREATE TABLE streams (
    gateway BIGINT NOT NULL,
    database_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    spans TEXT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (gateway, database_id, kind)
);
