//! A PostgreSQL server of a test run's own, from the binaries that are installed.
//!
//! Knows nothing of the Hub: other test programs include this file too. The server listens on a socket in
//! its directory, and ends with the program that started it, whatever ends that.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// Runs the server, stops it properly when told to, and removes what it wrote.
const KEEPER: &str = r#"
    directory=$1; shift
    "$@" 2>&1 &
    server=$!
    trap 'kill -INT $server' TERM INT
    wait $server
    wait $server
    rm -rf "$directory"
"#;

/// Where distributions put what is not, or not all, on the path.
const BINARIES: [&str; 2] = ["/usr/lib/postgresql", "/opt/homebrew/opt/postgresql"];

/// A server that was told to start does so in this time, or not at all.
const START_MAX: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Cluster {
    binaries: PathBuf,
    directory: PathBuf,
    /// Its socket is named after it, even if nothing listens there.
    port: u16,
    databases: AtomicU32,
}

impl Cluster {
    /// Returns the server of this process, started by whoever asks first; nothing, loudly, if
    /// PostgreSQL is not installed. It does not wait for the disk: for tests that kill nothing.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&["fsync=off", "full_page_writes=off"])).as_ref()
    }

    /// Starts a server with these settings beside its defaults.
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(settings: &[&str]) -> Option<Self> {
        Self::start_as(settings, None)
    }

    /// Starts a server that speaks TLS, on a port of 127.0.0.1 of its own.
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start_tls(certificate: &Path, key: &Path) -> Option<Self> {
        Self::start_as(&[], Some((certificate, key)))
    }

    fn start_as(settings: &[&str], tls: Option<(&Path, &Path)>) -> Option<Self> {
        let Some(binaries) = binaries() else {
            eprintln!(
                "\n*** SKIPPED ON POSTGRESQL: there is no `initdb` here. Install PostgreSQL. ***\n"
            );
            return None;
        };
        let owner = owner();
        let directory = std::env::temp_dir().join(format!("ultra-pg-{:016x}", unique()));
        std::fs::create_dir(&directory).unwrap();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).unwrap();
        }
        let data = directory.join("data");
        let mut initdb = command(&binaries.join("initdb"), owner);
        initdb.args(["-A", "trust", "-U", "ultra", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        let made = initdb.arg(&data).current_dir(&directory).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut port = 5432;
        if let Some((certificate, key)) = tls {
            give(owner, certificate, &directory.join("cert.pem"));
            give(owner, key, &directory.join("key.pem"));
            // It is free now, and used in a moment.
            port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            // Files as seen from the directory with the data.
            let tls = ["listen_addresses=127.0.0.1", "ssl=on", "ssl_cert_file=../cert.pem"];
            settings.extend(tls.map(str::to_owned));
            settings.extend(["ssl_key_file=../key.pem".to_owned(), format!("port={port}")]);
        }
        run(&binaries, &directory, &data, owner, &settings);
        Some(Self { binaries, directory, port, databases: AtomicU32::new(0) })
    }

    /// Makes an empty database; returns how to connect to it.
    ///
    /// # Panics
    ///
    /// If the server does not.
    pub fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// Returns how to connect to a database.
    pub fn url(&self, database: &str) -> String {
        let (directory, port) = (self.directory.display(), self.port);
        format!("host={directory} port={port} user=ultra dbname={database}")
    }

    /// Returns how to connect to a database of a server that speaks TLS, as one that has this name.
    pub fn tls_url(&self, host: &str, database: &str) -> String {
        let address = "hostaddr=127.0.0.1&sslmode=verify-full";
        format!("postgres://ultra@{host}:{}/{database}?{address}", self.port)
    }

    /// Returns the process that all others of the server come from.
    ///
    /// # Panics
    ///
    /// If the server does not run.
    pub fn pid(&self) -> u32 {
        let file = self.directory.join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Kills a process that serves the Hub's connections to a database: the server then ends all others and
    /// recovers.
    ///
    /// # Panics
    ///
    /// If it does not take connections, after an earlier crash for example.
    pub fn crash(&self, database: &str) {
        let one = "SELECT pid FROM pg_stat_activity
            WHERE application_name = 'ultra-hub' AND datname = current_database() LIMIT 1";
        let pid = self.psql_after_recovery(database, one);
        if !pid.is_empty() {
            // It may have ended meanwhile.
            let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status().unwrap();
        }
    }

    /// Runs a statement as soon as the server takes connections; returns what it printed.
    ///
    /// # Panics
    ///
    /// If it takes none within a minute.
    pub fn psql_after_recovery(&self, database: &str, sql: &str) -> String {
        for _ in 0..1200 {
            let output = self.run_psql(database, sql);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server does not recover");
    }

    /// Runs a statement as the owner of everything; returns what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let output = self.run_psql(database, sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn run_psql(&self, database: &str, sql: &str) -> std::process::Output {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "ultra"]);
        psql.args(["-h".as_ref(), self.directory.as_os_str(), "-d".as_ref(), database.as_ref()]);
        psql.args(["-p", &self.port.to_string(), "-c", sql]).output().unwrap()
    }
}

/// Copies a file for whoever runs the server, and for nobody else.
fn give(owner: Option<(u32, u32)>, source: &Path, target: &Path) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::copy(source, target).unwrap();
    std::fs::set_permissions(target, PermissionsExt::from_mode(0o600)).unwrap();
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(target, Some(uid), Some(gid)).unwrap();
    }
}

/// Starts the server and returns when it takes connections.
fn run(
    binaries: &Path,
    directory: &Path,
    data: &Path,
    owner: Option<(u32, u32)>,
    settings: &[String],
) {
    // Linux ends it with its parent; elsewhere it ends when its input is closed, which nobody does earlier.
    let mut server = if Path::new("/usr/bin/setpriv").exists() {
        let mut server = command(Path::new("/usr/bin/setpriv"), owner);
        server.args(["--pdeathsig", "TERM", "sh"]);
        server
    } else {
        command(Path::new("sh"), owner)
    };
    server.args(["-c", KEEPER, "sh"]).arg(directory).arg(binaries.join("postgres"));
    server.arg("-D").arg(data).arg("-k").arg(directory).args(["-c", "listen_addresses="]);
    server.args(["-c", "max_connections=200"]);
    for setting in settings {
        server.args(["-c", setting]);
    }
    server.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped());
    let (ready, wait) = mpsc::channel();
    // The death of the thread that started it counts as that of its parent: this one stays.
    std::thread::spawn(move || {
        let mut child = server.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while output.read_line(&mut said).is_ok_and(|bytes| bytes > 0) {
            if said.contains("database system is ready to accept connections") {
                let _ = ready.send(Ok(()));
                break;
            }
        }
        let _ = ready.send(Err(said));
        let _ = output.read_to_end(&mut Vec::new());
        let _ = child.wait();
    });
    wait.recv_timeout(START_MAX).unwrap().unwrap_or_else(|said| panic!("PostgreSQL: {said}"));
}

fn command(program: &Path, owner: Option<(u32, u32)>) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// Returns the directory with the programs of the newest version installed.
fn binaries() -> Option<PathBuf> {
    let mut places = Vec::new();
    for root in BINARIES {
        let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut versions: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        places.extend(versions.into_iter().rev());
    }
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let all = ["initdb", "postgres", "psql"];
    places.into_iter().find(|place| all.iter().all(|program| place.join(program).exists()))
}

/// PostgreSQL does not run as root: returns who it runs as then.
fn owner() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;

    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let user = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    user("postgres").or_else(|| user("nobody"))
}

fn unique() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
