//! What is of one workspace is nothing to another one, whatever is known of it.

use serde_json::json;

use super::*;
use crate::events::{AuditQuery, SessionKey};

/// `gw_1` and `gw_4` belong to the same person, and send the same.
async fn both() -> Vec<Fixture> {
    let fixtures = Fixture::each().await;
    for fixture in &fixtures {
        let secret =
            |record| with(record, json!({"upstream": "theirs", "session_id": "their-session"}));
        fixture.send(1, 1, &[trace(1), trace(2)]).await.unwrap();
        fixture.send(1, 1, &[event(1)]).await.unwrap();
        fixture.send(4, 1, &[secret(trace(3)), secret(trace(4)), secret(trace(5))]).await.unwrap();
        fixture.send(4, 1, &[secret(event(3))]).await.unwrap();
    }
    fixtures
}

#[tokio::test]
async fn every_way_to_ask_ends_at_the_workspace() {
    for fixture in both().await {
        let (events, theirs) = (&fixture.events, origin(4));
        let text = |text: &str| Some(text.to_owned());

        let queries = [
            TraceQuery { gateway: Some(theirs.gateway), ..all(10) },
            TraceQuery { session: text("their-session"), ..all(10) },
            TraceQuery { upstream: text("theirs"), ..all(10) },
            TraceQuery { id: Some(id(3).to_string()), ..all(10) },
            TraceQuery { id: text(trace(3)["trace_id"].as_str().unwrap()), ..all(10) },
        ];
        for query in queries {
            assert!(fixture.traces(&query).await.is_empty(), "{query:?}");
        }
        assert_eq!(fixture.traces(&all(10)).await.len(), 2);
        let ada = TraceQuery { user: Some(user(1)), ..all(10) };
        assert_eq!(fixture.traces(&ada).await.len(), 2);
        assert!(events.trace(workspace(), id(3)).await.unwrap().is_none());
        assert!(events.audit_event(workspace(), id(3)).await.unwrap().is_none());
        let audit = AuditQuery { limit: 10, ..AuditQuery::default() };
        assert_eq!(events.audit_events(workspace(), &audit).await.unwrap().rows.len(), 1);
        let key = SessionKey { gateway: theirs.gateway, session: "their-session".to_owned() };
        assert!(events.session(workspace(), &key, 10).await.unwrap().is_empty());
        assert!(events.server(workspace(), "theirs", 0).await.unwrap().is_none());
        assert_eq!(events.servers(workspace(), 0).await.unwrap().len(), 1);
        assert!(events.clients(workspace(), theirs.gateway).await.unwrap().is_empty());
        let choices = events.choices(workspace(), 0).await.unwrap();
        assert_eq!(choices.upstreams, ["files"]);
        assert_eq!(choices.gateways.len(), 1);
    }
}

#[tokio::test]
async fn a_place_in_another_workspaces_list_is_only_a_time() {
    for fixture in both().await {
        let page = fixture.events.traces(origin(4).workspace, &all(1)).await.unwrap();

        let query = TraceQuery { after: page.next, ..all(10) };

        let ids: Vec<_> = fixture.traces(&query).await.iter().map(|row| row.id).collect();
        assert_eq!(ids, [id(2), id(1)]);
    }
}

/// Records with the same id do not hide each other.
#[tokio::test]
async fn the_same_record_may_be_in_two_workspaces() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &[trace(1)]).await.unwrap();
        fixture.send(4, 1, &[trace(1)]).await.unwrap();

        for (gateway, workspace) in [(1, workspace()), (4, origin(4).workspace)] {
            let trace = fixture.events.trace(workspace, id(1)).await.unwrap().unwrap();
            assert_eq!(trace.line.gateway.id, origin(gateway).gateway);
        }
    }
}

/// A stream is its gateway's: the name of its database is not a secret.
#[tokio::test]
async fn a_gateway_cannot_fill_the_stream_of_another_one() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &[trace(1)]).await.unwrap();

        let ack = fixture.send(2, 5, &[trace(5)]).await.unwrap();

        assert_eq!(ack.spans, [(5, 5)]);
        let streams = fixture.events.streams(origin(1).gateway, Some(DATABASE)).await.unwrap();
        assert_eq!(streams[0].spans, [(1, 1)]);
    }
}
