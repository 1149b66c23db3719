//! The API is what its description says: everything that is described is asked for, well and badly, and every
//! answer must be one that is described.

mod schema;

use std::collections::BTreeSet;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::description::Description;
use crate::access::Role;
use crate::clock::now_ms;
use crate::events::tests::{batch, event, id, timestamp, trace, with};
use crate::people::authority::Scope;
use crate::people::testing::{Home, OWNER, Page, Site};
use crate::wire::{BATCH_CONTENT_TYPE, RecordKind};

const JSON: &str = "application/json";

/// Names what is different in each place.
const METHODS: [(&str, Method); 3] =
    [("get", Method::GET), ("post", Method::POST), ("delete", Method::DELETE)];

/// A Hub with one of everything.
struct Fixture {
    site: Site,
    home: Home,
    /// Tokens of people who may everything, only link, and nothing here.
    owner: String,
    beacon: String,
    elsewhere: String,
    key: String,
    /// The id and the secret of a gateway with records.
    gateway: String,
    secret: String,
}

/// A request that gets what it asks for.
struct Sample {
    token: String,
    path: String,
    kind: &'static str,
    body: String,
}

/// The body of a batch.
pub(crate) fn records(kind: RecordKind, records: &[Value]) -> String {
    let batch = batch(kind, 1, records);
    let lines = std::str::from_utf8(&batch.lines).unwrap();
    format!("{}\n{lines}", serde_json::to_string(&batch.head).unwrap())
}

/// A trace of now, with everything.
pub(crate) fn recent(number: i64) -> Value {
    let parent = format!("{:016x}", 7);
    let now = timestamp((now_ms() - 1000) * 1_000_000);
    with(trace(number), json!({"timestamp": now, "parent_span_id": parent, "error": "boom"}))
}

/// What a gateway says of itself, with everything.
pub(crate) fn heartbeat(hostname: &str) -> Value {
    json!({
        "process": "8d0c2a30-0000-4000-8000-000000000000",
        "host": {"os": "linux", "os_version": "Debian GNU/Linux 12", "arch": "x86_64",
            "hostname": hostname, "version": "0.1.0", "kind": "personal", "environment": "local"},
        "period_s": 30,
        "database": crate::events::tests::DATABASE,
        "unsent": 3,
        "clients": [{"name": "claude", "version": "1.0", "managed": true, "active_unix_ms": 1}],
        "upstreams": [{"name": "files", "state": "ready", "server": "files/2.0", "tools": 3,
            "transport": "stdio", "error": "none"}],
        "setup": {"enforcement_profile": "strict", "config_scan_unix_ms": 1, "servers_managed": 1,
            "servers_total": 2, "drift_events": 0},
    })
}

impl Fixture {
    async fn each() -> Vec<Self> {
        let mut fixtures = Vec::new();
        for site in Site::each().await {
            fixtures.push(Self::new(site).await);
        }
        fixtures
    }

    async fn new(site: Site) -> Self {
        let home = site.organization("acme").await;
        site.organization("other").await;
        let scope = Scope::Organization(home.organization);
        site.member("beacon@acme.test", &home, scope, Role::Beacon).await;
        let by = site.by(OWNER).await;
        let key = site.people.create_key(&by, home.organization, home.workspace, "key", None);
        let key = key.await.unwrap().reveal();
        let owner = site.token(OWNER).await;
        let linked = site.link(&owner, home.workspace, "laptop").await;
        let text = |name: &str| linked[name].as_str().unwrap().to_owned();
        let (gateway, secret) = (text("gateway_id"), text("secret"));
        let mut device = site.program(&secret);
        let beat = device.tell("/api/v1/heartbeat", &heartbeat("laptop")).await;
        assert_eq!(beat.status, 200, "{}", beat.text);
        site.api.presence.flush().await.unwrap();
        let mut device = device.saying("content-type", BATCH_CONTENT_TYPE);
        for body in
            [records(RecordKind::Traces, &[recent(1)]), records(RecordKind::Audit, &[event(1)])]
        {
            let page = device.send(Method::POST, "/api/v1/records", Body::from(body)).await;
            assert_eq!((page.status.as_u16(), &page.json()["rejected"]), (200, &json!(0)));
        }
        Self {
            beacon: site.token("beacon@acme.test").await,
            elsewhere: site.token("owner@other.test").await,
            site,
            home,
            owner,
            key,
            gateway,
            secret,
        }
    }

    async fn sample(&self, method: &str, path: &str) -> Sample {
        let link =
            json!({"name": "desk", "workspace": self.home.workspace.to_string(), "host": {}});
        let (token, kind, body) = match (method, path.strip_prefix("/api/v1/").unwrap()) {
            ("post", "gateways") => (self.owner.clone(), JSON, link.to_string()),
            ("get", "gateways/self") => (self.secret.clone(), "", String::new()),
            ("delete", "gateways/self") => {
                let linked = self.site.link(&self.key, self.home.workspace, "leaves").await;
                (linked["secret"].as_str().unwrap().to_owned(), "", String::new())
            }
            ("post", "heartbeat") => (self.secret.clone(), JSON, heartbeat("laptop").to_string()),
            ("post", "records") => {
                let body = records(RecordKind::Traces, &[trace(1)]);
                (self.secret.clone(), BATCH_CONTENT_TYPE, body)
            }
            ("get", path) if path.starts_with("workspaces") => {
                (self.owner.clone(), "", String::new())
            }
            other => panic!("no sample of {other:?}"),
        };
        let path = path
            .replace("{workspace}", &self.home.workspace.to_string())
            .replace("{gateway}", &self.gateway)
            .replace("{trace}", &id(1).to_string())
            .replace("{event}", &id(1).to_string())
            .replace("{server}", "files");
        assert!(!path.contains('{'), "no sample of {path}");
        Sample { token, path, kind, body }
    }

    async fn ask(&self, method: &str, sample: &Sample) -> Page {
        let (_, method) = METHODS.into_iter().find(|(name, _)| *name == method).unwrap();
        let browser = match sample.token.as_str() {
            "" => self.site.program("x").saying("authorization", ""),
            token => self.site.program(token),
        };
        // Without a body there is no kind of it either.
        let mut browser = browser.saying("content-type", sample.kind);
        browser.send(method, &sample.path, Body::from(sample.body.clone())).await
    }
}

/// Makes sure that an answer is one that is described.
fn check(document: &Value, operation: &Value, what: &str, page: &Page) {
    let described = &operation["responses"][page.status.as_str()];
    assert!(described.is_object(), "{what}: {} is not described: {}", page.status, page.text);
    assert!(described["description"].is_string(), "{what} {}", page.status);
    for (name, _) in described["headers"].as_object().into_iter().flatten() {
        assert!(!page.header(&name.to_lowercase()).is_empty(), "{what}: no {name}");
    }
    match described["content"].as_object() {
        None => assert_eq!(page.text, "", "{what}"),
        Some(content) => {
            assert_eq!(page.header("content-type"), JSON, "{what}: {}", page.text);
            let fits = schema::fits(document, &content[JSON]["schema"], &page.json(), "");
            assert_eq!(fits, Ok(()), "{what}: {}", page.text);
        }
    }
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of = |(path, item): (&String, &Value)| {
        let operations = item.as_object().unwrap().clone().into_iter();
        let path = path.clone();
        operations.map(move |(method, operation)| (method, path.clone(), operation))
    };
    paths.flat_map(of).collect()
}

/// Requests that do not get what they ask for, and what they are answered instead; of some it depends on
/// the path.
fn bad(fixture: &Fixture, operation: &Value, good: &Sample) -> Vec<(Option<u16>, Sample)> {
    let with = |change: &dyn Fn(&mut Sample)| {
        let Sample { token, path, kind, body } = good;
        let (token, path) = (token.clone(), path.clone());
        let mut sample = Sample { token, path, kind, body: body.clone() };
        change(&mut sample);
        sample
    };
    let shows = |token: &str| with(&|sample| sample.token = token.to_owned());
    let is_read = good.path.contains("/workspaces/");
    let mut all = vec![
        (Some(401), shows("")),
        (Some(401), shows("uha_x")),
        (is_read.then_some(403), shows(&fixture.beacon)),
        (is_read.then_some(404), shows(&fixture.elsewhere)),
    ];
    // What opens something else opens nothing here.
    if !good.path.ends_with("/gateways") || is_read {
        all.push((Some(401), shows(&fixture.key)));
    }
    if !operation["security"].to_string().contains("gateway") {
        all.push((Some(401), shows(&fixture.secret)));
    }
    if operation["requestBody"].is_object() {
        for (status, kind, body) in [
            (400, good.kind, "{".to_owned()),
            (400, good.kind, "[]".to_owned()),
            (400, good.kind, String::new()),
            (400, "text/plain", good.body.clone()),
            (413, good.kind, "x".repeat(1024 * 1024 + 1)),
        ] {
            let sample = with(&|sample| (sample.kind, sample.body) = (kind, body.clone()));
            all.push((Some(status), sample));
        }
        // Of strangers nothing is read.
        let stranger = |sample: &mut Sample| {
            (sample.token, sample.body) = (String::new(), "{".to_owned());
        };
        all.push((Some(401), with(&stranger)));
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    if parameters.clone().any(|parameter| parameter["in"] == "query") {
        for query in ["limit=x", "limit=-1", "after=x", "limit=1&limit=2"] {
            all.push((Some(400), with(&|sample| sample.path.push_str(&format!("?{query}")))));
        }
    }
    let in_path = parameters.filter(|parameter| parameter["in"] == "path");
    if in_path.count() > 1 {
        for id in ["x", "gw_0000000000000", "00000000-0000-7000-8000-000000000000", "%FF"] {
            let other = |sample: &mut Sample| {
                let (path, _) = good.path.trim_end_matches("/streams").rsplit_once('/').unwrap();
                let rest = if good.path.ends_with("/streams") { "/streams" } else { "" };
                sample.path = format!("{path}/{id}{rest}");
            };
            all.push((Some(404), with(&other)));
        }
    }
    all
}

#[tokio::test]
async fn every_answer_is_described() {
    let document = serde_json::to_value(Description::openapi()).unwrap();
    for fixture in Fixture::each().await {
        for (method, path, operation) in operations(&document) {
            let good = fixture.sample(&method, &path).await;
            for (status, sample) in bad(&fixture, &operation, &good) {
                let page = fixture.ask(&method, &sample).await;
                let head: String = sample.body.chars().take(40).collect();
                let what =
                    format!("{method} {} {} {head}: {}", sample.path, sample.kind, page.text);
                check(&document, &operation, &what, &page);
                let expected = status.unwrap_or(page.status.as_u16());
                assert_eq!(page.status.as_u16(), expected, "{what}");
            }
            let page = fixture.ask(&method, &good).await;
            let what = format!("{method} {path}");
            check(&document, &operation, &what, &page);
            let described = operation["responses"].as_object().unwrap().keys();
            let good: Vec<_> = described.filter(|status| status.starts_with('2')).collect();
            assert_eq!(good, [page.status.as_str()], "{what}: {}", page.text);
            assert!(operation["responses"]["default"].is_object(), "{what}");
        }
    }
}

#[tokio::test]
async fn what_the_database_refuses_is_a_fault_that_is_described() {
    let document = serde_json::to_value(Description::openapi()).unwrap();
    for fixture in Fixture::each().await {
        let mut samples = Vec::new();
        for (method, path, operation) in operations(&document) {
            samples.push((fixture.sample(&method, &path).await, method, operation));
        }
        for table in ["tokens", "deploy_keys", "gateways", "streams"] {
            let sql = format!("ALTER TABLE {table} RENAME TO {table}_away");
            fixture.site.database.execute(&sql, &[]).await.unwrap();
        }

        for (sample, method, operation) in samples {
            let page = fixture.ask(&method, &sample).await;

            let what = format!("{method} {}", sample.path);
            check(&document, &operation, &what, &page);
            assert_eq!(page.status, 500, "{what}: {}", page.text);
        }
    }
}

#[tokio::test]
async fn what_would_make_too_many_gaps_is_refused_with_what_is_there() {
    let document = serde_json::to_value(Description::openapi()).unwrap();
    let (method, path) = ("post", "/api/v1/records");
    let operation = &document["paths"][path][method];
    for fixture in Fixture::each().await {
        let lost: Vec<_> = (1..=1000).map(|number| (2 * number, 2 * number)).collect();
        let head = |first: i64, lost: &[(i64, i64)]| {
            let kind = RecordKind::Traces.as_str();
            let database = "f".repeat(32);
            json!({"database": database, "kind": kind, "first": first, "count": 0, "lost": lost})
        };
        let mut sample = fixture.sample(method, path).await;
        sample.body = head(1, &lost).to_string();
        let taken = fixture.ask(method, &sample).await;
        sample.body = head(1, &[(9000, 9000)]).to_string();

        let refused = fixture.ask(method, &sample).await;

        assert_eq!(taken.status, 200, "{}", taken.text);
        check(&document, operation, "too many gaps", &refused);
        assert_eq!(refused.status, 409, "{}", refused.text);
        assert_eq!(refused.json()["error"], "gaps_first");
        // Too long to be printed.
        assert!(refused.json()["spans"] == json!(lost));
    }
}

#[tokio::test]
async fn every_route_is_described_and_no_other_one() {
    let site = Site::each().await.remove(0);
    let document = serde_json::to_value(Description::openapi()).unwrap();

    let routes = site.routes().await.into_iter();
    let routed: BTreeSet<_> = routes.filter(|(path, _)| path.starts_with("/api/v1/")).collect();

    let described = operations(&document).into_iter().map(|(method, path, _)| {
        let (_, method) = METHODS.into_iter().find(|(name, _)| *name == method).unwrap();
        (path, method)
    });
    assert_eq!(routed, described.collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let site = Site::each().await.remove(0);
    let mut program = site.program("x");

    for (method, path, status, word) in [
        (Method::GET, "/api/v1/nothing", 404, "not_found"),
        (Method::GET, "/api/nothing", 404, "not_found"),
        (Method::PUT, "/api/v1/heartbeat", 405, "method_not_allowed"),
        (Method::POST, "/api/openapi.json", 405, "method_not_allowed"),
        (Method::GET, "/api/v1/workspaces/%FF/traces", 401, "unauthorized"),
    ] {
        let page = program.send(method.clone(), path, Body::empty()).await;

        assert_eq!((page.status.as_u16(), &page.json()["error"]), (status, &json!(word)), "{path}");
        assert_eq!(page.header("allow").is_empty(), status != 405, "{method} {path}");
        assert_eq!(page.header("www-authenticate"), if status == 401 { "Bearer" } else { "" });
    }
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_again() {
    for fixture in Fixture::each().await {
        let room = &fixture.site.api.room;
        let owner = fixture.site.by(OWNER).await.account.id.number();
        let key: i64 = fixture.site.value("SELECT id FROM deploy_keys", &[]).await;
        let gateway: i64 = fixture.site.value("SELECT id FROM gateways", &[]).await;
        let traces =
            format!("/api/v1{}", fixture.home.page("traces").replace("/w/", "/workspaces/"));

        for (often, asker, token, other, method, path) in [
            (&room.links, owner, &fixture.owner, &fixture.beacon, "post", "/api/v1/gateways"),
            (&room.links, key, &fixture.key, &fixture.beacon, "post", "/api/v1/gateways"),
            (&room.reads, owner, &fixture.owner, &fixture.elsewhere, "get", &traces),
            (&room.reads, owner, &fixture.owner, &fixture.elsewhere, "get", "/api/v1/workspaces"),
            (
                &room.selves,
                gateway,
                &fixture.secret,
                &fixture.owner,
                "get",
                "/api/v1/gateways/self",
            ),
        ] {
            let sample = |token: &String| Sample {
                token: token.clone(),
                path: path.to_owned(),
                kind: JSON,
                body: String::new(),
            };
            let refused = async {
                loop {
                    // A few are let in again while this one is on its way.
                    while often.check(asker).is_ok() {}
                    let page = fixture.ask(method, &sample(token)).await;
                    if page.status == 429 {
                        break page;
                    }
                }
            };
            let refused = tokio::time::timeout(std::time::Duration::from_secs(60), refused);
            let refused = refused.await.expect("a refusal");
            let other = fixture.ask(method, &sample(other)).await;

            assert_eq!(refused.json()["error"], "rate_limited", "{path}");
            assert_eq!(refused.header("retry-after"), "1", "{path}");
            assert_ne!(other.status, 429, "{path}");
        }
    }
}

#[tokio::test]
async fn lists_are_narrowed_by_what_is_asked() {
    for fixture in Fixture::each().await {
        let owner = fixture.site.by(OWNER).await.account.id;
        let trace_id = trace(1)["trace_id"].as_str().unwrap().to_owned();
        let mut program = fixture.site.program(&fixture.owner);

        for (list, good, other) in [
            ("gateways", "state=online,idle".to_owned(), "state=offline"),
            ("gateways", "version=0.0.9,0.1.0".to_owned(), "version=0.2.0"),
            ("gateways", "os=linux".to_owned(), "os=windows,macos"),
            ("gateways", "type=personal,ci".to_owned(), "type=ci"),
            ("gateways", "environment=local".to_owned(), "environment=prod"),
            ("gateways", format!("owner={owner}"), "owner=usr_0000000000000"),
            ("gateways", "search=LAP".to_owned(), "search=desk"),
            ("traces", format!("trace={trace_id}"), "trace=00000000000000000000000000000000"),
            ("traces", "name=read".to_owned(), "name=write"),
            ("audit", "status=success".to_owned(), "status=deny"),
        ] {
            for (query, rows) in [(good.as_str(), 1), (other, 0)] {
                let path = format!("/api/v1/workspaces/{}/{list}?{query}", fixture.home.workspace);
                let page = program.get(&path).await;
                assert_eq!(page.status, 200, "{path} {}", page.text);
                assert_eq!(page.json()["rows"].as_array().unwrap().len(), rows, "{path}");
            }
        }
    }
}
