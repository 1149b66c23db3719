//! Clients that use the same ids and progress tokens at the same time, and hear nothing of each other.
//!
//! Whatever a call says holds its secret, and everything heard for it must: results, progress, log,
//! questions. Half of the clients say the same of themselves, so that those of the modern era share their
//! connections to the servers.

mod client;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Client, Era, Messages, Wire};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use ultra_tests::{Ultra, process, program, session};

/// What is done next is drawn from this.
const SEED: u64 = 0x5eed;

/// Names of the clients of each era. Those with the same name differ in nothing that they say of themselves.
const NAMES: [&str; 4] = ["twin", "twin", "one", "other"];

/// Calls that a client has open at a time. Each of them keeps its id for ever, and every client has the same.
const IDS: u64 = 8;

/// So many calls are made under each of them: with both eras, 100,032 calls.
const CALLS_EACH: u64 = 1_563;

/// Which clients have a call open that can be cancelled, a bit for each, by the id.
type Open = [AtomicU64; IDS as usize];

#[tokio::test]
async fn nobody_hears_of_others_with_the_same_ids() {
    let (_old, old) = fixture("legacy").await;
    let (_new, new) = fixture("modern").await;
    let config = json!({
        "fake": {"command": program("fake-upstream"), "enabled": true},
        "old": {"url": old, "era": "legacy", "enabled": true},
        "new": {"url": new, "era": "modern", "enabled": true},
    });
    let ultra = Ultra::config(&format!("upstream: {config}\n"))
        .memory()
        .arg("--http")
        .arg("127.0.0.1:0")
        .start();
    let address = process::eventually("its address", session::PATIENCE, || {
        let said = ultra.stderr();
        let (_, rest) = said.split_once("listening on http://")?;
        rest.split_once("/mcp").map(|(address, _)| address.to_owned())
    })
    .await;

    let (open, logs) = (Arc::<Open>::default(), Arc::<AtomicU64>::default());
    let (mut workers, mut listeners) = (JoinSet::new(), JoinSet::new());
    for (number, (era, name)) in [Era::Legacy, Era::Modern]
        .into_iter()
        .flat_map(|era| NAMES.map(|name| (era, name)))
        .enumerate()
    {
        let client =
            Arc::new(Client::connect(&address, era, name, format!("secret-{number}/")).await);
        if era == Era::Legacy {
            listeners.spawn(listen(Arc::clone(&client), Arc::clone(&logs)));
        }
        for id in 0..IDS {
            let rng = SmallRng::seed_from_u64(SEED + number as u64 * IDS + id);
            workers.spawn(work(number, Arc::clone(&client), id, rng, Arc::clone(&open)));
        }
    }
    let mut done = Done::default();
    while let Some(worker) = workers.join_next().await {
        done.add(&worker.unwrap());
    }

    while let Some(listener) = listeners.try_join_next() {
        listener.unwrap();
    }
    done.logs += logs.load(Ordering::Relaxed);

    // What this is about has happened.
    for (count, what) in [
        (done.progress, "progress"),
        (done.logs, "log messages"),
        (done.questions, "questions"),
        (done.cancelled_besides, "calls cancelled while others had the same id open"),
    ] {
        assert!(count > 1_000, "only {count} {what}, with seed {SEED}");
    }
}

/// Starts the fixture behind HTTP, in one era.
async fn fixture(era: &str) -> (Child, String) {
    let mut command = Command::new(program("conformance-fixture"));
    command.args(["--era", era]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let port = line.strip_prefix("port=").unwrap();
    (child, format!("http://127.0.0.1:{port}/mcp"))
}

/// What happened.
#[derive(Debug, Default)]
struct Done {
    progress: u64,
    logs: u64,
    questions: u64,
    cancelled_besides: u64,
}

impl Done {
    fn add(&mut self, other: &Self) {
        self.progress += other.progress;
        self.logs += other.logs;
        self.questions += other.questions;
        self.cancelled_besides += other.cancelled_besides;
    }
}

/// Hears what belongs to no call, which is the log.
async fn listen(client: Arc<Client>, logs: Arc<AtomicU64>) {
    let mut wire = client.wire().await;
    let mut messages = wire.listen(&client).await;
    while let Some(message) = messages.next().await {
        let data = message["params"]["data"]["message"].as_str();
        match message["method"].as_str() {
            Some("notifications/message")
                if data.is_some_and(|data| data.starts_with(&client.secret)) =>
            {
                logs.fetch_add(1, Ordering::Relaxed);
            }
            Some(method) if method.ends_with("/list_changed") => {}
            _ => panic!("{} heard {message}, with seed {SEED}", client.secret),
        }
    }
}

/// Makes calls under one id.
async fn work(
    number: usize,
    client: Arc<Client>,
    id: u64,
    mut rng: SmallRng,
    open: Arc<Open>,
) -> Done {
    let (wire, other) = (client.wire().await, client.wire().await);
    let mut worker =
        Worker { client, id, wire, other, secret: String::new(), done: Done::default() };
    let bit = 1 << number;
    for call in 0..CALLS_EACH {
        worker.secret = format!("{}{id}/{call}", worker.client.secret);
        let is_open = &open[id as usize];
        is_open.fetch_or(bit, Ordering::Relaxed);
        match rng.random_range(0..100) {
            0..60 => worker.echo().await,
            60..80 => worker.slow(rng.random_range(0..4)).await,
            80..85 => worker.log().await,
            85..95 => worker.asked(["old", "new"][rng.random_range(0..2)]).await,
            _ => {
                worker.cancel().await;
                let others = is_open.load(Ordering::Relaxed) & !bit;
                worker.done.cancelled_besides += u64::from(others != 0);
            }
        }
        is_open.fetch_and(!bit, Ordering::Relaxed);
    }
    worker.done
}

/// Who makes one call after the other under one id.
struct Worker {
    client: Arc<Client>,
    id: u64,
    wire: Wire,
    /// For what is said while a call is open.
    other: Wire,
    /// Of the call that is open.
    secret: String,
    done: Done,
}

impl Worker {
    fn assert(&self, is_right: bool, what: &str, message: &Value) {
        assert!(is_right, "{} heard, {what}, with seed {SEED}: {message}", self.secret);
    }

    async fn echo(&mut self) {
        let arguments = json!({"secret": self.secret});
        let result = self.call("fake__echo", &arguments).await;
        self.assert(result["structuredContent"] == arguments, "as its echo", &result);
    }

    async fn slow(&mut self, ms: u64) {
        let arguments = json!({"message": self.secret, "ms": ms, "steps": 2});
        let result = self.call("fake__slow", &arguments).await;
        self.assert(result["structuredContent"]["slow"] == *self.secret, "as result", &result);
    }

    async fn log(&mut self) {
        let result = self.call("fake__log", &json!({"message": self.secret})).await;
        self.assert(result["structuredContent"] == json!({}), "as result", &result);
    }

    async fn asked(&mut self, server: &str) {
        let tool = format!("{server}__test_elicitation");
        let result = self.call(&tool, &json!({"message": self.secret})).await;
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        let expected = json!({"answer": self.secret}).to_string();
        self.assert(text.contains(&expected), "as what it had answered", &result);
    }

    /// Makes a call and returns its result.
    async fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let mut request = self.client.call(self.id, tool, arguments);
        loop {
            let mut messages = self.wire.request(&self.client, &request).await;
            let mut result = None;
            while let Some(mut message) = messages.next().await {
                if !self.hear(&message).await {
                    self.assert(message["id"] == self.id, "as response", &message);
                    self.assert(message["result"].is_object(), "as result", &message);
                    result = Some(message["result"].take());
                }
            }
            let Some(result) = result else {
                panic!("{} has no result, with seed {SEED}", self.secret)
            };
            if result["resultType"] != "input_required" {
                return result;
            }
            let questions = result["inputRequests"].as_object().unwrap();
            let answers = questions.iter().map(|(key, question)| {
                let message = &question["params"]["message"];
                self.assert(*message == *self.secret, "as question", &result);
                (key.clone(), answer(message))
            });
            request["params"]["inputResponses"] = answers.collect();
            request["params"]["requestState"] = result["requestState"].clone();
            if result["requestState"].is_null() {
                request["params"].as_object_mut().unwrap().remove("requestState");
            }
            self.done.questions += 1;
        }
    }

    /// Takes what comes before the response; false if this is it.
    async fn hear(&mut self, message: &Value) -> bool {
        let params = &message["params"];
        match message["method"].as_str() {
            None => return false,
            Some("notifications/progress") => {
                self.assert(params["progressToken"] == self.id, "as progress", message);
                self.assert(params["message"] == *self.secret, "as progress", message);
                self.done.progress += 1;
            }
            Some("notifications/message") => {
                self.assert(params["data"]["message"] == *self.secret, "as log", message);
                self.done.logs += 1;
            }
            Some("elicitation/create") => {
                self.assert(params["message"] == *self.secret, "as question", message);
                let result = answer(&params["message"]);
                let answered = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
                self.other.notify(&self.client, &answered).await;
                self.done.questions += 1;
            }
            Some(_) => self.assert(false, "unasked", message),
        }
        true
    }

    /// Makes a call that would last for ever, and cancels it when it has begun.
    async fn cancel(&mut self) {
        let arguments = json!({"message": self.secret, "ms": 3_600_000, "steps": 3_600_000});
        let request = self.client.call(self.id, "fake__slow", &arguments);
        let mut messages = self.wire.request(&self.client, &request).await;
        let begun = messages.next().await;
        let has_begun = match &begun {
            Some(message) => self.hear(message).await,
            None => false,
        };
        self.assert(has_begun, "instead of progress", &json!(begun));
        self.withdraw(messages).await;
    }

    async fn withdraw(&mut self, mut messages: Messages) {
        if self.client.era == Era::Modern {
            // Closing the response is how it is said.
            self.wire = self.client.wire().await;
            return;
        }
        let params = json!({"requestId": self.id});
        let cancelled =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        self.other.notify(&self.client, &cancelled).await;
        while let Some(message) = messages.next().await {
            let is_answer = !self.hear(&message).await;
            self.assert(!is_answer, "though it was cancelled", &message);
        }
    }
}

fn answer(question: &Value) -> Value {
    json!({"action": "accept", "content": {"answer": question}})
}
