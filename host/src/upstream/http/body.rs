//! The body of a response, decoded, in chunks and with a limit.
//!
//! Bytes that are always there would keep the one thread of the gateway: each chunk takes from the task's
//! budget, so that others have their turn.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt as _};
use http::Response;
use http::header::CONTENT_ENCODING;
use http_body_util::{BodyExt as _, BodyStream};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

/// Read at least so much of a compressed body at a time.
const READ_BYTES: usize = 16 << 10;

/// A body may expand to so many times its bytes: JSON and text stay well below. A kilobyte can be made to
/// expand to a million, and it is the reader who pays.
const RATIO_MAX: u64 = 100;

/// So much a compressed body may expand to, whatever its ratio: small ones cost nothing.
const DECODED_BYTES_FREE: u64 = 1 << 20;

/// A body.
pub(super) enum Body {
    Plain(Incoming),
    Compressed(Compressed),
}

/// A body that is decoded as it is read.
pub(super) struct Compressed {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    /// Bytes that came.
    encoded: Arc<AtomicU64>,
    /// Bytes they became.
    decoded: u64,
}

impl Body {
    /// Returns the body of a response, which we did not ask to be compressed, but some are.
    pub(super) fn of(response: Response<Incoming>) -> io::Result<Self> {
        let encoding = response.headers().get(CONTENT_ENCODING).cloned();
        let body = response.into_body();
        let Some(encoding) = encoding else { return Ok(Self::Plain(body)) };
        let data = BodyStream::new(body)
            .try_filter_map(async |frame| Ok(frame.into_data().ok()))
            .map_err(io::Error::other);
        Ok(Self::Compressed(Compressed::new(encoding.as_bytes(), data)?))
    }

    /// Returns the next chunk; none at the end.
    pub(super) async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        tokio::task::consume_budget().await;
        match self {
            Self::Plain(body) => loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(io::Error::other(error)),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        // Empty, or trailers.
                        Ok(_) | Err(_) => {}
                    },
                }
            },
            Self::Compressed(body) => body.chunk().await,
        }
    }

    /// Returns all of it; none if it is longer than `limit`.
    pub(super) async fn whole(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        let Some(first) = self.chunk().await? else { return Ok(Some(Bytes::new())) };
        let Some(second) = self.chunk().await? else {
            return Ok((first.len() <= limit).then_some(first));
        };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while all.len() <= limit {
            match self.chunk().await? {
                Some(chunk) => all.extend_from_slice(&chunk),
                None => return Ok(Some(all.freeze())),
            }
        }
        Ok(None)
    }
}

impl Compressed {
    fn new(
        encoding: &[u8],
        data: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> io::Result<Self> {
        let encoded = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&encoded);
        let data = data.inspect_ok(move |data| {
            count.fetch_add(data.len() as u64, Ordering::Relaxed);
        });
        let reader = StreamReader::new(data);
        let reader: Pin<Box<dyn AsyncRead + Send>> = match encoding {
            b"identity" => Box::pin(reader),
            b"gzip" | b"x-gzip" => Box::pin(GzipDecoder::new(reader)),
            b"deflate" => Box::pin(ZlibDecoder::new(reader)),
            b"br" => Box::pin(BrotliDecoder::new(reader)),
            other => {
                let encoding = String::from_utf8_lossy(other).into_owned();
                return Err(io::Error::other(format!("its body is encoded as `{encoding}`")));
            }
        };
        Ok(Self { reader, encoded, decoded: 0 })
    }

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = BytesMut::with_capacity(READ_BYTES);
        let read = self.reader.read_buf(&mut chunk).await?;
        self.decoded += read as u64;
        let encoded = self.encoded.load(Ordering::Relaxed);
        if self.decoded > DECODED_BYTES_FREE.max(encoded.saturating_mul(RATIO_MAX)) {
            let reason = format!("its body expands to more than {RATIO_MAX} times its bytes");
            return Err(io::Error::other(reason));
        }
        Ok((read > 0).then(|| chunk.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use async_compression::Level;
    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder};
    use futures_util::stream;

    use super::*;

    /// Returns a body that comes in one piece.
    fn body(encoding: &str, data: Vec<u8>) -> Body {
        let data = stream::iter([Ok(Bytes::from(data))]);
        Body::Compressed(Compressed::new(encoding.as_bytes(), data).unwrap())
    }

    async fn encoded(encoding: &str, text: &[u8]) -> Vec<u8> {
        let text = io::Cursor::new(text.to_vec());
        let mut encoder: Pin<Box<dyn AsyncRead + Send>> = match encoding {
            "gzip" => Box::pin(GzipEncoder::with_quality(text, Level::Precise(5))),
            "deflate" => Box::pin(ZlibEncoder::with_quality(text, Level::Precise(5))),
            _ => Box::pin(BrotliEncoder::with_quality(text, Level::Precise(5))),
        };
        let mut data = Vec::new();
        encoder.read_to_end(&mut data).await.unwrap();
        data
    }

    #[tokio::test]
    async fn body_that_expands_out_of_all_proportion_is_refused() {
        let lines = vec![b'\n'; 4 << 20];
        for encoding in ["gzip", "deflate", "br"] {
            let mut whole = body(encoding, encoded(encoding, &lines).await);
            let mut in_chunks = body(encoding, encoded(encoding, &lines).await);

            let error = whole.whole(64 << 20).await.unwrap_err();
            let mut read = 0;
            while let Ok(Some(chunk)) = in_chunks.chunk().await {
                read += chunk.len();
            }

            assert_eq!(error.to_string(), "its body expands to more than 100 times its bytes");
            assert!(read as u64 <= DECODED_BYTES_FREE, "{encoding}: {read}");
        }
    }

    #[tokio::test]
    async fn body_that_expands_as_text_does_is_read() {
        let text: String = (0..100_000).map(|number| format!("{{\"number\":{number}}},")).collect();
        let blank = vec![b' '; 1 << 20];
        for encoding in ["gzip", "deflate", "br"] {
            for text in [text.as_bytes(), &blank] {
                let mut body = body(encoding, encoded(encoding, text).await);

                let whole = body.whole(64 << 20).await.unwrap().unwrap();

                assert!(whole == text, "{encoding}: {} bytes", whole.len());
            }
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_while_there_is_always_more_to_read() {
        let data = stream::repeat_with(|| Ok(Bytes::from_static(b"\n")));
        let mut body = Body::Compressed(Compressed::new(b"identity", data).unwrap());
        let other = tokio::spawn(async {});

        for _ in 0..1_000 {
            body.chunk().await.unwrap();
        }

        assert!(other.is_finished());
    }
}
