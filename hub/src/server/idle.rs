//! Connections on which nothing moves: nothing is read, and nothing that is written arrives.
//!
//! One rule for whoever connects and says nothing, keeps a connection open for later, or stops reading in the
//! middle of a file. Pages that listen for news are written to more often than this.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A stream, and when something last moved on it.
pub(super) struct Watched<S> {
    stream: S,
    moved: Moved,
}

/// When something last moved.
#[derive(Clone)]
pub(super) struct Moved {
    begun: Instant,
    after_ms: Arc<AtomicU64>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> (Self, Moved) {
        let moved = Moved { begun: Instant::now(), after_ms: Arc::default() };
        (Self { stream, moved: moved.clone() }, moved)
    }
}

impl Moved {
    fn note(&self) {
        let after_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after_ms, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for so long.
    pub(super) async fn stopped_for(&self, time: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.after_ms.load(Ordering::Relaxed));
            if last.elapsed() >= time {
                return;
            }
            tokio::time::sleep_until(last + time).await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.moved.note();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.moved.note();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bytes))?;
        self.moved.note();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_moves_in_either_direction_is_not_idle() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, moved) = Watched::new(near);
        let begun = Instant::now();
        let peer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            far.write_all(b"a").await.unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
            far.read_exact(&mut [0]).await.unwrap();
            far
        });

        let conversation = async {
            near.read_exact(&mut [0]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
            near.write_all(b"b").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = conversation => {}
            () = moved.stopped_for(LIMIT) => {}
        }

        assert_eq!(begun.elapsed().as_secs(), 160);
        drop(peer.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_idle() {
        let (_far, near) = tokio::io::duplex(64);
        let (mut near, moved) = Watched::new(near);
        let begun = Instant::now();

        tokio::select! {
            written = near.write_all(&[0; 1000]) => panic!("{written:?}"),
            () = moved.stopped_for(LIMIT) => {}
        }

        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
