//! A Hub that takes, loses, refuses, waits or forgets as it is told.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use ultra_hub::wire::{
    Acknowledgement, BATCH_RECORDS_MAX, BATCH_SENT_BYTES_MAX, BatchHead, Heartbeat, HeartbeatReply,
    RecordKind, Span, StreamState,
};

use crate::lock;

/// What a gateway must show.
pub(super) const SECRET: &str = "ugw_secret";

/// Whatever is awaited comes sooner, unless it never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(super) enum Behaviour {
    Take,
    /// Takes it, and the answer gets lost.
    LoseAnswer,
    /// Breaks the connection.
    Break,
    /// Never answers.
    Hang,
    /// Status, error and seconds of `Retry-After`.
    Refuse(u16, &'static str, Option<u32>),
    /// Wants gaps filled first.
    GapsFirst,
    /// Does not say that it has what it took.
    Deny,
    /// Refuses batches with more bytes, before they are compressed.
    AtMost(usize),
}

/// What a Hub has.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    streams: HashMap<(String, RecordKind), Vec<i64>>,
    /// By their ids.
    pub(super) records: HashMap<String, Value>,
    pub(super) lost: Vec<(RecordKind, Span)>,
}

/// What a Hub has, and what it was asked.
#[derive(Debug)]
pub(super) struct State {
    pub(super) kept: Kept,
    pub(super) beats: Vec<Heartbeat>,
    /// When they came.
    pub(super) beaten: Vec<Instant>,
    /// Batches, and when they came.
    pub(super) batches: Vec<(BatchHead, Instant)>,
    /// Records that came and were there already.
    pub(super) repeated: usize,
    /// What becomes of the next batches, and of those after them.
    pub(super) next: VecDeque<Behaviour>,
    pub(super) records: Behaviour,
    pub(super) heartbeats: Behaviour,
}

/// A Hub that ends with its runtime.
#[derive(Clone)]
pub(super) struct Hub {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    /// A batch needs one to be taken.
    pub(super) permits: Arc<Semaphore>,
}

impl Hub {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                kept: Kept::default(),
                beats: Vec::new(),
                beaten: Vec::new(),
                batches: Vec::new(),
                repeated: 0,
                next: VecDeque::new(),
                records: Behaviour::Take,
                heartbeats: Behaviour::Take,
            })),
            changed: watch::Sender::new(()),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let serving = hub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hub = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| hub.clone().answer(request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        hub
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at the state, or changes it.
    pub(super) fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let result = with(&mut lock(&self.state));
        self.changed.send_replace(());
        result
    }

    /// Waits for a state.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                if is_so(&lock(&self.state)) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("{what}: not within {PATIENCE:?}");
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let path = request.uri().path().to_owned();
        let shown = request.headers().get(header::AUTHORIZATION).cloned();
        let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        if shown.is_none_or(|shown| shown != format!("Bearer {SECRET}")) {
            return Ok(problem(401, "unauthorized", None, None));
        }
        let answer = match path.as_str() {
            "/api/v1/heartbeat" => self.heartbeat(&body),
            "/api/v1/records" => {
                self.permits.acquire().await.unwrap().forget();
                self.records(&body)
            }
            path => panic!("{path}"),
        };
        self.changed.send_replace(());
        match answer {
            Some(answer) => Ok(answer?),
            None => std::future::pending().await,
        }
    }

    /// Returns nothing if there will be no answer, and an error if the connection breaks.
    fn heartbeat(&self, body: &[u8]) -> Option<Result<Response<Full<Bytes>>, std::io::Error>> {
        let mut state = lock(&self.state);
        let heartbeat: Heartbeat = serde_json::from_slice(body).unwrap();
        let database = heartbeat.database.clone();
        state.beats.push(heartbeat);
        state.beaten.push(Instant::now());
        match state.heartbeats.clone() {
            Behaviour::Break => return Some(Err(std::io::Error::other("broken"))),
            Behaviour::Hang => return None,
            Behaviour::Refuse(status, error, retry) => {
                return Some(Ok(problem(status, error, retry, None)));
            }
            _ => {}
        }
        let streams = state.kept.streams.iter().filter(|((of, _), _)| *of == database);
        let streams = streams.map(|((database, kind), numbers)| StreamState {
            database: database.clone(),
            kind: *kind,
            spans: spans(numbers),
        });
        Some(Ok(answer(200, &json!(HeartbeatReply { streams: streams.collect() }))))
    }

    fn records(&self, body: &[u8]) -> Option<Result<Response<Full<Bytes>>, std::io::Error>> {
        assert!(body.len() <= BATCH_SENT_BYTES_MAX);
        let plain = zstd::bulk::decompress(body, 16 << 20).unwrap();
        let (head, lines) = plain.split_at(plain.iter().position(|byte| *byte == b'\n').unwrap());
        let head: BatchHead = serde_json::from_slice(head).unwrap();
        let lines: Vec<Value> = std::str::from_utf8(lines)
            .unwrap()
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len() as u64, head.count);
        assert!(head.count <= BATCH_RECORDS_MAX && head.first >= 1 && head.database.len() == 32);

        let mut state = lock(&self.state);
        state.batches.push((head.clone(), Instant::now()));
        let behaviour = state.next.pop_front().unwrap_or_else(|| state.records.clone());
        let had = state.kept.spans(&head);
        match behaviour {
            Behaviour::Break => return Some(Err(std::io::Error::other("broken"))),
            Behaviour::Hang => return None,
            Behaviour::Refuse(status, error, retry) => {
                return Some(Ok(problem(status, error, retry, None)));
            }
            Behaviour::GapsFirst => return Some(Ok(problem(409, "gaps_first", None, Some(had)))),
            Behaviour::AtMost(bytes_max) if plain.len() > bytes_max => {
                return Some(Ok(problem(413, "too_large", None, None)));
            }
            Behaviour::AtMost(_) | Behaviour::Take | Behaviour::LoseAnswer | Behaviour::Deny => {}
        }
        let repeated = state.kept.take(&head, lines);
        state.repeated += repeated;
        let spans = match behaviour {
            Behaviour::LoseAnswer => return Some(Err(std::io::Error::other("lost"))),
            Behaviour::Deny => had,
            _ => state.kept.spans(&head),
        };
        Some(Ok(answer(200, &json!(Acknowledgement { spans, rejected: 0 }))))
    }
}

impl Kept {
    /// Says that the Hub has these numbers from the beginning.
    pub(super) fn has_before(&mut self, database: &str, kind: RecordKind, last: i64) {
        self.streams.insert((database.to_owned(), kind), (1..=last).collect());
    }

    /// Returns the numbers of the records of a kind, in order.
    pub(super) fn seqs(&self, kind: RecordKind) -> Vec<i64> {
        let is_trace = |record: &&Value| record.get("operation").is_some();
        let of_kind = |record: &&Value| is_trace(record) == (kind == RecordKind::Traces);
        let seq = |record: &Value| record["seq"].as_i64().unwrap();
        let mut seqs: Vec<_> = self.records.values().filter(of_kind).map(seq).collect();
        seqs.sort_unstable();
        seqs
    }

    fn spans(&self, head: &BatchHead) -> Vec<Span> {
        let numbers = self.streams.get(&(head.database.clone(), head.kind));
        numbers.map(|numbers| spans(numbers)).unwrap_or_default()
    }

    /// Takes what is not there yet, and returns how many of the others there were.
    fn take(&mut self, head: &BatchHead, lines: Vec<Value>) -> usize {
        let numbers = self.streams.entry((head.database.clone(), head.kind)).or_default();
        let mut repeated = 0;
        for (seq, line) in (head.first..).zip(lines) {
            assert_eq!(line["seq"], seq);
            let id = line["id"].as_str().unwrap().to_owned();
            let is_there = numbers.binary_search(&seq).is_ok() || self.records.contains_key(&id);
            if is_there {
                repeated += 1;
            } else {
                self.records.insert(id, line);
            }
            insert(numbers, seq);
        }
        for (first, last) in &head.lost {
            self.lost.push((head.kind, (*first, *last)));
            (*first..=*last).for_each(|seq| insert(numbers, seq));
        }
        repeated
    }
}

fn insert(numbers: &mut Vec<i64>, seq: i64) {
    if let Err(at) = numbers.binary_search(&seq) {
        numbers.insert(at, seq);
    }
}

fn spans(numbers: &[i64]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => spans.push((*number, *number)),
        }
    }
    spans
}

fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    Response::builder().status(status).body(body).unwrap()
}

fn problem(
    status: u16,
    error: &str,
    retry_after: Option<u32>,
    spans: Option<Vec<Span>>,
) -> Response<Full<Bytes>> {
    let message = "because the test says so";
    let mut answer = answer(status, &json!({ "error": error, "message": message, "spans": spans }));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}
