//! One client on our stdin and stdout. Framing and shutdown; no method is known here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout};

use super::channel::{Channel, ReplyTo};
use super::modern::Senders;
use super::{Session, Setup};
use crate::mcp::modern::RequestMeta;
use crate::mcp::{Kind, Message, MessageError};
use crate::wire::{Line, LineReader, Outbox, Outlet as _};

/// When the client closed our input, open calls may take this long to finish.
const DRAIN_AFTER_EOF: Duration = Duration::from_secs(5);

/// And this long when we were told to terminate.
const DRAIN_AFTER_SIGNAL: Duration = Duration::from_secs(1);

/// A list of hundreds of tools fits: what the usual 64 KiB hold takes several wake-ups to pass.
const PIPE_BYTES: usize = 1 << 20;

/// The client may take this long to read what is left for it.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Serves the client until it closes our input or its own, or `setup.shutdown` is cancelled, and then
/// ends the upstreams.
pub async fn serve(setup: Setup) -> io::Result<()> {
    let mut lines = LineReader::new(input()?);
    let output = output()?;
    let outbox = Arc::new(Outbox::default());
    let (shutdown, stopping) = (setup.shutdown.clone(), setup.stopping.clone());
    let writing = tokio::spawn({
        let (outbox, shutdown) = (Arc::clone(&outbox), shutdown.clone());
        async move {
            if let Err(error) = outbox.write_to(output).await {
                tracing::info!(%error, "the client reads no more");
                shutdown.cancel();
            }
        }
    });
    let rush = Arc::clone(&setup.rush);
    let staying_awake = tokio::spawn({
        let rush = Arc::clone(&rush);
        async move { rush.stay_awake().await }
    });
    let client = Client::new(setup, Channel::Lines(Arc::clone(&outbox)));
    let cancelled = async {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = shutdown.cancelled() => {}
        }
    };
    tokio::pin!(cancelled);
    let grace = loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = &mut cancelled => break DRAIN_AFTER_SIGNAL,
        };
        match line {
            Ok(Some(line)) => {
                rush.line();
                client.line(line);
            }
            Ok(None) => {
                tracing::info!("the client closed the connection");
                break DRAIN_AFTER_EOF;
            }
            Err(error) => {
                tracing::error!(%error, "the client cannot be read");
                break Duration::ZERO;
            }
        }
    };
    staying_awake.abort();
    let deadline = Instant::now() + grace;
    client.senders.end(grace).await;
    // Last: with it end the upstreams of all.
    client.session.end(deadline.saturating_duration_since(Instant::now())).await;
    outbox.close();
    let _ = timeout(LAST_WRITE, writing).await;
    Ok(())
}

/// The client, in whichever era it talks: a session for what follows `initialize`, and none for
/// requests that say themselves whose they are.
struct Client {
    session: Arc<Session>,
    senders: Senders,
    reply_to: ReplyTo,
}

impl Client {
    fn new(setup: Setup, channel: Channel) -> Self {
        Self {
            session: Session::new(setup.clone(), channel.clone()),
            senders: Senders::new(setup, channel.clone()),
            reply_to: ReplyTo::Channel(channel),
        }
    }

    fn line(&self, line: Line) {
        let reply_to = self.reply_to.clone();
        let (error, text) = match line {
            Line::Text(text) => match Message::parse(text.clone()) {
                Ok(message) => return self.message(message, reply_to),
                Err(error) => (error, text),
            },
            Line::TooLong { head } => {
                (MessageError::Envelope("the message is longer than 64 MiB"), head)
            }
        };
        self.session.unreadable(&error, &text, &reply_to);
    }

    fn message(&self, message: Message, reply_to: ReplyTo) {
        match message.kind() {
            Kind::Request => match RequestMeta::of(&message) {
                Some(meta) => drop(self.senders.request(None, message, meta, reply_to)),
                None => self.session.message(message, reply_to),
            },
            Kind::Notification => {
                self.senders.notification(&message);
                self.session.message(message, reply_to);
            }
            Kind::Response => self.session.message(message, reply_to),
        }
    }
}

/// Returns our stdin. Pipes and sockets are read without a thread in between; a terminal or a file is
/// not, because the first would be made non-blocking for others and the second cannot be.
fn input() -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    Ok(match unshared(io::stdin())? {
        Some(file) => Box::new(pipe::Receiver::from_file_unchecked(file)?),
        None => Box::new(tokio::io::stdin()),
    })
}

/// Returns our stdout, as [`input`] does.
fn output() -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    Ok(match unshared(io::stdout())? {
        Some(file) => Box::new(pipe::Sender::from_file_unchecked(file)?),
        None => Box::new(tokio::io::stdout()),
    })
}

/// Returns a non-blocking handle if `stream` is a pipe or a socket.
fn unshared(stream: impl AsFd) -> io::Result<Option<File>> {
    let fd = stream.as_fd();
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo | FileType::Socket => {}
        _ => return Ok(None),
    }
    // Fails for a socket, and where the user has too many large pipes: then it stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(fd, PIPE_BYTES);
    rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    let owned: OwnedFd = fd.try_clone_to_owned()?;
    Ok(Some(File::from(owned)))
}
