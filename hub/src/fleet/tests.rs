//! Gateways, on both databases.

use std::sync::Arc;

use super::state::{FAREWELL_MS, OFFLINE_AFTER_MS};
use super::{Fleet, GatewayQuery, Link, Presence, Sort, SqlFleet, State, Uptime};
use crate::clock::now_ms;
use crate::db::testing::TestDatabase;
use crate::db::{Database, values};
use crate::id::{GatewayId, UserId, WorkspaceId};
use crate::wire::{ClientReport, Heartbeat, Host, SetupReport, UpstreamReport};

struct Place {
    _test: TestDatabase,
    database: Arc<dyn Database>,
    fleet: SqlFleet,
    presence: Presence,
    workspace: WorkspaceId,
    other: WorkspaceId,
}

impl Place {
    async fn each() -> Vec<Self> {
        let mut places = Vec::new();
        for test in TestDatabase::each().await {
            let database = Arc::clone(&test.database);
            let (workspace, other) = (WorkspaceId::new(), WorkspaceId::new());
            for (number, id) in [(1_i64, workspace), (2, other)] {
                let name = format!("place {number}");
                let sql =
                    "INSERT INTO organizations (id, name, slug, created_ms) VALUES ($1, $2, $2, 0)";
                database.execute(sql, &values![number, &name]).await.unwrap();
                let sql =
                    "INSERT INTO teams (id, organization, name, created_ms) VALUES ($1, $1, $2, 0)";
                database.execute(sql, &values![number, &name]).await.unwrap();
                let sql = "INSERT INTO workspaces (id, organization, team, name, created_ms)
                     VALUES ($2, $1, $1, $3, 0)";
                database.execute(sql, &values![number, id, &name]).await.unwrap();
            }
            let uptime = Arc::new(Uptime::begin(&*database).await.unwrap());
            places.push(Self {
                fleet: SqlFleet::new(Arc::clone(&database), uptime),
                presence: Presence::new(Arc::clone(&database)),
                database,
                workspace,
                other,
                _test: test,
            });
        }
        places
    }

    async fn gateway(
        &self,
        name: &str,
        workspace: WorkspaceId,
        owner: Option<UserId>,
    ) -> GatewayId {
        let id = GatewayId::new();
        let sql = "INSERT INTO gateways (id, organization, workspace, name, owner, lookup, hash,
                 created_ms, os, arch, hostname, version, kind, environment)
             SELECT $1, organization, id, $3, $4, $1, $5, 0, 'linux', 'x86_64', $6, '1.0', 'personal', 'local'
             FROM workspaces WHERE id = $2";
        let parameters =
            values![id, workspace, name, owner, vec![0_u8; 32], format!("{name}.example")];
        assert_eq!(self.database.execute(sql, &parameters).await.unwrap(), 1);
        id
    }

    /// Sets back the clock of a gateway's last heartbeat.
    async fn age(&self, gateway: GatewayId, by_ms: i64) {
        let sql = "UPDATE presence SET seen_ms = seen_ms - $2, silent_ms = silent_ms - $2
             WHERE gateway = $1";
        self.database.execute(sql, &values![gateway, by_ms]).await.unwrap();
    }

    async fn states(&self) -> Vec<(String, State)> {
        let page = self.fleet.gateways(&[self.workspace], &query()).await.unwrap();
        page.rows.into_iter().map(|row| (row.name, row.state)).collect()
    }
}

fn query() -> GatewayQuery {
    GatewayQuery { limit: 50, ..GatewayQuery::default() }
}

fn heartbeat(process: &str) -> Heartbeat {
    Heartbeat {
        process: format!("00000000-0000-4000-8000-{process:0>12}"),
        host: Host { os: "linux".to_owned(), version: "2.0".to_owned(), ..Host::default() },
        period_s: 30,
        farewell: false,
        database: "0".repeat(32),
        unsent: 0,
        clients: Vec::new(),
        upstreams: Vec::new(),
        setup: SetupReport::default(),
    }
}

#[tokio::test]
async fn a_gateway_is_pending_online_idle_and_offline() {
    for place in Place::each().await {
        let gateway = place.gateway("ada", place.workspace, None).await;
        let state = async |expected| {
            assert_eq!(place.states().await, [("ada".to_owned(), expected)]);
        };
        state(State::Pending).await;

        place.presence.note(gateway, heartbeat("a")).unwrap();
        place.presence.flush().await.unwrap();
        state(State::Online).await;

        place.age(gateway, 91_000).await;
        state(State::Idle).await;
        place.age(gateway, OFFLINE_AFTER_MS).await;
        state(State::Offline).await;

        place.presence.note(gateway, Heartbeat { farewell: true, ..heartbeat("a") }).unwrap();
        place.presence.flush().await.unwrap();
        state(State::Idle).await;
        place.age(gateway, OFFLINE_AFTER_MS * 2).await;
        state(State::Idle).await;
        place.age(gateway, FAREWELL_MS).await;
        state(State::Offline).await;
    }
}

#[tokio::test]
async fn a_gateway_is_online_while_one_of_its_processes_is() {
    for place in Place::each().await {
        let gateway = place.gateway("ada", place.workspace, None).await;
        place.presence.note(gateway, heartbeat("a")).unwrap();
        place.presence.note(gateway, heartbeat("b")).unwrap();
        place.presence.flush().await.unwrap();

        place.presence.note(gateway, Heartbeat { farewell: true, ..heartbeat("a") }).unwrap();
        place.presence.flush().await.unwrap();
        assert_eq!(place.states().await[0].1, State::Online);
        place.presence.note(gateway, Heartbeat { farewell: true, ..heartbeat("b") }).unwrap();
        place.presence.flush().await.unwrap();

        assert_eq!(place.states().await[0].1, State::Idle);
    }
}

#[tokio::test]
async fn a_restart_of_the_hub_makes_nobody_offline() {
    for place in Place::each().await {
        let gateway = place.gateway("ada", place.workspace, None).await;
        place.presence.note(gateway, heartbeat("a")).unwrap();
        place.presence.flush().await.unwrap();
        let hour = 60 * 60_000;
        place.age(gateway, hour).await;
        let sql = "INSERT INTO settings (name, value) VALUES ('alive_ms', $1)";
        let stopped = (now_ms() - hour).to_string();
        place.database.execute(sql, &values![stopped]).await.unwrap();

        let uptime = Arc::new(Uptime::begin(&*place.database).await.unwrap());
        let restarted = SqlFleet::new(Arc::clone(&place.database), uptime);

        let counts = restarted.counts(&[place.workspace], &query()).await.unwrap();
        assert_eq!((counts.online, counts.offline), (1, 0));
        assert_eq!(place.states().await[0].1, State::Offline);
    }
}

#[tokio::test]
async fn what_a_heartbeat_says_is_shown() {
    for place in Place::each().await {
        let gateway = place.gateway("ada", place.workspace, None).await;
        let client = |version: &str| ClientReport {
            name: "claude-ai".to_owned(),
            version: version.to_owned(),
            managed: None,
            active_unix_ms: Some(7),
        };
        let upstream = UpstreamReport {
            name: "git\0hub".to_owned(),
            state: "ready".to_owned(),
            server: None,
            transport: Some("stdio".to_owned()),
            tools: 3,
            error: Some("é".repeat(1000)),
        };
        let setup = SetupReport { drift_events: Some(2), ..SetupReport::default() };
        let beat = Heartbeat {
            clients: vec![client("1"), client("2")],
            upstreams: vec![upstream],
            unsent: 12,
            setup,
            ..heartbeat("a")
        };

        place.presence.note(gateway, beat).unwrap();
        place
            .presence
            .note(gateway, Heartbeat { clients: vec![client("2")], ..heartbeat("b") })
            .unwrap();
        place.presence.note_sync(gateway);
        place.presence.flush().await.unwrap();

        let detail = place.fleet.gateway(&[place.workspace], gateway).await.unwrap().unwrap();
        assert_eq!(detail.line.host.version, "2.0");
        assert_eq!(detail.clients.len(), 2);
        assert_eq!(detail.upstreams[0].error.as_ref().unwrap().chars().count(), 256);
        assert_eq!(detail.unsent, 12);
        assert!(detail.synced_ms.is_some());
        assert_eq!(detail.setup.config_scan_unix_ms, None);
    }
}

#[tokio::test]
async fn gateways_of_another_workspace_are_not_there() {
    for place in Place::each().await {
        let mine = place.gateway("mine", place.workspace, None).await;
        let theirs = place.gateway("theirs", place.other, None).await;

        assert_eq!(place.states().await.len(), 1);
        assert!(place.fleet.gateway(&[place.workspace], theirs).await.unwrap().is_none());
        assert!(place.fleet.gateway(&[place.workspace], mine).await.unwrap().is_some());
        assert!(place.fleet.gateways(&[], &query()).await.unwrap().rows.is_empty());
    }
}

#[tokio::test]
async fn every_order_shows_each_gateway_once() {
    for place in Place::each().await {
        for number in 0..25 {
            let name = ["Ada", "ada", "Bob", "carl"][number % 4];
            let gateway = place.gateway(name, place.workspace, None).await;
            if number % 3 == 0 {
                place.presence.note(gateway, heartbeat("a")).unwrap();
            }
        }
        place.presence.flush().await.unwrap();
        let sorts = [Sort::Name, Sort::LastSeen, Sort::Workspace, Sort::Version, Sort::State];

        for (sort, descending) in sorts.into_iter().flat_map(|sort| [(sort, false), (sort, true)]) {
            let mut seen = Vec::new();
            let mut query = GatewayQuery { limit: 4, sort, descending, ..query() };
            loop {
                let page = place.fleet.gateways(&[place.workspace], &query).await.unwrap();
                seen.extend(page.rows.iter().map(|row| row.id));
                let Some(next) = page.next else { break };
                query.offset_key = Some(next);
            }

            let distinct: std::collections::HashSet<_> = seen.iter().collect();
            assert_eq!((seen.len(), distinct.len()), (25, 25), "{sort:?} {descending}");
        }
    }
}

#[tokio::test]
async fn filters_narrow_together() {
    for place in Place::each().await {
        let sql = "INSERT INTO users (id, email, name, created_ms) VALUES (5, 'grace@example.com', '', 0)";
        place.database.execute(sql, &[]).await.unwrap();
        let owner = UserId::from_number(5);
        place.gateway("100%_sure", place.workspace, Some(owner)).await;
        place.gateway("100 sure", place.workspace, None).await;
        let found = async |query: GatewayQuery| {
            place.fleet.gateways(&[place.workspace], &query).await.unwrap().rows.len()
        };
        let searched = |text: &str| GatewayQuery { search: Some(text.to_owned()), ..query() };

        assert_eq!(found(searched("100%_")).await, 1);
        assert_eq!(found(searched("SURE.exam")).await, 2);
        assert_eq!(found(searched("grace@")).await, 1);
        assert_eq!(found(GatewayQuery { owner: Some(owner), ..query() }).await, 1);
        let states = vec![State::Pending, State::Online];
        assert_eq!(found(GatewayQuery { states, ..searched("100%") }).await, 1);
        assert_eq!(found(GatewayQuery { states: vec![State::Offline], ..query() }).await, 0);
        assert_eq!(found(GatewayQuery { systems: vec!["macos".to_owned()], ..query() }).await, 0);
        let facets = place.fleet.facets(&[place.workspace], Link::Linked).await.unwrap();
        assert_eq!(facets.owners, [(owner, "grace@example.com".to_owned())]);
        assert_eq!(facets.systems, ["linux"]);
    }
}

#[tokio::test]
async fn a_search_finds_letters_beyond_ascii_as_they_are_written() {
    for place in Place::each().await {
        place.gateway("ÉCOLE", place.workspace, None).await;
        let query = GatewayQuery { search: Some("École".to_owned()), ..query() };

        let page = place.fleet.gateways(&[place.workspace], &query).await.unwrap();

        assert_eq!(page.rows.len(), 1);
    }
}

#[tokio::test]
async fn gateways_that_are_not_linked_are_listed_when_asked_for_and_shown_by_their_id() {
    for place in Place::each().await {
        let linked = place.gateway("ada", place.workspace, None).await;
        let unlinked = place.gateway("bob", place.workspace, None).await;
        let archived = place.gateway("carl", place.workspace, None).await;
        let sql = "UPDATE gateways SET unlinked_ms = 7 WHERE id IN ($1, $2)";
        place.database.execute(sql, &values![unlinked, archived]).await.unwrap();
        let sql = "UPDATE gateways SET archived_ms = 9 WHERE id = $1";
        place.database.execute(sql, &values![archived]).await.unwrap();

        let cases = [
            (linked, Link::Linked, None),
            (unlinked, Link::Unlinked, Some(7)),
            (archived, Link::Archived, Some(9)),
        ];
        for (id, link, ended_ms) in cases {
            let query = GatewayQuery { link, ..query() };
            let page = place.fleet.gateways(&[place.workspace], &query).await.unwrap();
            assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
            let counts = place.fleet.counts(&[place.workspace], &query).await.unwrap();
            assert_eq!(counts.pending, 1);
            let detail = place.fleet.gateway(&[place.workspace], id).await.unwrap().unwrap();
            assert_eq!((detail.line.link, detail.line.ended_ms), (link, ended_ms));
            assert!(place.fleet.gateway(&[place.other], id).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn too_many_heartbeats_are_refused() {
    for place in Place::each().await {
        let gateway = place.gateway("ada", place.workspace, None).await;

        let refused = (0..200).filter(|_| place.presence.note(gateway, heartbeat("a")).is_err());

        assert!(refused.count() > 50);
    }
}
