//! A real browser: Chromium, told what to do by `tests/clients/browser.mjs`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::servers;

/// The driver gives a page 20 seconds for anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// Where distributions put it.
const CHROMIUM: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// A browser with one page. It ends when this is dropped.
pub struct Browser {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Browser {
    /// Starts one; none if Chromium or its driver is not installed, which is said aloud.
    ///
    /// # Panics
    ///
    /// As none, if `CI` is `true`: there, a skipped test is a failed one.
    pub fn start() -> Option<Self> {
        let Some(chromium) = CHROMIUM.iter().map(Path::new).find(|path| path.exists()) else {
            servers::missing("Chromium is not installed, such as with `apt-get install chromium`");
            return None;
        };
        let driver = servers::find_at("puppeteer-core", &["browser/node_modules/puppeteer-core"])?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/browser.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(modules(&driver))
            .arg(chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("its stdout is a pipe");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Some(Self { child, input, answers })
    }

    /// Does something, and returns what came of it.
    ///
    /// # Panics
    ///
    /// If the page does not do it in time.
    pub fn tell(&mut self, command: &str, rest: Value) -> Value {
        let mut line = rest;
        line["command"] = command.into();
        let input = self.input.as_mut().expect("it is taken at the end only");
        writeln!(input, "{line}").expect("the browser's driver reads");
        let answer =
            self.answers.recv_timeout(ANSWER_TIMEOUT).expect("the browser's driver answers");
        let mut answer: Value = serde_json::from_str(&answer).expect("an answer is JSON");
        if let Some(error) = answer["error"].as_str() {
            panic!("the browser: {error}");
        }
        answer["ok"].take()
    }

    /// Opens a page; returns its status.
    pub fn open(&mut self, url: &str) -> u64 {
        self.tell("open", json!({"url": url}))["status"].as_u64().unwrap_or_default()
    }

    /// Clicks, and stays on the page.
    pub fn click(&mut self, selector: &str) {
        self.tell("click", json!({"selector": selector}));
    }

    /// Clicks, and waits for the page it leads to; returns its address.
    pub fn follow(&mut self, selector: &str) -> String {
        let answer = self.tell("follow", json!({"selector": selector}));
        answer["url"].as_str().unwrap_or_default().to_owned()
    }

    /// Writes into a field.
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.tell("fill", json!({"selector": selector, "text": text}));
    }

    /// Chooses from a list.
    pub fn choose(&mut self, selector: &str, value: &str) {
        self.tell("choose", json!({"selector": selector, "value": value}));
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        self.tell("press", json!({"key": key}));
    }

    /// Waits until an element has this text somewhere.
    pub fn wait(&mut self, selector: &str, text: &str) {
        self.tell("wait", json!({"selector": selector, "text": text}));
    }

    /// Returns the texts of elements, as they are seen.
    pub fn text(&mut self, selector: &str) -> Vec<String> {
        let texts = self.tell("text", json!({"selector": selector}));
        serde_json::from_value(texts).expect("a list of texts")
    }

    /// Returns where the page is.
    pub fn url(&mut self) -> String {
        self.tell("url", json!({})).as_str().unwrap_or_default().to_owned()
    }

    /// Sets the size of the window, and whether the system is dark.
    pub fn screen(&mut self, width: u32, height: u32, dark: bool) {
        self.tell("screen", json!({"width": width, "height": height, "dark": dark}));
    }

    /// Takes a picture, to be looked at, below `target/screenshots`.
    pub fn screenshot(&mut self, name: &str) {
        let directory = servers::screenshots();
        std::fs::create_dir_all(&directory).expect("a directory for screenshots");
        let path = directory.join(format!("{name}.png"));
        self.tell("screenshot", json!({"path": path, "full": false}));
    }

    /// Returns what the page complained about: errors of scripts, refused content, dialogs.
    pub fn noise(&mut self) -> Vec<String> {
        let noise = self.tell("noise", json!({}));
        serde_json::from_value(noise).expect("a list of texts")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes the browser at the end of its input.
        self.input.take();
        let _ = self.child.wait();
    }
}

fn modules(driver: &Path) -> PathBuf {
    driver.parent().map(Path::to_path_buf).unwrap_or_default()
}
