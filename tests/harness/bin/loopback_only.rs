//! Runs programs where there is no network but loopback.
//!
//! The official conformance suite listens on all interfaces. `loopback-only hold` makes a network namespace
//! that has only `lo`, says `ready`, and keeps it until its input ends. `loopback-only enter PID PROGRAM ARGS…`
//! becomes that program in the namespace that PID keeps; it dies with the thread that started it.
//! Whoever is not root gets a user namespace around it, in which he is himself. Linux only.

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "loopback-only: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn run() -> anyhow::Result<()> {
    anyhow::bail!("network namespaces are there on Linux only")
}

#[cfg(target_os = "linux")]
fn run() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    match (command.to_str(), args.next(), args.next()) {
        (Some("hold"), None, None) => linux::hold(),
        (Some("enter"), Some(pid), Some(program)) => linux::enter(&pid, &program, args),
        _ => anyhow::bail!("usage: loopback-only hold | enter PID PROGRAM ARGS…"),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File};
    use std::io::{self, Write};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    use anyhow::Context;
    use nix::sched::{CloneFlags, setns, unshare};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
    use rustix::process::{Signal, getgid, getuid, set_parent_process_death_signal};

    pub(crate) fn hold() -> anyhow::Result<()> {
        isolate().context("cannot make a network namespace")?;
        raise_loopback().context("cannot switch on `lo`")?;
        writeln!(io::stdout(), "ready")?;
        io::copy(&mut io::stdin(), &mut io::sink())?;
        Ok(())
    }

    fn isolate() -> anyhow::Result<()> {
        if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
            return Ok(());
        }
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        // Without it a group map may not be written (user_namespaces(7)).
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
        Ok(())
    }

    /// Asks the kernel to switch on the first interface, which in a new namespace is `lo` (rtnetlink(7)).
    fn raise_loopback() -> anyhow::Result<()> {
        const RTM_NEWLINK: u16 = 16;
        const NLM_F_REQUEST_AND_ACK: u16 = 1 | 4;
        const IFF_UP: u32 = 1;
        let (length, sequence, kernel, unspecified) = (32_u32, 1_u32, 0_u32, 0_u32);
        let interface = 1_u32;
        let mut request = Vec::new();
        request.extend(length.to_ne_bytes());
        request.extend(RTM_NEWLINK.to_ne_bytes());
        request.extend(NLM_F_REQUEST_AND_ACK.to_ne_bytes());
        for word in [sequence, kernel, unspecified, interface, IFF_UP, IFF_UP] {
            request.extend(word.to_ne_bytes());
        }
        // No protocol is `NETLINK_ROUTE`.
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        rustix::net::send(&socket, &request, SendFlags::empty())?;
        let mut answer = [0; 64];
        rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
        // After the header stands the negative error number, or 0.
        let [_, _, _, _, error, ..] = answer.as_chunks::<4>().0 else {
            anyhow::bail!("the kernel's answer is too short")
        };
        match i32::from_ne_bytes(*error) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error).into()),
        }
    }

    pub(crate) fn enter(
        pid: &OsStr,
        program: &OsStr,
        args: impl Iterator<Item = OsString>,
    ) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let theirs = Path::new("/proc").join(pid).join("ns");
        let user = |place: &Path| {
            fs::read_link(place).with_context(|| format!("cannot read `{}`", place.display()))
        };
        let join = |kind: &str, flag| -> anyhow::Result<()> {
            let place = theirs.join(kind);
            let file =
                File::open(&place).with_context(|| format!("cannot open `{}`", place.display()))?;
            setns(file, flag).with_context(|| format!("cannot enter `{}`", place.display()))
        };
        // Nobody can enter the user namespace he is in.
        if user(Path::new("/proc/self/ns/user"))? != user(&theirs.join("user"))? {
            join("user", CloneFlags::CLONE_NEWUSER)?;
        }
        join("net", CloneFlags::CLONE_NEWNET)?;
        let error = Command::new(program).args(args).exec();
        Err(error).with_context(|| format!("cannot start `{}`", program.display()))
    }
}
