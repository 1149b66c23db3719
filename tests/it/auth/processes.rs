//! Several gateways of one user at once, as real processes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ultra::auth::Server;
use ultra::config::OAuth;
use ultra_tests::oauth::{Behaviour, Call, Protected, call, client};
use ultra_tests::program;

const PROCESSES: usize = 3;
const CALLS: usize = 50;

/// A process that calls when it is told.
struct Callers {
    child: Child,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Callers {
    fn start(directory: &Path, url: &str) -> Self {
        let mut child = Command::new(program("auth-callers"))
            .arg(directory)
            .arg(url)
            .arg(CALLS.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self { child, stdin, lines };
        assert_eq!(this.line(), "ready");
        this
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go(&mut self) {
        writeln!(self.stdin, "go").unwrap();
    }

    fn answered(&mut self) -> usize {
        let answered = self.line().parse().unwrap();
        assert_eq!(self.line(), "ready");
        answered
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets all processes call at once and returns how many calls of each were answered.
async fn rush(processes: Vec<Callers>) -> (Vec<Callers>, Vec<usize>) {
    tokio::task::spawn_blocking(move || {
        let mut processes = processes;
        processes.iter_mut().for_each(Callers::go);
        let answered = processes.iter_mut().map(Callers::answered).collect();
        (processes, answered)
    })
    .await
    .unwrap()
}

/// Starts them beside the thread that serves.
async fn start(directory: &Path, url: String) -> Vec<Callers> {
    let directory = directory.to_owned();
    let start = move || (0..PROCESSES).map(|_| Callers::start(&directory, &url)).collect();
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Clients start gateways of their own, and an identity provider that sees one refresh token twice ends
/// the session.
#[tokio::test]
async fn gateways_open_one_window_and_refresh_once() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let processes = start(&dir.path().join("auth"), protected.url()).await;

    let (processes, first) = rush(processes).await;
    let signed_in = protected.seen();
    protected.revoke_access_tokens();
    let (_processes, second) = rush(processes).await;
    let refreshed = protected.seen();

    assert_eq!((first, second), (vec![CALLS; PROCESSES], vec![CALLS; PROCESSES]));
    assert_eq!(
        (signed_in.sign_ins.len(), signed_in.registrations, signed_in.refreshes.len()),
        (1, 1, 0)
    );
    assert_eq!((refreshed.sign_ins.len(), refreshed.refreshes.len()), (1, 1));
    assert_eq!(refreshed.calls, 2 * PROCESSES * CALLS);
    assert_eq!(refreshed.faults, Vec::<String>::new());
}

#[tokio::test]
async fn token_that_has_ended_is_refreshed_once_before_anybody_calls() {
    let behaviour = Behaviour { lifetime_seconds: Some(2), ..Behaviour::default() };
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(behaviour).await;
    let directory = dir.path().join("auth");
    let server = Server::new(Arc::from("x"), &protected.url(), OAuth::default()).unwrap();
    let first = call(&client(&directory), &server).await;
    let processes = start(&directory, protected.url()).await;

    tokio::time::sleep(Duration::from_secs(2)).await;
    protected.behave(|behaviour| behaviour.lifetime_seconds = Some(3_600));
    let (_processes, answered) = rush(processes).await;

    assert!(matches!(first, Call::Answered(200, 2)), "{first:?}");
    assert_eq!(answered, vec![CALLS; PROCESSES]);
    let seen = protected.seen();
    assert_eq!((seen.sign_ins.len(), seen.refreshes.len()), (1, 1));
    assert_eq!(seen.faults, Vec::<String>::new());
}
