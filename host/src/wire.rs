//! Lines in, lines out: the framing of MCP over stdio, with its limits. No method is known here.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::sync::Mutex;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// A message may be this long. Base64 images of 10 MB are common, and everything on the path is
/// linear in it.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Of a line that is too long, so much is kept to find its id in.
const HEAD_BYTES: usize = 4096;

/// Read at least so much at a time: what a Linux pipe holds.
const READ_BYTES: usize = 64 << 10;

/// A piece this long is queued as it is; a shorter one is copied to the others, which costs less
/// than a part of a vectored write.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// One line, or what is left of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its line feed.
    Text(Bytes),
    /// Longer than [`LINE_BYTES_MAX`]; read and thrown away.
    TooLong {
        /// The beginning.
        head: Bytes,
    },
}

/// Reads lines.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    buffer: BytesMut,
    /// No line feed in the buffer before this.
    searched: usize,
    limit: usize,
    /// The beginning of the over-long line that is being thrown away.
    skipping: Option<Bytes>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Returns a reader of lines up to [`LINE_BYTES_MAX`].
    pub fn new(reader: R) -> Self {
        Self::with_limit(reader, LINE_BYTES_MAX)
    }

    fn with_limit(reader: R, limit: usize) -> Self {
        Self { reader, buffer: BytesMut::new(), searched: 0, limit, skipping: None, ended: false }
    }

    /// Returns the next line that is not empty, `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
                self.buffer.reserve(READ_BYTES);
            }
            self.ended = self.reader.read_buf(&mut self.buffer).await? == 0;
        }
    }

    /// Takes a line that has been read whole.
    fn take(&mut self) -> Option<Line> {
        loop {
            let end = memchr::memchr(b'\n', &self.buffer[self.searched..])
                .map(|found| self.searched + found);
            let Some(end) =
                end.or((self.ended && !self.buffer.is_empty()).then_some(self.buffer.len()))
            else {
                self.searched = self.buffer.len();
                if self.searched > self.limit && self.skipping.is_none() {
                    self.skipping = Some(Bytes::copy_from_slice(&self.buffer[..HEAD_BYTES]));
                }
                if self.skipping.is_some() {
                    self.buffer.clear();
                    self.searched = 0;
                }
                return None;
            };
            let mut line = self.buffer.split_to(end);
            if !self.buffer.is_empty() {
                self.buffer.advance(1);
            }
            self.searched = 0;
            if let Some(head) = self.skipping.take() {
                return Some(Line::TooLong { head });
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.limit {
                return Some(Line::TooLong {
                    head: Bytes::copy_from_slice(&line[..HEAD_BYTES.min(line.len())]),
                });
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Line::Text(line.freeze()));
            }
        }
    }
}

/// Why a line was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// The peer does not read, or too slowly.
    Full,
    /// The peer is gone.
    Closed,
}

/// The way to a peer.
pub trait Outlet: std::fmt::Debug + Send + Sync {
    /// Queues one message, in pieces, its line feed included.
    fn push(&self, line: &[Bytes]) -> Result<(), NotQueued>;

    /// Takes no more.
    fn close(&self);
}

/// Lines on their way to a peer: queued by many, written by one task.
///
/// Everything queued while the task was busy leaves in one write.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// Short pieces behind the others, in one.
    tail: BytesMut,
    bytes: usize,
    closed: bool,
}

impl Outbox {
    /// A queue with this many bytes takes no more. One message always fits.
    const BYTES_MAX: usize = LINE_BYTES_MAX;

    /// A reader whose messages end up here should stop reading above this, see [`Outbox::drained`].
    const BYTES_HIGH: usize = 4 << 20;

    /// Waits until the peer has read most of what is queued.
    pub async fn drained(&self) {
        while !self.is_drained() {
            let notified = self.drained.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.is_drained() {
                notified.await;
            }
        }
    }

    fn is_drained(&self) -> bool {
        let queue = self.lock();
        queue.closed || queue.bytes <= Self::BYTES_HIGH
    }

    /// Writes what is queued until it is closed or an error.
    pub async fn write_to<W: AsyncWrite + Unpin>(&self, mut writer: W) -> io::Result<()> {
        let result = self.write_all(&mut writer).await;
        let mut queue = self.lock();
        *queue = Queue { closed: true, ..Queue::default() };
        drop(queue);
        self.drained.notify_waiters();
        result
    }

    async fn write_all<W: AsyncWrite + Unpin>(&self, writer: &mut W) -> io::Result<()> {
        let mut pieces = VecDeque::new();
        loop {
            let closed = {
                let mut queue = self.lock();
                pieces.append(&mut queue.pieces);
                let tail = queue.tail.split().freeze();
                pieces.extend((!tail.is_empty()).then_some(tail));
                queue.closed
            };
            if pieces.is_empty() {
                if closed {
                    return writer.flush().await;
                }
                self.filled.notified().await;
                continue;
            }
            while !pieces.is_empty() {
                let written = write_some(writer, &mut pieces).await?;
                let mut queue = self.lock();
                queue.bytes -= written.min(queue.bytes);
                if queue.bytes <= Self::BYTES_HIGH {
                    drop(queue);
                    self.drained.notify_waiters();
                }
            }
            writer.flush().await?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // A queue is whole between any two statements.
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Outlet for Outbox {
    fn push(&self, pieces: &[Bytes]) -> Result<(), NotQueued> {
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(NotQueued::Closed);
            }
            if queue.bytes > Self::BYTES_MAX {
                return Err(NotQueued::Full);
            }
            for piece in pieces {
                queue.bytes += piece.len();
                if piece.len() < PIECE_BYTES_MIN {
                    queue.tail.extend_from_slice(piece);
                } else {
                    let tail = queue.tail.split().freeze();
                    queue.pieces.extend((!tail.is_empty()).then_some(tail));
                    queue.pieces.push_back(piece.clone());
                }
            }
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Lets [`Outbox::write_to`] end when all is written.
    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }
}

/// Writes once and takes what was written off the pieces.
async fn write_some<W: AsyncWrite + Unpin>(
    writer: &mut W,
    pieces: &mut VecDeque<Bytes>,
) -> io::Result<usize> {
    let slices: Vec<_> = pieces.iter().take(64).map(|piece| IoSlice::new(piece)).collect();
    let written = writer.write_vectored(&slices).await?;
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut left = written;
    while let Some(first) = pieces.front_mut() {
        if first.len() > left {
            first.advance(left);
            break;
        }
        left -= first.len();
        pieces.pop_front();
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(limit: usize, input: &[u8]) -> Vec<Line> {
        let mut reader = LineReader::with_limit(input, limit);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    fn text(text: &'static str) -> Line {
        Line::Text(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_end_at_line_feeds_and_at_the_end() {
        assert_eq!(lines(100, b"a\n\n \r\nb\r\nc").await, [text("a"), text("b"), text("c")]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_takes_nothing_with_it() {
        let input = [b"a\n".to_vec(), vec![b'x'; 10_000], b"\nb\n".to_vec()].concat();

        let lines = lines(5000, &input).await;

        assert_eq!(
            lines,
            [text("a"), Line::TooLong { head: Bytes::from(vec![b'x'; 4096]) }, text("b")]
        );
    }

    #[tokio::test]
    async fn pieces_leave_in_order_and_whole() {
        let outbox = Outbox::default();
        let long = Bytes::from(vec![b'y'; PIECE_BYTES_MIN]);
        for n in 0..100 {
            outbox
                .push(&[Bytes::from(format!("{n}:")), long.clone(), Bytes::from_static(b"\n")])
                .unwrap();
        }
        outbox.close();
        let (writer, mut reader) = tokio::io::duplex(1000);

        let (written, read) = tokio::join!(outbox.write_to(writer), async {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.map(|_| all)
        });

        written.unwrap();
        let expected: Vec<u8> = (0..100)
            .flat_map(|n| [format!("{n}:").into_bytes(), long.to_vec(), vec![b'\n']].concat())
            .collect();
        assert!(read.unwrap() == expected);
        assert_eq!(outbox.push(&[]), Err(NotQueued::Closed));
    }
}
