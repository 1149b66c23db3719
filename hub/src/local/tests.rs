//! The dashboard as a browser sees it: a real server on a port of this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http::StatusCode;
use reqwest::{Client, RequestBuilder, Response, redirect};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ultra_store::{Record, SqliteOptions, SqliteStore, Store, UpstreamStatus};

use super::{DashboardError, Options, dashboard};
use crate::web::testing::trace;
use crate::wire::Host;

/// A dashboard that is served until it is dropped.
struct Served {
    /// The link that opens it.
    url: String,
    /// `http://127.0.0.1:port`
    base: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    store: SqliteStore,
    _directory: TempDir,
}

fn options(database: &Path, address: &str) -> Options {
    let host = Host { hostname: "workbench".to_owned(), ..Host::default() };
    Options { database: database.to_owned(), address: address.parse().unwrap(), host }
}

async fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ultra.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).unwrap();
    let dashboard = dashboard(options(&path, "127.0.0.1:0")).await.unwrap();
    let url = dashboard.url().to_owned();
    let base = url.split("/open").next().unwrap().to_owned();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(dashboard.serve(shutdown.clone()));
    Served { url, base, shutdown, task, store, _directory: directory }
}

/// What a browser does, but for following redirects.
fn browser() -> Client {
    let tls = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    );
    let tls = tls.with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

/// Opens the link; returns the cookie.
async fn open(served: &Served) -> String {
    let opened = send(browser().get(&served.url)).await;
    assert_eq!(opened.status(), StatusCode::SEE_OTHER);
    let cookie = opened.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

const PAGE: &str = "/w/ws_0000000000001/traces";

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ultra.db");
    let _store = SqliteStore::open(SqliteOptions::new(&path)).unwrap();

    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:0.0.0.0]:0"] {
        let error = dashboard(options(&path, address)).await.unwrap_err();

        assert!(matches!(error, DashboardError::NotLoopback(_)), "{error}");
        assert!(error.to_string().contains("ultra hub serve"), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.db");

    let error = dashboard(options(&path, "127.0.0.1:0")).await.unwrap_err();

    assert!(error.to_string().starts_with("cannot open the database"), "{error}");
    assert!(!path.exists(), "nothing was made");
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_to_be_so() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ultra.db");
    let _store = SqliteStore::open(SqliteOptions::new(&path)).unwrap();

    let error = dashboard(options(&path, &address)).await.unwrap_err();

    assert_eq!(error.to_string(), format!("cannot listen on `{address}`"));
}

#[tokio::test]
async fn the_link_opens_it_once() {
    let served = served().await;
    let page = format!("{}{PAGE}", served.base);

    let before = send(browser().get(&page)).await;
    let looked = send(browser().head(&served.url)).await;
    let cookie = open(&served).await;
    let after = send(browser().get(&page).header("cookie", &cookie)).await;
    let again = send(browser().get(&served.url)).await;
    let mine = send(browser().get(&served.url).header("cookie", &cookie)).await;

    assert_eq!(before.status(), StatusCode::UNAUTHORIZED);
    assert!(before.text().await.unwrap().contains("run `ultra dashboard` again"));
    assert_eq!(looked.status(), StatusCode::UNAUTHORIZED, "looking does not use it up");
    assert_eq!(after.status(), StatusCode::OK);
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(mine.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_wrong_key_or_cookie_opens_nothing() {
    let served = served().await;

    for wrong in ["/open?key=", "/open?key=0", "/open", "/open?key=a&key=b"] {
        let answer = send(browser().get(format!("{}{wrong}", served.base))).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let cookie = open(&served).await;
    let name = cookie.split('=').next().unwrap();
    let wrong =
        [format!("{name}="), format!("{name}={}", "0".repeat(64)), cookie.replace('=', "x=")];
    for cookie in wrong {
        for path in [PAGE, "/", "/w/ws_0000000000001/live", "/w/ws_0000000000001/export/traces.csv"]
        {
            let page = browser().get(format!("{}{path}", served.base));
            let answer = send(page.header("cookie", &cookie)).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{cookie} {path}");
        }
    }
}

/// A web page can have its own name point here, and then read as its own what we answer.
#[tokio::test]
async fn a_request_by_another_name_is_refused() {
    let served = served().await;
    let cookie = open(&served).await;
    let address: SocketAddr = served.base.strip_prefix("http://").unwrap().parse().unwrap();
    let port = address.port();

    let cases = [
        (format!("127.0.0.1:{port}"), StatusCode::OK),
        (format!("localhost:{port}"), StatusCode::OK),
        (format!("[::1]:{port}"), StatusCode::OK),
        (format!("evil.example:{port}"), StatusCode::FORBIDDEN),
        ("127.0.0.1".to_owned(), StatusCode::FORBIDDEN),
        (format!("127.0.0.1:{}", port ^ 1), StatusCode::FORBIDDEN),
        (format!("127.0.0.1.evil.example:{port}"), StatusCode::FORBIDDEN),
        (format!("127.0.0.1:{port}.evil.example"), StatusCode::FORBIDDEN),
    ];
    for (host, expected) in cases {
        for path in [PAGE, "/w/ws_0000000000001/audit"] {
            let page = browser().get(format!("{}{path}", served.base));
            let answer = send(page.header("cookie", &cookie).header("host", &host)).await;
            assert_eq!(answer.status(), expected, "{host}");
        }
    }
}

#[tokio::test]
async fn what_another_site_sends_is_refused() {
    let served = served().await;
    let cookie = open(&served).await;
    let page = format!("{}{PAGE}", served.base);

    let with = |headers: &[(&str, &str)]| {
        let request = browser().get(&page).header("cookie", &cookie);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let cases: [(&[(&str, &str)], StatusCode); 7] = [
        (&[("origin", &served.base)], StatusCode::OK),
        (&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")], StatusCode::OK),
        // A link on another page.
        (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], StatusCode::OK),
        (&[("origin", "https://evil.example")], StatusCode::FORBIDDEN),
        (&[("origin", "null")], StatusCode::FORBIDDEN),
        (&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], StatusCode::FORBIDDEN),
        // Another port of this machine.
        (&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], StatusCode::FORBIDDEN),
    ];
    for (headers, expected) in cases {
        assert_eq!(send(with(headers)).await.status(), expected, "{headers:?}");
    }
    let post = browser().post(&page).header("cookie", &cookie);
    let elsewhere = post.try_clone().unwrap().header("origin", "https://evil.example");
    assert_eq!(send(elsewhere).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(send(post).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn this_machine_is_shown_as_its_one_gateway() {
    let served = served().await;
    let cookie = open(&served).await;
    let page = async |path: &str| {
        let request = browser().get(format!("{}/w/ws_0000000000001/{path}", served.base));
        send(request.header("cookie", &cookie)).await.text().await.unwrap()
    };

    let pending = page("gateways").await;
    served.store.record(Record::Trace(Box::new(trace(1, "read"))));
    served.store.upstream(UpstreamStatus {
        upstream: "files".to_owned(),
        gateway_pid: 1,
        state: "ready".to_owned(),
        server: Some("files-mcp 1.0".to_owned()),
        tools: 3,
        resources: 0,
        prompts: 0,
        error: None,
        stderr: None,
        unix_ns: crate::web::testing::now_ns(),
    });
    assert!(served.store.flush(Instant::now() + Duration::from_secs(20)));
    let online = page("gateways?panel=gw_0000000000001").await;
    let traces = page("traces").await;

    assert!(pending.contains("<span class=\"state pending\">Pending</span></td>"), "{pending}");
    assert!(online.contains("<span class=\"state online\">Online</span></td>"), "{online}");
    for expected in ["workbench", "files-mcp 1.0", "not reported", "claude"] {
        assert!(online.contains(expected), "{expected}");
    }
    assert!(!online.contains("sign-out"), "there are no accounts");
    assert!(traces.contains(">read</a>"), "{traces}");
}

#[tokio::test]
async fn a_page_that_listens_is_told_of_news() {
    let served = served().await;
    let cookie = open(&served).await;

    let live = format!("{}/w/ws_0000000000001/live", served.base);
    let mut stream = send(browser().get(live).header("cookie", &cookie)).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let first = stream.chunk().await.unwrap().unwrap();
    served.store.record(Record::Trace(Box::new(trace(1, "read"))));
    let second = stream.chunk().await.unwrap().unwrap();

    let text = |chunk: &[u8]| String::from_utf8(chunk.to_vec()).unwrap();
    assert!(text(&first).contains("data: 0\n"), "{}", text(&first));
    assert!(text(&second).contains("data: 1\n"), "{}", text(&second));
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_even_while_a_page_listens() {
    let served = served().await;
    let cookie = open(&served).await;
    let live = format!("{}/w/ws_0000000000001/live", served.base);
    let _stream = send(browser().get(live).header("cookie", &cookie)).await;

    served.shutdown.cancel();

    tokio::time::timeout(Duration::from_secs(5), served.task).await.expect("ended in 5 s").unwrap();
}
