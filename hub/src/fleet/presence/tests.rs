//! Heartbeats on their way, on both databases.

use uuid::Uuid;

use super::*;
use crate::people::testing::{Home, Site, all_at_once};

async fn gateway(site: &Site, home: &Home) -> GatewayId {
    let id = GatewayId::new();
    let sql =
        "INSERT INTO gateways (id, organization, workspace, name, lookup, hash, created_ms, os,
             arch, hostname, version, kind, environment)
         VALUES ($1, $2, $3, 'laptop', $1, $4, 0, '', '', '', '', '', '')";
    let parameters = values![id, home.organization, home.workspace, vec![0_u8; 32]];
    site.database.execute(sql, &parameters).await.unwrap();
    id
}

fn heartbeat(process: &str) -> Heartbeat {
    serde_json::from_value(serde_json::json!({
        "process": process, "host": {"os": "linux"}, "period_s": 30, "database": "0".repeat(32),
    }))
    .unwrap()
}

fn process() -> String {
    Uuid::now_v7().to_string()
}

async fn count(site: &Site) -> i64 {
    site.value("SELECT CAST(count(*) AS BIGINT) FROM processes", &[]).await
}

/// Two texts that a database takes for one would spoil the writing of everybody.
#[tokio::test]
async fn a_process_is_a_uuid_however_it_is_written() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (presence, gateway) =
            (Presence::new(site.database.clone()), gateway(&site, &home).await);
        let uuid = Uuid::now_v7();

        for bad in ["", "p", "a\0", "a\u{fffd}", &"0".repeat(65)] {
            let refused = presence.note(gateway, heartbeat(bad));
            assert!(matches!(refused, Err(ApiError::Invalid(_))), "{bad:?}");
        }
        for good in [uuid.to_string(), uuid.simple().to_string(), uuid.to_string().to_uppercase()] {
            presence.note(gateway, heartbeat(&good)).unwrap();
        }
        presence.flush().await.unwrap();

        assert_eq!(count(&site).await, 1);
    }
}

#[tokio::test]
async fn what_the_database_refuses_is_not_tried_for_ever() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (presence, gateway) =
            (Presence::new(site.database.clone()), gateway(&site, &home).await);
        presence.note(gateway, heartbeat(&process())).unwrap();
        presence.flush().await.unwrap();
        site.refuse_updates("presence").await;
        presence.note(gateway, heartbeat(&process())).unwrap();

        let refused = presence.flush().await;

        assert!(matches!(refused, Err(DbError::Refused { .. })), "{refused:?}");
        presence.flush().await.unwrap();
        assert_eq!(count(&site).await, 1);
    }
}

#[tokio::test]
async fn a_gateway_that_was_deleted_costs_no_other_its_heartbeat() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (presence, gateway) =
            (Presence::new(site.database.clone()), gateway(&site, &home).await);
        presence.note(GatewayId::new(), heartbeat(&process())).unwrap();
        presence.note(gateway, heartbeat(&process())).unwrap();

        presence.flush().await.unwrap();

        assert_eq!(count(&site).await, 1);
    }
}

#[tokio::test]
async fn what_could_not_be_written_of_records_is_written_later() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (presence, gateway) =
            (Presence::new(site.database.clone()), gateway(&site, &home).await);
        presence.note(gateway, heartbeat(&process())).unwrap();
        presence.flush().await.unwrap();
        presence.note_sync(gateway);
        site.database.execute("ALTER TABLE presence RENAME TO away", &[]).await.unwrap();
        presence.flush().await.unwrap_err();
        site.database.execute("ALTER TABLE away RENAME TO presence", &[]).await.unwrap();

        presence.flush().await.unwrap();

        let synced: Option<i64> = site.value("SELECT synced_ms FROM presence", &[]).await;
        assert!(synced.is_some());
    }
}

#[tokio::test]
async fn what_a_gateway_makes_up_is_bounded() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (presence, gateway) =
            (Presence::new(site.database.clone()), gateway(&site, &home).await);
        let newest = process();
        for _ in 0..70 {
            presence.note(gateway, heartbeat(&process())).unwrap();
        }
        presence.flush().await.unwrap();
        site.database.execute("UPDATE processes SET seen_ms = seen_ms - 1", &[]).await.unwrap();

        let beat = Heartbeat { unsent: u64::MAX, ..heartbeat(&newest) };
        presence.note(gateway, beat).unwrap();
        presence.flush().await.unwrap();

        assert_eq!(count(&site).await, PROCESSES_MAX);
        let unsent: i64 = site.value("SELECT unsent FROM presence", &[]).await;
        assert_eq!(unsent, 1 << 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_do_not_wait_for_each_other_in_a_circle() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut gateways = Vec::new();
        for _ in 0..40 {
            gateways.push(gateway(&site, &home).await);
        }
        let replicas: Vec<_> =
            (0..4).map(|_| Arc::new(Presence::new(site.database.clone()))).collect();

        for round in 0..10 {
            for (number, replica) in replicas.iter().enumerate() {
                for (place, gateway) in gateways.iter().enumerate() {
                    replica.note(*gateway, heartbeat(&process())).unwrap();
                    if (place + number + round) % 3 == 0 {
                        replica.note_sync(*gateway);
                    }
                }
            }
            let mut next = replicas.iter().cloned();
            let flushed = all_at_once(replicas.len(), || {
                let replica = next.next().unwrap();
                async move { replica.flush().await }
            })
            .await;
            assert!(flushed.iter().all(Result::is_ok), "{flushed:?}");
        }
    }
}

#[test]
fn what_is_known_of_a_machine_is_forgotten_after_a_while() {
    let mut facts = Facts::default();
    facts.note(&HashMap::from([(1, 7), (2, 8)]), 0);

    assert!(facts.has(1, 7, FACTS_MS - 1));
    assert!(!facts.has(1, 8, 0) && !facts.has(3, 7, 0));
    assert!(!facts.has(1, 7, FACTS_MS));
    facts.note(&HashMap::from([(1, 7)]), FACTS_MS);
    assert_eq!(facts.0.len(), 1);
}
