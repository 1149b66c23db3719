//! Reading what was taken, against a list that is looked through from one end to the other.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use ultra_store::{AuditOutcome, Severity, Status};

use super::*;
use crate::events::lines::word;
use crate::events::{AuditLine, AuditQuery, Cursor, Found, Page, SessionKey};
use crate::id::UserId;

/// What was sent, by which gateway.
type Sent = (i64, Value);

const OPERATIONS: [&str; 3] = ["tool_call", "resource_read", "prompt_get"];
const UPSTREAMS: [Option<&str>; 4] = [Some("files"), Some("github"), Some("jira"), None];
const CLIENTS: [&str; 3] = ["claude/1.0", "cursor/2.0", ""];

/// Returns records of all gateways: some with few names, one with more than have series of their own,
/// times that are equal, and years apart.
fn records(make: fn(i64) -> Value) -> Vec<Sent> {
    let mut random = SmallRng::seed_from_u64(11);
    let mut records = Vec::new();
    for gateway in 1..=4 {
        let count = if gateway == 3 { 4000 } else { 1000 };
        for number in 0..count {
            let name = match gateway {
                3 => format!("file:///{}", random.random_range(0..3500)),
                _ => format!("tool-{}", random.random_range(0..40)),
            };
            let at_ns = match random.random_range(0..50) {
                0 => random.random_range(0..4_000_000_000) * 1_000_000_000,
                // Equal ones: only ids tell them apart.
                1..25 => NOON_NS + random.random_range(0..50) * MINUTE_NS,
                _ => NOON_NS - random.random_range(0..30_i64 * 24 * 3600) * 1_000_000_000,
            };
            let record = with(
                make(gateway * 10_000 + number),
                json!({
                    "timestamp": timestamp(at_ns),
                    "at_ns": at_ns,
                    "upstream": UPSTREAMS.choose(&mut random).unwrap(),
                    "principal": CLIENTS.choose(&mut random).unwrap(),
                    "session_id": format!("session-{}", random.random_range(0..100)),
                    "error": null,
                    "duration": random.random_range(0..1_000_000),
                }),
            );
            let error = random.random_ratio(1, 20);
            let operation = OPERATIONS.choose(&mut random).unwrap();
            let kind = match record.get("event_type") {
                None => json!({
                    "operation": operation, "name": name,
                    "status": if error { "error" } else { "success" },
                }),
                Some(_) => json!({
                    "event_type": operation, "action": name,
                    "severity": if error { "critical" } else { "info" },
                    "outcome": if error { "deny" } else { "success" },
                }),
            };
            records.push((gateway, with(record, kind)));
        }
    }
    records
}

async fn filled(make: fn(i64) -> Value) -> (Vec<Fixture>, Vec<Sent>) {
    let (fixtures, records) = (Fixture::each().await, records(make));
    for fixture in &fixtures {
        for gateway in 1..=4 {
            let of: Vec<Value> = records
                .iter()
                .filter(|(from, _)| *from == gateway)
                .map(|(_, record)| record.clone())
                .collect();
            for (at, batch) in of.chunks(1000).enumerate() {
                let ack = fixture.send(gateway, at as i64 * 1000 + 1, batch).await.unwrap();
                assert_eq!(ack.rejected, 0);
            }
        }
    }
    (fixtures, records)
}

/// Returns the ids of those that match, newest first.
fn expected(sent: &[Sent], matches: impl Fn(i64, &Value) -> bool) -> Vec<Uuid> {
    let of = sent.iter().filter(|(gateway, record)| *gateway != 4 && matches(*gateway, record));
    let mut found: Vec<(i64, Uuid)> = of
        .map(|(_, record)| {
            (record["at_ns"].as_i64().unwrap(), record["id"].as_str().unwrap().parse().unwrap())
        })
        .collect();
    found.sort_unstable();
    found.into_iter().rev().map(|(_, id)| id).collect()
}

/// Reads all pages.
async fn pages<T>(
    mut read: impl AsyncFnMut(Option<Cursor>) -> Found<Page<T>>,
    id: impl Fn(&T) -> Uuid,
) -> Vec<Uuid> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = read(after).await.unwrap();
        ids.extend(page.rows.iter().map(&id));
        after = page.next;
        if after.is_none() {
            return ids;
        }
    }
}

fn is(wanted: Option<&String>, value: &Value) -> bool {
    wanted.is_none_or(|wanted| value.as_str() == Some(&**wanted))
}

fn owner(gateway: i64) -> Option<UserId> {
    [(1, 1), (2, 2)].iter().find(|(id, _)| *id == gateway).map(|(_, owner)| user(*owner))
}

fn is_between(since_ns: Option<i64>, until_ns: Option<i64>, record: &Value) -> bool {
    let at_ns = record["at_ns"].as_i64().unwrap();
    since_ns.is_none_or(|since| at_ns >= since) && until_ns.is_none_or(|until| at_ns < until)
}

/// One in so many times something.
fn maybe<T>(random: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    random.random_ratio(1, 4).then(|| value(random))
}

fn text<'a>(random: &mut SmallRng, of: &[&'a str]) -> String {
    let text: &'a str = of.choose(random).unwrap();
    text.to_owned()
}

fn any_name(random: &mut SmallRng) -> String {
    match random.random_range(0..3) {
        0 => format!("file:///{}", random.random_range(0..3500)),
        1 => format!("tool-{}", random.random_range(0..42)),
        _ => "none".to_owned(),
    }
}

fn time(random: &mut SmallRng) -> i64 {
    NOON_NS - random.random_range(-3600..30_i64 * 24 * 3600) * 1_000_000_000
}

fn any_query(random: &mut SmallRng) -> TraceQuery {
    TraceQuery {
        operation: maybe(random, |random| text(random, &[&OPERATIONS[..], &["x"]].concat())),
        upstream: maybe(random, |random| text(random, &["files", "github", "jira", "x"])),
        name: maybe(random, any_name),
        status: maybe(random, |random| *[Status::Success, Status::Error].choose(random).unwrap()),
        client: maybe(random, |random| text(random, &CLIENTS)),
        user: maybe(random, |random| user(random.random_range(1..=3))),
        gateway: maybe(random, |random| origin(random.random_range(1..=4)).gateway),
        session: maybe(random, |random| format!("session-{}", random.random_range(0..101))),
        id: None,
        since_ns: maybe(random, time),
        until_ns: maybe(random, time),
        after: None,
        limit: *[1, 7, 50, 300].choose(random).unwrap(),
    }
}

#[tokio::test]
async fn traces_are_those_that_match_on_pages_without_gaps() {
    let (fixtures, sent) = filled(trace).await;
    for fixture in fixtures {
        let mut random = SmallRng::seed_from_u64(3);
        for round in 0..90 {
            let mut query = any_query(&mut random);
            if round < 5 {
                query = TraceQuery { limit: 500, ..TraceQuery::default() };
                query.status = (round == 1).then_some(Status::Error);
                query.operation = (round == 2).then(|| "tool_call".to_owned());
                query.gateway = (round == 3).then(|| origin(3).gateway);
                query.user = (round == 4).then(|| user(2));
            }
            let matches = |gateway: i64, record: &Value| {
                is(query.operation.as_ref(), &record["operation"])
                    && is(query.upstream.as_ref(), &record["upstream"])
                    && is(query.name.as_ref(), &record["name"])
                    && is(query.status.map(word).as_ref(), &record["status"])
                    && is(query.client.as_ref(), &record["principal"])
                    && is(query.session.as_ref(), &record["session_id"])
                    && query.user.is_none_or(|user| owner(gateway) == Some(user))
                    && query.gateway.is_none_or(|wanted| wanted == origin(gateway).gateway)
                    && is_between(query.since_ns, query.until_ns, record)
            };
            let mut expected = expected(&sent, matches);
            // Small pages of very many are left half read.
            let pages_max = 12 * query.limit as usize;
            let mut left = pages_max / query.limit as usize;
            let found = pages(
                async |after| {
                    let query = TraceQuery { after, ..query.clone() };
                    let mut page = fixture.events.traces(workspace(), &query).await?;
                    assert!(page.rows.len() <= query.limit as usize);
                    left -= 1;
                    page.next = page.next.filter(|_| left > 0);
                    Ok(page)
                },
                |row: &TraceLine| row.id,
            )
            .await;
            expected.truncate(pages_max);
            assert_eq!(found, expected, "{query:?}");
        }
    }
}

#[tokio::test]
async fn audit_events_are_those_that_match_on_pages_without_gaps() {
    let (fixtures, sent) = filled(event).await;
    for fixture in fixtures {
        let mut random = SmallRng::seed_from_u64(5);
        for _ in 0..60 {
            let traces = any_query(&mut random);
            let query = AuditQuery {
                event_type: traces.operation,
                outcome: maybe(&mut random, |random| {
                    let all = [AuditOutcome::Success, AuditOutcome::Deny, AuditOutcome::Error];
                    *all.choose(random).unwrap()
                }),
                severity: maybe(&mut random, |random| {
                    *[Severity::Info, Severity::Critical].choose(random).unwrap()
                }),
                upstream: traces.upstream,
                action: traces.name,
                client: traces.client,
                user: traces.user,
                gateway: traces.gateway,
                session: traces.session,
                since_ns: traces.since_ns,
                until_ns: traces.until_ns,
                after: None,
                limit: 200,
            };
            let matches = |gateway: i64, record: &Value| {
                is(query.event_type.as_ref(), &record["event_type"])
                    && is(query.upstream.as_ref(), &record["upstream"])
                    && is(query.action.as_ref(), &record["action"])
                    && is(query.outcome.map(word).as_ref(), &record["outcome"])
                    && is(query.severity.map(word).as_ref(), &record["severity"])
                    && is(query.client.as_ref(), &record["principal"])
                    && is(query.session.as_ref(), &record["session_id"])
                    && query.user.is_none_or(|user| owner(gateway) == Some(user))
                    && query.gateway.is_none_or(|wanted| wanted == origin(gateway).gateway)
                    && is_between(query.since_ns, query.until_ns, record)
            };
            let found = pages(
                async |after| {
                    let query = AuditQuery { after, ..query.clone() };
                    fixture.events.audit_events(workspace(), &query).await
                },
                |row: &AuditLine| row.id,
            )
            .await;
            assert_eq!(found, expected(&sent, matches), "{query:?}");
        }
    }
}

#[tokio::test]
async fn a_trace_is_found_by_its_own_id_and_by_its_trace_id() {
    for fixture in Fixture::each().await {
        let same = trace(1)["trace_id"].clone();
        let second = with(trace(2), json!({"trace_id": same, "status": "error"}));
        fixture.send(1, 1, &[trace(1), second, trace(3)]).await.unwrap();
        let ids = async |text: &str, status| {
            let query = TraceQuery { id: Some(text.to_owned()), status, ..all(10) };
            fixture.traces(&query).await.iter().map(|row| row.id).collect::<Vec<_>>()
        };

        assert_eq!(ids(same.as_str().unwrap(), None).await, [id(2), id(1)]);
        assert_eq!(ids(same.as_str().unwrap(), Some(Status::Success)).await, [id(1)]);
        assert_eq!(ids(&id(3).to_string(), None).await, [id(3)]);
        assert_eq!(ids(&format!(" {} ", id(3).simple()), None).await, [id(3)]);
        assert!(ids(&"f".repeat(32), None).await.is_empty());
        assert!(ids("'; DROP TABLE traces", None).await.is_empty());
    }
}

#[tokio::test]
async fn a_session_is_read_from_its_beginning() {
    for fixture in Fixture::each().await {
        let other = with(trace(4), json!({"session_id": "session-2"}));
        fixture.send(1, 1, &[trace(3), trace(1), other, trace(2)]).await.unwrap();
        // Another gateway's session of the same name.
        fixture.send(2, 1, &[trace(5)]).await.unwrap();
        let key = SessionKey { gateway: origin(1).gateway, session: "session-1".to_owned() };
        let ids = async |limit| {
            let rows = fixture.events.session(workspace(), &key, limit).await.unwrap();
            rows.iter().map(|row| row.id).collect::<Vec<_>>()
        };

        assert_eq!(ids(10).await, [id(1), id(2), id(3)]);
        assert_eq!(ids(2).await, [id(1), id(2)]);
    }
}

#[tokio::test]
async fn an_audit_event_comes_back_as_it_was_sent() {
    for fixture in Fixture::each().await {
        let denied = with(
            event(1),
            json!({"severity": "critical", "outcome": "deny", "reason": "not allowed",
                "trace_id": null, "session_id": null, "upstream": null, "action": null}),
        );
        fixture.send(1, 1, &[denied, event(2)]).await.unwrap();

        let denied = fixture.events.audit_event(workspace(), id(1)).await.unwrap().unwrap();
        let second = fixture.events.audit_event(workspace(), id(2)).await.unwrap().unwrap();

        assert_eq!((denied.severity, denied.outcome), (Severity::Critical, AuditOutcome::Deny));
        assert_eq!(denied.reason.as_deref(), Some("not allowed"));
        assert_eq!((denied.trace_id, denied.session, denied.upstream), (None, None, None));
        assert_eq!(denied.details, r#"{"transport":"stdio"}"#);
        assert_eq!(second.trace_id.unwrap(), event(2)["trace_id"]);
        assert_eq!(second.action.as_deref(), Some("read"));
        assert_eq!(second.gateway.name, "gateway 1");
        assert_eq!(second.at_ns, NOON_NS + 2 * MINUTE_NS);
    }
}

#[tokio::test]
async fn the_revision_changes_with_every_batch_of_the_workspace() {
    for fixture in Fixture::each().await {
        let revision = async || fixture.events.revision(workspace()).await.unwrap();
        let mut seen = vec![revision().await];

        fixture.send(1, 1, &[trace(1)]).await.unwrap();
        seen.push(revision().await);
        fixture.send(2, 1, &[event(1)]).await.unwrap();
        seen.push(revision().await);

        assert!(seen[0] < seen[1] && seen[1] < seen[2], "{seen:?}");
        // What brings nothing, and what another workspace gets, changes nothing.
        fixture.send(1, 1, &[trace(1)]).await.unwrap();
        fixture.send(4, 1, &[trace(1)]).await.unwrap();
        assert_eq!(revision().await, seen[2]);
    }
}
