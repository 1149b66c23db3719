//! Processes of the machine: who carries a mark, who still lives, and an end to them.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};

/// Environment variable by which the processes of one test are found, wherever they were forked.
pub const MARK: &str = "ULTRA_TEST_MARK";

/// Returns the processes whose environment holds `MARK=mark`, the dead but not yet reaped excluded.
pub fn marked(mark: &str) -> Vec<u32> {
    let needle = format!("{MARK}={mark}\0");
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // A process that went meanwhile has no environment, and so has a zombie.
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            memchr::memmem::find(&environ, needle.as_bytes()).is_some()
        })
        .collect()
}

/// Returns the living processes below one, however deep, without itself.
pub fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let fields = stat(pid)?;
            (fields.first()? != "Z").then_some(())?;
            Some((pid, fields.get(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Returns whether a process lives. A zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let Some(known) = to_pid(pid) else { return false };
    test_kill_process(known).is_ok() && !is_zombie(pid)
}

fn is_zombie(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| fields.first().is_some_and(|state| state == "Z"))
}

/// Returns the fields of `/proc/<pid>/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    // `pid (comm) state ppid …`: the name may hold anything, even parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Sends a signal to one process. A process that is gone is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills a process group that one of ours leads. A group that is gone is no error.
pub fn kill_group(leader: u32) {
    if let Some(pid) = to_pid(leader) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Waits until `done` returns something.
///
/// # Panics
///
/// If it does not within `limit`; says what was awaited.
pub async fn eventually<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a file has at least `count` lines, and returns them as numbers.
///
/// # Panics
///
/// If it has not within 20 s.
pub async fn pids_in(path: &Path, count: usize) -> Vec<u32> {
    eventually(
        &format!("{count} process ids in `{}`", path.display()),
        Duration::from_secs(20),
        || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let pids: Vec<_> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (pids.len() >= count).then_some(pids)
        },
    )
    .await
}
