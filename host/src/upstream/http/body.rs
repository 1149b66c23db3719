//! The body of a response, decoded, in chunks and with a limit.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::Response;
use http::header::CONTENT_ENCODING;
use http_body_util::{BodyExt as _, BodyStream};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

/// Read at least so much of a compressed body at a time.
const READ_BYTES: usize = 16 << 10;

/// A body.
pub(super) enum Body {
    Plain(Incoming),
    Compressed(Pin<Box<dyn AsyncRead + Send>>),
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
        let reader = StreamReader::new(data);
        Ok(match encoding.as_bytes() {
            b"identity" => Self::Compressed(Box::pin(reader)),
            b"gzip" | b"x-gzip" => Self::Compressed(Box::pin(GzipDecoder::new(reader))),
            b"deflate" => Self::Compressed(Box::pin(ZlibDecoder::new(reader))),
            b"br" => Self::Compressed(Box::pin(BrotliDecoder::new(reader))),
            other => {
                let encoding = String::from_utf8_lossy(other).into_owned();
                return Err(io::Error::other(format!("its body is encoded as `{encoding}`")));
            }
        })
    }

    /// Returns the next chunk; none at the end.
    pub(super) async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
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
            Self::Compressed(reader) => {
                let mut chunk = BytesMut::with_capacity(READ_BYTES);
                let read = reader.read_buf(&mut chunk).await?;
                Ok((read > 0).then(|| chunk.freeze()))
            }
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
