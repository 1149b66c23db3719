//! Sums: what servers, tools, gateways and clients did.

use serde_json::json;

use super::*;
use crate::events::Usage;

const HOUR_NS: i64 = 60 * MINUTE_NS;

async fn used() -> Vec<Fixture> {
    let fixtures = Fixture::each().await;
    for fixture in &fixtures {
        let jira = with(trace(5), json!({"upstream": "jira", "name": "search"}));
        let failed = with(trace(2), json!({"status": "error", "error": "no"}));
        let list = with(trace(3), json!({"operation": "tool_list", "name": null}));
        let nowhere = with(trace(4), json!({"upstream": null, "operation": "tool_list"}));
        fixture.send(1, 1, &[trace(1), failed, list, nowhere, jira]).await.unwrap();
        let http = with(
            trace(200),
            json!({"name": "write", "metadata": {"transport": "http"}, "principal": "cursor/2"}),
        );
        fixture.send(2, 1, &[http]).await.unwrap();
        fixture.send(3, 1, &[trace(6)]).await.unwrap();
        fixture.send(4, 1, &[trace(8)]).await.unwrap();
    }
    fixtures
}

fn usage(numbers: &[i64], errors: i64) -> Usage {
    Usage {
        calls: numbers.len() as i64,
        errors,
        duration_ns: numbers.iter().map(|number| 1_000_000 + number).sum(),
        last_ns: NOON_NS + numbers.iter().max().unwrap() * MINUTE_NS,
    }
}

#[tokio::test]
async fn servers_are_summed_up() {
    for fixture in used().await {
        let servers = fixture.events.servers(workspace(), 0).await.unwrap();

        let names: Vec<_> = servers.iter().map(|server| &*server.upstream).collect();
        assert_eq!(names, ["files", "jira"]);
        let files = &servers[0];
        assert_eq!(files.usage, usage(&[1, 2, 3, 6, 200], 1));
        assert_eq!((files.tools, files.gateways, files.users), (2, 3, 2));
        assert_eq!(files.transport.as_deref(), Some("http"));
        assert_eq!((servers[1].tools, servers[1].gateways, servers[1].users), (1, 1, 1));
    }
}

#[tokio::test]
async fn a_server_has_tools_gateways_and_users() {
    for fixture in used().await {
        let detail = fixture.events.server(workspace(), "files", 0).await.unwrap().unwrap();

        assert_eq!(detail.server.usage.calls, 5);
        let tools =
            [("read".to_owned(), usage(&[1, 2, 6], 1)), ("write".to_owned(), usage(&[200], 0))];
        assert_eq!(detail.tools, tools);
        let gateways: Vec<_> =
            detail.gateways.iter().map(|(label, usage)| (&*label.name, usage.calls)).collect();
        assert_eq!(gateways, [("gateway 1", 3), ("gateway 2", 1), ("gateway 3", 1)]);
        let users = [("Ada", usage(&[1, 2, 3], 1)), ("bob@example.com", usage(&[200], 0))];
        let found = detail.users.into_iter();
        let found: Vec<_> = found.map(|(user, usage)| (user.name, usage)).collect();
        assert_eq!(found, users.map(|(name, usage)| (name.to_owned(), usage)));
        assert!(fixture.events.server(workspace(), "nothing", 0).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn what_was_before_is_not_counted() {
    for fixture in used().await {
        let since_ns = NOON_NS + 3 * HOUR_NS;

        let servers = fixture.events.servers(workspace(), since_ns).await.unwrap();
        let detail = fixture.events.server(workspace(), "files", since_ns).await.unwrap().unwrap();

        assert_eq!(servers.len(), 1);
        assert_eq!(servers[0].usage, usage(&[200], 0));
        assert_eq!((servers[0].tools, servers[0].gateways, servers[0].users), (1, 1, 1));
        assert_eq!(detail.tools.len(), 1);
        let later = fixture.events.servers(workspace(), i64::MAX).await.unwrap();
        assert!(later.is_empty());
    }
}

#[tokio::test]
async fn clients_of_a_gateway_come_with_the_last_one_first() {
    for fixture in used().await {
        let late = with(trace(300), json!({"principal": "zed/1", "status": "error"}));
        fixture.send(1, 6, &[late]).await.unwrap();

        let clients = fixture.events.clients(workspace(), origin(1).gateway).await.unwrap();

        let names: Vec<_> = clients.iter().map(|client| &*client.client).collect();
        assert_eq!(names, ["zed/1", "claude/1.0"]);
        assert_eq!(clients[0].usage, usage(&[300], 1));
        assert_eq!(clients[1].usage, usage(&[1, 2, 3, 4, 5], 1));
    }
}

#[tokio::test]
async fn what_there_is_to_filter_by_comes_most_used_first() {
    for fixture in used().await {
        fixture.send(3, 9, &[with(event(9), json!({"upstream": "audited"}))]).await.unwrap();

        let choices = fixture.events.choices(workspace(), 0).await.unwrap();

        assert_eq!(choices.operations, ["tool_call", "tool_list"]);
        assert_eq!(choices.upstreams, ["files", "audited", "jira"]);
        assert_eq!(choices.names, ["read", "search", "write"]);
        assert_eq!(choices.clients, ["claude/1.0", "cursor/2"]);
        let gateways: Vec<_> = choices.gateways.iter().map(|label| &*label.name).collect();
        assert_eq!(gateways, ["gateway 1", "gateway 3", "gateway 2"]);
        assert_eq!(
            choices.users,
            [(user(1), "Ada".to_owned()), (user(2), "bob@example.com".to_owned())]
        );
        let later = fixture.events.choices(workspace(), i64::MAX).await.unwrap();
        assert!(later.upstreams.is_empty() && later.gateways.is_empty());
    }
}
