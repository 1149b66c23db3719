//! `cargo xtask bench`: the same load, direct and through gateways, in one run.
//!
//! Client, gateway and upstream share the machine; every figure is of the whole machine but CPU time,
//! which is of the gateway's process alone and the one to compare between machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::shell::{cargo, exists, say, shell, target_dir};
use crate::toolchain;

/// Rounds of each measurement. Of latencies the median is taken, because a call is faster where the
/// scheduler happens to keep both processes on one core; of all else the best, because other load on
/// the machine only ever adds.
const ROUNDS: usize = 5;

/// The load measurements.
const LOADS: [Load; 4] = [
    Load { title: "1, all on one core", callers: 1, calls: 10_000, one_core: true },
    Load { title: "1", callers: 1, calls: 10_000, one_core: false },
    Load { title: "16", callers: 16, calls: 100_000, one_core: false },
    Load { title: "64", callers: 64, calls: 100_000, one_core: false },
];

/// Callers, and where they and everything else run.
struct Load {
    title: &'static str,
    callers: usize,
    calls: usize,
    one_core: bool,
}

/// A fleet as the figures to reach have it.
const FLEET_SERVERS: usize = 20;
const FLEET_TOOLS: usize = 25;
const FLEET_START_DELAY_MS: usize = 500;

/// The gateway that came closest when we measured, and how it is installed.
const RIVAL: &str = "mcp-proxy";
const RIVAL_VERSION: &str = "0.6.0";
const RIVAL_TITLE: &str = "mcp-proxy 0.6.0 (HTTP)";
const RIVAL_PORT: u16 = 39471;

/// Where the gateway listens for clients that come by HTTP, and the upstream behind HTTP.
const GATEWAY_PORT: u16 = 39472;
const UPSTREAM_PORT: u16 = 39473;

/// Plugins that are embedded.
const PLUGINS: [&str; 4] = ["trace", "logging", "audit", "metrics"];

/// Where programs and configs of this run are.
struct Bench {
    programs: PathBuf,
    dir: PathBuf,
}

/// One way to the upstream.
struct Route {
    title: &'static str,
    tool: &'static str,
    command: Command,
    url: Option<String>,
    /// What it needs besides.
    beside: Option<Command>,
    /// Whether it tells how many commits there were.
    commits: bool,
    /// Whether its client is of the modern era.
    modern: bool,
}

impl Route {
    fn new(title: &'static str, command: Command) -> Self {
        Self {
            title,
            tool: "fake__echo",
            command,
            url: None,
            beside: None,
            commits: false,
            modern: false,
        }
    }

    fn by_http(self, url: String) -> Self {
        Self { url: Some(url), ..self }
    }
}

/// A command with its environment.
#[derive(Clone)]
struct Command {
    env: Vec<String>,
    words: Vec<String>,
}

impl Command {
    fn of(program: String) -> Self {
        Self { env: Vec::new(), words: vec![program] }
    }
}

/// Figures by name, as `bench-client` prints them.
type Figures = BTreeMap<String, f64>;

/// Measures and prints a Markdown table for each group of figures.
pub(crate) fn run(rival: bool) -> anyhow::Result<()> {
    toolchain::ensure_wasm_target()?;
    say("building");
    let programs = ["ultra", "pipeline-cost", "bench-client", "fake-upstream"];
    let bins = programs.iter().flat_map(|name| ["--bin", name]);
    cargo().args(["build", "--profile", "dist", "--workspace"]).args(bins).run()?;
    if rival {
        install_rival()?;
    }
    let dir = target_dir().join("bench");
    if dir.exists() {
        fs::remove_dir_all(&dir).context("cannot clear the directory of the last run")?;
    }
    fs::create_dir_all(&dir)?;
    let bench = Bench { programs: target_dir().join("dist"), dir };

    let mut report = format!("Measured on {}.\n", machine());
    bench.pipeline(&mut report)?;
    bench.calls(&mut report, rival)?;
    bench.http_calls(&mut report)?;
    bench.launch(&mut report)?;
    bench.fleet(&mut report, rival)?;
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

impl Bench {
    /// What the four components cost a call, alone.
    fn pipeline(&self, report: &mut String) -> anyhow::Result<()> {
        say("pipeline");
        let program = self.program("pipeline-cost");
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|_| figures(&shell(program.clone()).read()?))
            .collect::<anyhow::Result<_>>()?;
        report.push_str(
            "\n### Four components, before and after, records queued\n\n\
             | Log | 1 KiB µs | 100 KiB µs | 5 MiB µs |\n|---|--:|--:|--:|\n",
        );
        for (title, name) in [("no line written", "quiet"), ("two lines a call", "logging")] {
            let us = |bytes: usize| lowest(&rounds, &format!("{name}_{bytes}_ns")) / 1000.0;
            writeln!(
                report,
                "| {title} | {:.2} | {:.2} | {:.2} |",
                us(1 << 10),
                us(100 << 10),
                us(5 << 20)
            )?;
        }
        Ok(())
    }

    /// Latency, throughput and CPU of calls with 1 KiB, on stdio.
    fn calls(&self, report: &mut String, rival: bool) -> anyhow::Result<()> {
        report.push_str("\n### `tools/call`, 1 KiB, one stdio upstream\n\n");
        self.load(report, &self.call_routes(rival)?, &LOADS)
    }

    /// The same, with HTTP on both sides.
    fn http_calls(&self, report: &mut String) -> anyhow::Result<()> {
        report.push_str("\n### `tools/call`, 1 KiB, Streamable HTTP in and out\n\n");
        self.load(report, &self.http_routes()?, &LOADS[1..])
    }

    fn load(&self, report: &mut String, routes: &[Route], loads: &[Load]) -> anyhow::Result<()> {
        report.push_str(
            "| Route | callers | p50 µs | p99 µs | calls/s | CPU µs a call | calls a commit | RSS MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for route in routes {
            for load in loads {
                say(&format!("{}, callers: {}", route.title, load.title));
                let mut args = vec!["calls".to_owned()];
                args.extend(["--callers".to_owned(), load.callers.to_string()]);
                args.extend(["--calls".to_owned(), load.calls.to_string()]);
                args.extend(["--tool".to_owned(), route.tool.to_owned()]);
                if load.one_core {
                    args.push("--one-core".to_owned());
                }
                if route.modern {
                    args.push("--modern".to_owned());
                }
                if route.commits {
                    args.extend(["--status".to_owned(), "ultra_status".to_owned()]);
                }
                let rounds: Vec<_> = (0..ROUNDS)
                    .map(|_| self.measure(&args, route))
                    .collect::<anyhow::Result<_>>()?;
                writeln!(
                    report,
                    "| {} | {} | {:.0} | {:.0} | {:.0} | {:.1} | {} | {:.1} |",
                    route.title,
                    load.title,
                    median(&rounds, "p50_us"),
                    median(&rounds, "p99_us"),
                    highest(&rounds, "calls_per_s"),
                    lowest(&rounds, "cpu_us_per_call"),
                    per_commit(highest(&rounds, "calls_per_commit")),
                    lowest(&rounds, "rss_mib"),
                )?;
            }
        }
        Ok(())
    }

    /// Routes whose client and whose upstream speak HTTP.
    fn http_routes(&self) -> anyhow::Result<Vec<Route>> {
        let upstream = Command {
            env: Vec::new(),
            words: vec![
                self.program("fake-upstream"),
                "--http".to_owned(),
                UPSTREAM_PORT.to_string(),
            ],
        };
        let none = format!("plugins:\n  disabled: [{}]\n", PLUGINS.join(", "));
        let fake = format!(
            "upstream:\n  fake:\n    url: http://127.0.0.1:{UPSTREAM_PORT}/mcp\n    enabled: true\n"
        );
        let memory = "storage:\n  backend: memory\n";
        let sqlite = format!("storage:\n{}", self.sqlite("http-sqlite"));
        let gateway = |title, name, config: String| {
            let mut command = self.ultra(name, &config)?;
            command.words.extend(["--http".to_owned(), format!("127.0.0.1:{GATEWAY_PORT}")]);
            let route =
                Route::new(title, command).by_http(format!("http://127.0.0.1:{GATEWAY_PORT}/mcp"));
            anyhow::Ok(Route { beside: Some(upstream.clone()), ..route })
        };
        let direct = Route::new("direct", upstream.clone())
            .by_http(format!("http://127.0.0.1:{UPSTREAM_PORT}/mcp"));
        Ok(vec![
            Route { tool: "echo", ..direct },
            gateway("Ultra, empty pipeline", "http-empty", format!("{none}{fake}{memory}"))?,
            gateway("Ultra, four components, memory", "http-memory", format!("{fake}{memory}"))?,
            gateway(
                "Ultra, four components, SQLite, durable audit",
                "http-sqlite",
                format!("{fake}{sqlite}"),
            )?,
        ])
    }

    fn call_routes(&self, rival: bool) -> anyhow::Result<Vec<Route>> {
        let fake = self.program("fake-upstream");
        let upstream = self.upstream("fake", &[]);
        let none = format!("plugins:\n  disabled: [{}]\n", PLUGINS.join(", "));
        let direct = Route { tool: "echo", ..Route::new("direct", Command::of(fake)) };
        let empty = format!("{none}{upstream}storage:\n  backend: memory\n");
        let memory = format!("{upstream}storage:\n  backend: memory\n");
        let sqlite = format!("{upstream}storage:\n{}", self.sqlite("sqlite"));
        let mut routes = vec![
            direct,
            Route::new("Ultra, empty pipeline", self.ultra("empty", &empty)?),
            Route::new("Ultra, four components, memory", self.ultra("memory", &memory)?),
            Route {
                modern: true,
                ..Route::new(
                    "the same, a client of 2026-07-28 on the same server",
                    self.ultra("modern", &memory)?,
                )
            },
            Route {
                commits: true,
                ..Route::new(
                    "Ultra, four components, SQLite, durable audit",
                    self.ultra("sqlite", &sqlite)?,
                )
            },
        ];
        if rival {
            let command = self.rival("calls", &self.rival_backend("fake", &[]))?;
            routes.push(Route::new(RIVAL_TITLE, command).by_http(rival_url()));
        }
        Ok(routes)
    }

    /// From the start to the answer of `initialize`.
    fn launch(&self, report: &mut String) -> anyhow::Result<()> {
        report.push_str(
            "\n### Launch to the answer of `initialize`\n\n\
             | Route | code cache | min ms | p50 ms | max ms | RSS MiB |\n|---|---|--:|--:|--:|--:|\n",
        );
        let config = format!("{}storage:\n{}", self.upstream("fake", &[]), self.sqlite("launch"));
        let route = Route::new("Ultra, four components", self.ultra("launch", &config)?);
        let cache = self.dir.join("launch/cache");
        let cold = ["--runs".to_owned(), "10".to_owned(), "--clear".to_owned(), text(&cache)];
        let warm = ["--runs".to_owned(), "40".to_owned()];
        // Cold first: it leaves the cache that the warm runs find.
        for (title, args) in [("cold", cold.as_slice()), ("warm", warm.as_slice())] {
            say(&format!("launch, {title}"));
            let mut all = vec!["launch".to_owned()];
            all.extend_from_slice(args);
            let figures = self.measure(&all, &route)?;
            writeln!(
                report,
                "| {} | {title} | {:.1} | {:.1} | {:.1} | {:.1} |",
                route.title,
                figure(&figures, "min_ms"),
                figure(&figures, "p50_ms"),
                figure(&figures, "max_ms"),
                figure(&figures, "rss_mib"),
            )?;
        }
        Ok(())
    }

    /// Lists of tools of many slow servers.
    fn fleet(&self, report: &mut String, rival: bool) -> anyhow::Result<()> {
        write!(
            report,
            "\n### {} tools from {FLEET_SERVERS} servers that take {FLEET_START_DELAY_MS} ms to start\n\n\
             | Route | first list ms | tools in it | full list ms | later list p50 µs | CPU µs | RSS MiB |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
            FLEET_SERVERS * FLEET_TOOLS,
        )?;
        let args: Vec<String> = [
            "--bare",
            "--tools",
            &FLEET_TOOLS.to_string(),
            "--start-delay-ms",
            &FLEET_START_DELAY_MS.to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        let names: Vec<_> = (0..FLEET_SERVERS).map(|number| format!("server{number:02}")).collect();

        let upstreams: String = names.iter().map(|name| self.upstream_entry(name, &args)).collect();
        let config = format!("upstream:\n{upstreams}storage:\n{}", self.sqlite("fleet"));
        let command = self.ultra("fleet", &config)?;
        // The first run fills the catalogue that the second one remembers.
        let mut routes = vec![
            Route::new("Ultra, first start ever", command.clone()),
            Route::new("Ultra, from the remembered catalogue", command),
        ];
        if rival {
            let backends: String =
                names.iter().map(|name| self.rival_backend(name, &args)).collect();
            routes.push(
                Route::new(RIVAL_TITLE, self.rival("fleet", &backends)?).by_http(rival_url()),
            );
        }
        for route in routes {
            say(&format!("fleet, {}", route.title));
            let runs = if route.url.is_some() { 200 } else { 2000 };
            let mut args = vec!["lists".to_owned(), "--runs".to_owned(), runs.to_string()];
            args.extend(["--tools".to_owned(), (FLEET_SERVERS * FLEET_TOOLS).to_string()]);
            let figures = self.measure(&args, &route)?;
            writeln!(
                report,
                "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
                route.title,
                figure(&figures, "first_ms"),
                figure(&figures, "first_tools"),
                figure(&figures, "full_ms"),
                figure(&figures, "p50_us"),
                figure(&figures, "cpu_us_per_list"),
                figure(&figures, "rss_mib"),
            )?;
        }
        Ok(())
    }

    /// Runs `bench-client` on a route.
    fn measure(&self, args: &[String], route: &Route) -> anyhow::Result<Figures> {
        let _beside = route.beside.as_ref().map(Beside::start).transpose()?;
        let mut command = shell(self.program("bench-client")).args(args);
        if let Some(url) = &route.url {
            command = command.args(["--url", url]);
        }
        for variable in &route.command.env {
            command = command.args(["--env", variable]);
        }
        figures(&command.arg("--").args(&route.command.words).read()?)
    }

    fn program(&self, name: &str) -> String {
        text(&self.programs.join(name))
    }

    /// Returns a command that runs Ultra with this config, in a home directory of its own.
    fn ultra(&self, name: &str, config: &str) -> anyhow::Result<Command> {
        let home = self.dir.join(name);
        fs::create_dir_all(&home)?;
        let file = home.join("config.yaml");
        fs::write(&file, format!("server:\n  log_level: error\n{config}"))?;
        let variables = [
            ("HOME", home.clone()),
            ("XDG_CONFIG_HOME", home.join("config")),
            ("XDG_CACHE_HOME", home.join("cache")),
            ("XDG_DATA_HOME", home.join("data")),
        ];
        Ok(Command {
            env: variables.iter().map(|(name, path)| format!("{name}={}", text(path))).collect(),
            words: vec![
                self.program("ultra"),
                "start".to_owned(),
                "--config".to_owned(),
                text(&file),
            ],
        })
    }

    fn sqlite(&self, name: &str) -> String {
        format!("  backend: sqlite\n  path: {:?}\n", text(&self.dir.join(name).join("ultra.db")))
    }

    fn upstream(&self, name: &str, args: &[String]) -> String {
        format!("upstream:\n{}", self.upstream_entry(name, args))
    }

    fn upstream_entry(&self, name: &str, args: &[String]) -> String {
        let program = self.program("fake-upstream");
        format!("  {name}:\n    command: {program:?}\n    args: {args:?}\n    enabled: true\n")
    }

    fn rival_backend(&self, name: &str, args: &[String]) -> String {
        let program = self.program("fake-upstream");
        format!(
            "[[backends]]\nname = {name:?}\ntransport = \"stdio\"\ncommand = {program:?}\nargs = {args:?}\n\n"
        )
    }

    fn rival(&self, name: &str, backends: &str) -> anyhow::Result<Command> {
        let file = self.dir.join(format!("rival-{name}.toml"));
        let config = format!(
            "[proxy]\nname = \"rival\"\nseparator = \"__\"\n\n[proxy.listen]\nhost = \"127.0.0.1\"\nport = {RIVAL_PORT}\n\n\
             [observability]\nlog_level = \"error\"\n\n{backends}"
        );
        fs::write(&file, config)?;
        Ok(Command {
            env: vec!["RUST_LOG=error".to_owned()],
            words: vec![text(&rival_program()), "--config".to_owned(), text(&file)],
        })
    }
}

/// A process that a route needs besides what is measured; ended when dropped.
struct Beside(std::process::Child);

impl Beside {
    fn start(command: &Command) -> anyhow::Result<Self> {
        let (program, args) = command.words.split_first().context("no program")?;
        let child = std::process::Command::new(program).args(args).spawn();
        Ok(Self(child.with_context(|| format!("cannot run `{program}`"))?))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn install_rival() -> anyhow::Result<()> {
    if exists(&text(&rival_program())) {
        return Ok(());
    }
    say(&format!("installing {RIVAL} {RIVAL_VERSION}"));
    cargo()
        .args(["install", RIVAL, "--version", RIVAL_VERSION, "--locked", "--root"])
        .arg(target_dir().join("rivals"))
        .run()
}

fn rival_program() -> PathBuf {
    target_dir().join("rivals/bin").join(RIVAL)
}

fn rival_url() -> String {
    format!("http://127.0.0.1:{RIVAL_PORT}/")
}

fn figure(figures: &Figures, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(f64::NAN)
}

/// Reads lines of `name=value`.
fn figures(output: &str) -> anyhow::Result<Figures> {
    output
        .lines()
        .map(|line| {
            let (name, value) =
                line.split_once('=').with_context(|| format!("no figure: `{line}`"))?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

fn lowest(rounds: &[Figures], name: &str) -> f64 {
    rounds.iter().map(|figures| figure(figures, name)).fold(f64::INFINITY, f64::min)
}

fn median(rounds: &[Figures], name: &str) -> f64 {
    let mut figures: Vec<_> = rounds.iter().map(|figures| figure(figures, name)).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn highest(rounds: &[Figures], name: &str) -> f64 {
    rounds.iter().map(|figures| figure(figures, name)).fold(0.0, f64::max)
}

/// A route without durable records has no commits to show.
fn per_commit(calls: f64) -> String {
    if calls > 0.0 { format!("{calls:.1}") } else { "–".to_owned() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Returns what the machine says about itself.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("an unknown processor", |(_, model)| model.trim());
    format!("{cores} cores, {model}, {ROUNDS} rounds")
}
