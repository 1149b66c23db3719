//! What no gateway we measured survives: servers that die, linger, refuse to end, flood; our own death.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};
use ultra_tests::process::{self, eventually, pids_in};
use ultra_tests::session::PATIENCE;
use ultra_tests::{Fake, Ultra, program, servers};

async fn pid_of(ultra: &Ultra, upstream: &str) -> u32 {
    let result = ultra.call_tool(&format!("{upstream}__pid"), json!({})).await.result();
    u32::try_from(result["structuredContent"]["pid"].as_u64().unwrap()).unwrap()
}

/// Calls until a call succeeds. In between only the error that says "try again" is allowed.
async fn call_until_served(ultra: &Ultra, tool: &str) -> Value {
    eventually_async(&format!("an answer of {tool}"), async || {
        let reply = ultra.call_tool(tool, json!({"n": 1})).await;
        let mut reply = reply.value();
        if reply.get("result").is_some() {
            return Some(reply["result"].take());
        }
        assert_eq!(reply["error"]["data"]["gateway"], "ultra", "{reply}");
        None
    })
    .await
}

async fn eventually_async<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(value) = done().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    match waited.await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

#[tokio::test]
async fn a_server_that_prints_its_usage_is_told_to_speak_mcp() {
    let fake = Fake::new("shy").flag("--wants-stdio");

    let ultra = Ultra::setup().upstream(&fake).connect(json!({})).await;

    let echoed = ultra.call_tool("shy__echo", json!({"text": "hello"})).await;
    assert!(echoed.raw.contains("hello"), "{}", echoed.raw);
    assert!(ultra.stderr().contains("speaks MCP with `--stdio`"), "{}", ultra.stderr());
}

#[tokio::test]
async fn a_killed_upstream_comes_back_within_the_session() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("fake"))
        .upstream(&Fake::new("other"))
        .connect(json!({}))
        .await;
    let before = pid_of(&ultra, "fake").await;

    process::signal(before, Signal::KILL);
    let other = ultra.call_tool("other__echo", json!({"n": 2})).await;
    let served = call_until_served(&ultra, "fake__echo").await;

    assert_eq!(other.result()["structuredContent"], json!({"n": 2}));
    assert_eq!(served["structuredContent"], json!({"n": 1}));
    assert_ne!(pid_of(&ultra, "fake").await, before);
}

#[tokio::test]
async fn calls_in_flight_fail_clearly_when_their_upstream_crashes() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("fake"))
        .upstream(&Fake::new("other"))
        .connect(json!({}))
        .await;

    let waiting = ultra.send_request("tools/call", json!({"name": "fake__silent"})).await;
    let unharmed = ultra
        .send_request("tools/call", json!({"name": "other__slow", "arguments": {"ms": 300}}))
        .await;
    let crashing = ultra.send_request("tools/call", json!({"name": "fake__crash"})).await;

    for id in [waiting, crashing] {
        let error = ultra.response(&id).await.error();
        assert_eq!(error["data"]["gateway"], "ultra", "{error}");
        assert_eq!(error["data"]["upstream"], "fake", "{error}");
        assert!(error["message"].as_str().unwrap().contains("fake"), "{error}");
    }
    ultra.response(&unharmed).await.result();
    call_until_served(&ultra, "fake__echo").await;
}

#[tokio::test]
async fn an_upstream_that_dies_again_and_again_serves_in_between() {
    let setup = Ultra::setup();
    let pids = setup.dir().join("pids");
    let fake = Fake::new("fake").option("--die-after", 1).option("--pid-file", pids.display());
    let ultra = setup.upstream(&fake).connect(json!({})).await;

    for _ in 0..3 {
        call_until_served(&ultra, "fake__echo").await;
    }

    assert!(pids_in(&pids, 3).await.len() >= 3);
}

#[tokio::test]
async fn subscriptions_and_levels_outlive_a_restart_of_the_upstream() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let uri = json!({"uri": "fake://fake/counter"});
    ultra.request("resources/subscribe", uri.clone()).await.result();
    ultra.request("logging/setLevel", json!({"level": "error"})).await.result();

    process::signal(pid_of(&ultra, "fake").await, Signal::KILL);
    call_until_served(&ultra, "fake__echo").await;

    eventually_async("an update after the restart", async || {
        ultra.call_tool("fake__touch", uri.clone()).await;
        ultra.request("ping", Value::Null).await;
        (!ultra.take("notifications/resources/updated").is_empty()).then_some(())
    })
    .await;
    ultra.call_tool("fake__log", json!({"level": "info"})).await.result();
    ultra.call_tool("fake__log", json!({"level": "error"})).await.result();
    let heard = ultra.notification("notifications/message").await;
    assert_eq!(heard.params()["level"], "error");
}

/// How a gateway may come to its end.
#[derive(Debug, Clone, Copy)]
enum End {
    Eof,
    Terminate,
    Interrupt,
    Kill,
    /// As a terminal or a service manager does: everything in its process group.
    KillGroup,
}

/// Ends a gateway whose upstreams behave as badly as they can, and looks for survivors.
async fn no_orphan_after(end: End) {
    let setup = Ultra::setup();
    let pids = setup.dir().join("pids");
    let fakes = [
        Fake::new("good"),
        Fake::new("lingering").flag("--linger"),
        Fake::new("stubborn").flag("--linger").flag("--ignore-sigterm"),
        Fake::new("parent")
            .flag("--linger")
            .flag("--spawn-grandchild")
            .option("--pid-file", pids.display()),
        Fake::new("starting").option("--start-delay-ms", 3_600_000).flag("--ignore-sigterm"),
    ];
    let [good, lingering, stubborn, parent, starting] = &fakes;
    let mut ultra = setup
        .upstream(good)
        .upstream(lingering)
        .upstream(stubborn)
        .upstream(parent)
        .late_upstream(starting)
        .connect(json!({}))
        .await;
    let grandchildren = pids_in(&pids, 2).await;
    ultra.send_request("tools/call", json!({"name": "good__silent"})).await;
    ultra.request("ping", Value::Null).await.result();
    let known = ultra.processes();
    assert!(known.len() > fakes.len() + 1, "{known:?}");
    assert!(
        grandchildren.iter().all(|pid| known.contains(pid)),
        "{grandchildren:?} are not in {known:?}"
    );

    match end {
        End::Eof => ultra.close_input().await,
        End::Terminate => process::signal(ultra.pid(), Signal::TERM),
        End::Interrupt => process::signal(ultra.pid(), Signal::INT),
        End::Kill => process::signal(ultra.pid(), Signal::KILL),
        End::KillGroup => process::kill_group(ultra.pid()),
    }
    let status = ultra.ended().await;

    match end {
        End::Eof | End::Terminate | End::Interrupt => {
            assert_eq!(status.code(), Some(0), "{end:?}: {}", ultra.stderr());
        }
        End::Kill | End::KillGroup => assert_eq!(status.code(), None),
    }
    ultra.no_process_left(&known).await;
}

#[tokio::test]
async fn nothing_survives_the_end_of_input() {
    no_orphan_after(End::Eof).await;
}

#[tokio::test]
async fn nothing_survives_sigterm() {
    no_orphan_after(End::Terminate).await;
}

#[tokio::test]
async fn nothing_survives_sigint() {
    no_orphan_after(End::Interrupt).await;
}

#[tokio::test]
async fn nothing_survives_sigkill() {
    no_orphan_after(End::Kill).await;
}

#[tokio::test]
async fn nothing_survives_sigkill_of_the_process_group() {
    no_orphan_after(End::KillGroup).await;
}

#[tokio::test]
async fn an_upstream_that_floods_stderr_works_all_the_same() {
    let fake = Fake::new("fake").option("--stderr-flood", 16 * 1024 * 1024);
    let ultra = Ultra::setup().upstream(&fake).connect(json!({})).await;

    let reply = ultra.call_tool("fake__echo", json!({"n": 1})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"n": 1}));
}

#[tokio::test]
async fn a_command_that_does_not_exist_hurts_nobody_else() {
    let ultra = Ultra::setup()
        .server("missing", Path::new("/nowhere/no-such-server"), &[])
        .server("relative", Path::new("no-such-server-anywhere"), &[])
        .upstream(&Fake::new("fake"))
        .connect(json!({}))
        .await;

    ultra.call_tool("fake__echo", json!({})).await.result();
    let status = ultra.call_tool("ultra_status", json!({})).await.result();

    let missing = &status["structuredContent"]["upstreams"][0];
    assert_eq!(missing["name"], "missing");
    assert_ne!(missing["state"], "ready", "{missing}");
}

/// No time is measured: the slow server would be awaited for an hour.
#[tokio::test]
async fn slow_and_silent_servers_delay_neither_initialize_nor_lists() {
    let ultra = Ultra::setup()
        .late_upstream(&Fake::new("slow").option("--start-delay-ms", 3_600_000))
        .late_upstream(&Fake::new("mute").option("--mute", "initialize"))
        .late_upstream(&Fake::new("listless").option("--mute", "tools/list"))
        .upstream(&Fake::new("fake"))
        .start();

    ultra.initialize(json!({})).await.result();
    ultra.request("tools/list", Value::Null).await.result();
    ultra.request("resources/list", Value::Null).await.result();
    ultra.ready().await;
    ultra.call_tool("fake__echo", json!({})).await.result();
}

#[tokio::test]
async fn an_open_call_of_a_modern_client_may_finish_after_the_end_of_input() {
    let ultra = Ultra::setup().memory().late_upstream(&Fake::new("fake")).start();
    let call = |ms: u64| {
        json!({"name": "fake__slow", "arguments": {"ms": ms, "steps": 1}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }})
    };
    ultra.request("tools/call", call(0)).await.result();

    let open = ultra.send_request("tools/call", call(500)).await;
    ultra.close_input().await;

    ultra.response(&open).await.result();
}

#[tokio::test]
async fn the_list_is_remembered_for_the_next_start() {
    let setup = Ultra::setup();
    let slow = setup.dir().join("slow");
    // The same command each time; how long it takes is told by a file, because the config is remembered too.
    let script = format!(
        "if [ -e {slow:?} ]; then exec sleep 3600; else exec {:?} --name fake; fi",
        program("fake-upstream")
    );
    let mut ultra = setup.server("fake", Path::new("/bin/sh"), &["-c".to_owned(), script]).start();
    ultra.initialize(json!({})).await;
    let before =
        ultra.tools_until("its tools", |names| names.iter().any(|name| name == "fake__echo")).await;

    ultra.close_input().await;
    ultra.ended().await;
    std::fs::write(&slow, "").unwrap();
    let ultra = ultra.restart();
    ultra.initialize(json!({})).await;
    let after = ultra.tool_names().await;

    assert_eq!(before, after);
}

/// Returns the number of audit events of tool calls in a database.
fn audited(database: &Path) -> usize {
    let connection =
        Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let table: String = connection
        .query_row(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'audit%' LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let count: i64 = connection
        .query_row(&format!("SELECT count(*) FROM {table} WHERE action = 'echo'"), [], |row| {
            row.get(0)
        })
        .unwrap();
    usize::try_from(count).unwrap()
}

/// Durable means: before the answer leaves. So after `kill -9` there are at least as many events as answers.
#[tokio::test]
async fn every_answered_call_has_its_audit_event_after_kill() {
    let mut ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let database = ultra.dir().join("ultra.db");

    let call = async || {
        ultra.send_request("tools/call", json!({"name": "fake__echo", "arguments": {"n": 1}})).await
    };
    for _ in 0..64 {
        call().await;
    }
    let mut answered = 0;
    while answered < 500 {
        ultra.wait_for("an answer", |message| message.method.is_none()).await.result();
        answered += 1;
        call().await;
    }
    process::signal(ultra.pid(), Signal::KILL);
    ultra.ended().await;
    // What it wrote before it died is still in the pipe.
    let closed = || ultra.is_closed().then_some(());
    eventually("the end of its output", PATIENCE, closed).await;
    answered += ultra.left().iter().filter(|line| line.contains("\"result\"")).count();

    let audited = audited(&database);
    assert!(audited >= answered, "{answered} answers, but {audited} audit events");
}

#[tokio::test]
async fn records_can_be_read_while_the_gateway_runs() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    ultra.call_tool("fake__echo", json!({"n": 1})).await.result();
    ultra.call_tool("fake__tool-error", json!({})).await.result();

    for (command, part) in [("audit", "\"action\""), ("traces", "\"trace_id\"")] {
        eventually_async(&format!("`ultra {command}`"), async || {
            let output = ultra.run(&[command, "--json"]).await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            (text.contains(part) && text.contains("echo") && text.contains("tool-error"))
                .then_some(())
        })
        .await;
    }
}

/// A file system of 4 MiB of one's own, in a mount namespace that only the gateway is in.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Returns the command that makes it and becomes the gateway; none where that is not allowed.
    fn wrap(&self, gateway: &Command) -> Option<Command> {
        // The second way needs no root, where user namespaces are allowed.
        [["--mount"].as_slice(), &["--map-root-user", "--mount"]].iter().find_map(|how| {
            let mut wrapped = Command::new("unshare");
            wrapped.args(*how).args(["--propagation", "private", "sh", "-c"]);
            wrapped.arg(r#"mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@""#).arg(&self.dir);
            let probe = Command::new("unshare").args(wrapped.get_args()).arg("true").output();
            if !probe.is_ok_and(|output| output.status.success()) {
                return None;
            }
            wrapped.arg(gateway.get_program()).args(gateway.get_args());
            wrapped.envs(gateway.get_envs().filter_map(|(name, value)| Some((name, value?))));
            wrapped.current_dir(gateway.get_current_dir()?);
            Some(wrapped)
        })
    }

    /// Returns the path by which the disk is seen from outside.
    fn outside(&self, pid: u32, file: &str) -> PathBuf {
        let dir = self.dir.strip_prefix("/").unwrap_or(&self.dir);
        Path::new(&format!("/proc/{pid}/root")).join(dir).join(file)
    }
}

/// No event, no result; and when there is space again, everything goes on.
#[tokio::test]
async fn a_full_disk_withholds_results_and_nothing_is_lost_for_good() {
    let setup = Ultra::setup();
    let disk = SmallDisk { dir: setup.dir().join("disk") };
    std::fs::create_dir(&disk.dir).unwrap();
    let storage = json!({"backend": "sqlite", "path": disk.dir.join("ultra.db")});
    let setup =
        setup.no_storage().yaml(&format!("storage: {storage}")).upstream(&Fake::new("fake"));
    let Some(command) = disk.wrap(&setup.start_command()) else {
        return servers::skip("the full-disk test: no mount namespace of one's own without root");
    };
    let ultra = setup.start_with(command);
    ultra.initialize(json!({})).await;
    ultra.ready().await;
    ultra.call_tool("fake__echo", json!({"n": 1})).await.result();

    let ballast = disk.outside(ultra.pid(), "ballast");
    fill(&ballast);
    let refused = eventually_async("a refused call", async || {
        let reply = ultra.call_tool("fake__echo", json!({"text": "z".repeat(4096)})).await.value();
        fill(&ballast);
        reply.get("error").cloned()
    })
    .await;
    std::fs::remove_file(&ballast).unwrap();
    let served = call_until_served(&ultra, "fake__echo").await;

    assert_eq!(refused["code"], -32603, "{refused}");
    assert_eq!(refused["data"]["reason"], "audit_unavailable", "{refused}");
    assert!(!refused.to_string().contains("zzzz"), "the result leaked into the error");
    assert_eq!(served["structuredContent"], json!({"n": 1}));
}

/// Appends until the disk is full.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for size in [64 * 1024, 4096, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
