//! The same server on stdin and stdout: one client, and one session if it shakes hands.

use std::sync::Arc;

use anyhow::ensure;
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use crate::calls::Calls;
use crate::legacy;
use crate::modern;
use crate::rpc::{self, Fault, Incoming, Request};
use crate::server::{Eras, Server};
use crate::session::Session;
use crate::sink::Sink;
use crate::stream::Begin;

/// A line may be this long.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Lines that wait for a slow reader.
const QUEUED_MAX: usize = 16;

/// Serves until the end of input.
pub(crate) async fn serve(server: Arc<Server>) -> anyhow::Result<()> {
    let (queue, lines) = mpsc::channel(QUEUED_MAX);
    let writer = tokio::spawn(write(lines));
    let mut client =
        Client { server, sink: Sink::lines(queue), session: None, calls: Calls::default() };
    let mut stdin = BufReader::new(tokio::io::stdin());
    loop {
        let mut line = Vec::new();
        if (&mut stdin).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            break;
        }
        ensure!(line.ends_with(b"\n"), "a line is too long or has no end");
        client.receive(&line).await;
    }
    client.calls.cancel_all();
    // The writer ends when nobody can write any more.
    drop(client);
    writer.await??;
    Ok(())
}

async fn write(mut lines: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    let mut stdout = tokio::io::stdout();
    while let Some(line) = lines.recv().await {
        stdout.write_all(&line).await?;
        stdout.flush().await?;
    }
    Ok(())
}

/// The client at the other end.
struct Client {
    server: Arc<Server>,
    sink: Sink,
    /// Since `initialize`.
    session: Option<Arc<Session>>,
    calls: Calls,
}

impl Client {
    async fn receive(&mut self, line: &[u8]) {
        match Incoming::parse(line) {
            Ok(Incoming::Request(request)) => {
                let id = request.id.clone();
                if let Err(fault) = self.request(request).await {
                    self.sink.message(&fault.response(Some(id))).await;
                }
            }
            Ok(Incoming::Notification { method, params }) => {
                if let ("notifications/cancelled", Some(id)) = (&*method, params.get("requestId")) {
                    self.calls.cancel(id);
                }
            }
            Ok(Incoming::Response { id, answer }) => {
                if let Some(session) = &self.session {
                    session.answered(&id, answer);
                }
            }
            Err(fault) => {
                self.sink.message(&fault.response(None)).await;
            }
        }
    }

    async fn request(&mut self, request: Request) -> Result<(), Fault> {
        let (server, sink) = (Arc::clone(&self.server), self.sink.clone());
        let id = request.id.clone();
        let is_modern = match server.eras {
            Eras::Both => modern::names_revision(&request),
            Eras::Legacy => false,
            Eras::Modern => true,
        };
        if is_modern {
            return self.calls.spawn(&id, modern::answer_on(server, request, sink));
        }
        if request.method == "initialize" {
            return self.initialize(&request).await;
        }
        // As older servers answer a probe for newer ones.
        let session =
            self.session.clone().ok_or_else(|| Fault::method_not_found(&request.method))?;
        let stream = session.open_stream();
        let said = Arc::clone(&stream).follow(Begin::Start, false, sink);
        let work = legacy::work(server, session, stream, request);
        self.calls.spawn(&id, async {
            tokio::join!(work, said);
        })
    }

    async fn initialize(&mut self, request: &Request) -> Result<(), Fault> {
        let (session, result) = legacy::shake_hands(request)?;
        let session = Arc::new(session);
        self.sink.message(&rpc::result(request.id.clone(), result)).await;
        let changes =
            legacy::changes(self.server.changes(), Arc::clone(&session), self.sink.clone());
        self.session = Some(session);
        // No request has this id.
        self.calls.spawn(&Value::Null, changes)
    }
}
