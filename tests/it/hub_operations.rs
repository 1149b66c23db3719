//! `ultra hub serve` as whoever looks after it meets it: started, behind TLS or a proxy, in several
//! processes, and told to stop.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use ultra_tests::cluster::Cluster;
use ultra_tests::hub::{Device, Hub, Owner, Storage, client};
use ultra_tests::{process, program};

/// A process each.
const PROCESSES: [&str; 2] =
    ["0199f0c2-77aa-7c31-9a52-000000000001", "0199f0c2-77aa-7c31-9a52-000000000002"];

/// A certificate for `localhost`, its key, and who signed it. They guard nothing.
fn pem(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("../host/src/telemetry/testdata").join(name)
}

/// Returns a client that trusts who signed it.
fn trusting() -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().use_preconfigured_tls(tls).build().unwrap()
}

async fn text(client: &reqwest::Client, url: &str) -> (u16, String) {
    let response = client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn with_a_certificate_the_hub_speaks_tls() {
    let (chain, key) = (pem("cert.pem"), pem("key.pem"));
    let flags = ["--tls-cert", chain.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let hub = Hub::start_with(Storage::Sqlite, &flags);
    let client = trusting();
    let base = hub.url("").replace("http://127.0.0.1", "https://localhost");

    let get = async |path: &str| text(&client, &format!("{base}{path}")).await;
    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    for line in ["ultra_hub_database_up 1", "ultra_hub_gateways 0", "ultra_hub_records_total 0"] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
    let setup = hub.setup_url.as_deref().unwrap();
    assert!(setup.starts_with("https://127.0.0.1:"), "{setup}");
    let (_, path) = setup.split_once("/setup/").unwrap();
    assert_eq!(get(&format!("/setup/{path}")).await.0, 200);
    // In clear nobody is answered.
    assert!(
        ultra_tests::hub::client().build().unwrap().get(hub.url("/livez")).send().await.is_err()
    );
}

/// A page that follows listens for as long as it is let: it must not hold up the end.
#[tokio::test]
async fn a_page_that_listens_does_not_hold_up_the_end() {
    let mut hub = Hub::start(Storage::Sqlite);
    let owner = Owner::set_up(&hub).await;
    let mut live = owner.visitor.open(&format!("/w/{}/live", owner.workspace)).await;
    assert_eq!(live.status(), 200);
    assert!(live.chunk().await.unwrap().is_some(), "the first number");

    let log = tokio::task::spawn_blocking(move || hub.stop()).await.unwrap();

    assert!(log.contains("told to terminate"), "{log}");
    for wrong in ["WARN", "ERROR", "in time"] {
        assert!(!log.contains(wrong), "{log}");
    }
    while let Ok(Some(_)) = live.chunk().await {}
}

/// Whoever does not want to wait says so twice.
#[tokio::test]
async fn a_second_signal_ends_the_hub_at_once() {
    let mut hub = Hub::start(Storage::Sqlite);
    let address = hub.url("").replace("http://", "");
    // A request whose end never comes is under way once its beginning was asked for.
    let stream = TcpStream::connect(&address).await.unwrap();
    let mut stream = BufReader::new(stream);
    let head = format!(
        "POST /sign-in HTTP/1.1\r\nHost: {address}\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.contains("100 Continue"), "{line}");

    process::signal(hub.pid(), rustix::process::Signal::TERM);
    hub.logged("told to terminate");
    process::signal(hub.pid(), rustix::process::Signal::INT);
    let (status, log) = tokio::task::spawn_blocking(move || hub.ended()).await.unwrap();

    assert_eq!(status.code(), Some(130), "{log}");
}

#[tokio::test]
async fn behind_a_proxy_cookies_are_for_https() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--behind-proxy", "--public-url", "https://hub.example.com"];
    let hub = Hub::start_at(&free, Storage::Sqlite, &flags);
    let client = client().redirect(Policy::none()).build().unwrap();
    let cookie = async |proto: Option<&str>| {
        let request = client.post(hub.url("/sign-in")).form(&[("email", "ada@example.com")]);
        let request = match proto {
            Some(proto) => request.header("x-forwarded-proto", proto),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 303);
        response.headers()["set-cookie"].to_str().unwrap().to_owned()
    };

    assert!(hub.setup_url.as_deref().unwrap().starts_with("https://hub.example.com/setup/"));
    for (proto, is_secure) in [(Some("https"), true), (Some("http"), false), (None, false)] {
        let cookie = cookie(proto).await;
        assert_eq!(cookie.starts_with("__Host-"), is_secure, "{proto:?}: {cookie}");
        assert_eq!(cookie.ends_with("; Secure"), is_secure, "{proto:?}: {cookie}");
    }
}

/// Returns what linking with a key, or a heartbeat, is answered.
async fn refused(hub: &Hub, path: &str, token: &str, body: Value) -> (u16, String) {
    let request = client().build().unwrap().post(hub.url(path)).bearer_auth(token).json(&body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let problem: Value = response.json().await.unwrap();
    (status, problem["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hubs_on_one_database_are_one() {
    let cluster = tokio::task::spawn_blocking(Cluster::shared).await.unwrap();
    let Some(cluster) = cluster else { return };
    let storage = Storage::Postgres(cluster.database());
    let hubs = [Hub::start(storage.clone()), Hub::start(storage)];
    let owner = Owner::set_up(&hubs[0]).await;

    // Whoever signed in at one is signed in at the other.
    let account = owner.visitor.page(&hubs[1].url("/account")).await;
    assert!(account.contains("ada@example.com"), "{account}");

    // Gateways that one hears of are online at both.
    let key = owner.deploy_key("Both").await;
    let mut devices = Vec::new();
    for (hub, process) in hubs.iter().zip(PROCESSES) {
        let device = Device::link(&hub.url(""), &key, process).await;
        assert_eq!(device.heartbeat(process).await.unwrap().0, 200);
        devices.push(device);
    }
    for hub in &hubs {
        online(hub, 2).await;
    }

    // A key that is revoked at one lets nobody in at the other, nor those whom it let in.
    let page = format!("/w/{}/settings/security", owner.workspace);
    owner.visitor.submit(&page, "/revoke", &[]).await;
    let link = json!({"name": "late", "host": {}});
    let revoked = (401, "revoked".to_owned());
    assert_eq!(refused(&hubs[1], "/api/v1/gateways", &key, link).await, revoked);
    let (status, problem) = devices[1].heartbeat(PROCESSES[1]).await.unwrap();
    assert_eq!((status, problem["error"].as_str()), (401, Some("revoked")));
}

/// Waits until a Hub counts so many gateways that are online.
async fn online(hub: &Hub, count: u32) {
    let (client, line) = (client().build().unwrap(), format!("ultra_hub_gateways_online {count}"));
    for _ in 0..120 {
        let (_, metrics) = text(&client, &hub.url("/metrics")).await;
        if metrics.lines().any(|it| it == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("no `{line}` within a minute: {}", hub.log());
}

/// Returns how the Hub ends that is not started, and what it says.
fn serve(flags: &[&str]) -> String {
    serve_with(flags, &[])
}

fn serve_with(flags: &[&str], env: &[(&str, OsString)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("ultra-dup"));
    command.args(["hub", "serve"]).args(flags).envs(env.iter().cloned());
    if env.is_empty() {
        command.arg("--data").arg(dir.path());
    }
    command.env("HOME", dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..600 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // One that started after all does not end by itself.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    format!("{}\n{said}", output.status.code().expect("it ended by itself"))
}

#[tokio::test]
async fn postgresql_is_reached_over_tls_if_its_certificate_is_good() {
    let start = || Cluster::start_tls(&pem("cert.pem"), &pem("key.pem"));
    let Some(cluster) = tokio::task::spawn_blocking(start).await.unwrap() else { return };
    let database = cluster.database();
    let (_, name) = database.rsplit_once('=').unwrap();
    let url = cluster.tls_url("localhost", name);

    let hub = Hub::start_trusting(&pem("ca.pem"), Storage::Postgres(url.clone()));

    let ready = text(&client().build().unwrap(), &hub.url("/readyz")).await;
    assert_eq!(ready, (200, "ready\n".to_owned()));
    let connections = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl)
        FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'ultra-hub'";
    let connections = cluster.psql(name, connections);
    let (with_tls, without) = connections.split_once('|').unwrap();
    assert_ne!(with_tls, "0", "{connections}");
    assert_eq!(without, "0", "{connections}");
    // Nobody knows who signed it; and it is for another name.
    let other = cluster.tls_url("other.test", name);
    for (url, trusted) in [(&url, "cert.pem"), (&other, "ca.pem")] {
        let env = [("ULTRA_HUB_DATABASE_URL", url.into()), ("SSL_CERT_FILE", pem(trusted).into())];
        let said = serve_with(&["--listen", "127.0.0.1:0"], &env);
        assert!(said.starts_with("2\nerror: cannot open the Hub's database"), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
}

/// Links in mail would lead nowhere, and secrets cross the network in clear.
#[test]
fn a_hub_that_others_cannot_reach_safely_does_not_start() {
    insta::assert_snapshot!(serve(&["--listen", "0.0.0.0:0"]), @r"
    1
    error: 0.0.0.0:0 can be reached by others, and nothing encrypts
    hint: give a certificate with `--tls-cert` and `--tls-key`, or say `--behind-proxy` if a proxy encrypts
    ");
    let tls = ["--tls-cert", "chain.pem", "--tls-key", "key.pem"];
    insta::assert_snapshot!(serve(&[&["--listen", "[::]:0"], &tls[..]].concat()), @r"
    1
    error: [::]:0 is no address that leads to the Hub
    hint: say how others reach it, such as `--public-url https://hub.example.com`
    ");
    insta::assert_snapshot!(serve(&["--listen", "127.0.0.1:0", "--behind-proxy"]), @r"
    1
    error: behind a proxy the Hub does not know its own address
    hint: say how others reach it, such as `--public-url https://hub.example.com`
    ");
}
