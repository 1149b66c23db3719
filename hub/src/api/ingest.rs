//! `POST /api/v1/records`: takes the records of a gateway.
//!
//! What is sent is limited before it is read: its bytes, what it becomes when it is no longer compressed, how
//! often, how long it may take, and what all of them together may hold in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::task::spawn_blocking;
use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::Api;
use super::extract::Device;
use super::room::{Held, Memory, RETRY_S, Room};
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::events::{AppendError, Batch};
use crate::wire::{
    Acknowledgement, BATCH_BYTES_MAX, BATCH_CONTENT_TYPE, BATCH_SENT_BYTES_MAX, BatchHead, Problem,
};

/// A batch that takes longer to arrive is given up. A gateway's own deadline is shorter.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// As much as compressed records become. More is an attack, if it is more than [`RATIO_FROM_BYTES`].
const RATIO_MAX: usize = 100;
const RATIO_FROM_BYTES: usize = 1024 * 1024;

/// More than so many compressed bytes are not unpacked where requests are answered: it takes milliseconds.
const UNPACKED_AT_ONCE: usize = 16 * 1024;

/// zstd's window: more of it is of no use to a batch, and memory for whoever asks.
const WINDOW_LOG_MAX: u32 = 24;

/// Takes records. Answers when they are stored.
#[utoipa::path(
    post, path = "/api/v1/records", tag = "gateways", security(("gateway" = [])),
    request_body(
        content_type = "application/x-ndjson",
        description = "A `BatchHead` on the first line, and a record on each of the others. With \
                       `Content-Encoding: zstd`, or as it is.",
        content = String,
    ),
    responses(
        (status = 200, body = Acknowledgement),
        (status = 409, description = "Too many gaps", body = Problem),
    ),
)]
pub(super) async fn records(
    State(api): State<Api>,
    Device(known): Device,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Acknowledgement>, ApiError> {
    let origin = known.origin;
    api.room.batches.check(origin.gateway.number())?;
    let arrived = receive(&api.room, &headers, body).await?;
    let head = head(&arrived.bytes)?;
    let (count, lines) = (head.count, arrived.bytes.slice(line_end(&arrived.bytes)..));
    let batch = Batch { head, lines, received_ms: now_ms() };
    let acknowledgement = api.events.append(origin, batch).await.map_err(refused)?;
    drop(arrived.held);
    api.presence.note_sync(origin.gateway);
    let metrics = &api.metrics;
    metrics.batches.fetch_add(1, Ordering::Relaxed);
    metrics.records.fetch_add(count, Ordering::Relaxed);
    metrics.rejected.fetch_add(acknowledgement.rejected, Ordering::Relaxed);
    Ok(Json(acknowledgement))
}

/// A body, no longer compressed, and the room it takes.
#[derive(Debug)]
struct Arrived {
    bytes: Bytes,
    held: Held,
}

#[derive(Clone, Copy)]
enum Coding {
    Identity,
    Zstd,
}

async fn receive(room: &Room, headers: &HeaderMap, body: Body) -> Result<Arrived, ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    if kind.is_some_and(|kind| !kind.trim().eq_ignore_ascii_case(BATCH_CONTENT_TYPE)) {
        return Err(ApiError::Invalid(format!("send a batch as `{BATCH_CONTENT_TYPE}`")));
    }
    let coding = match text(header::CONTENT_ENCODING) {
        None | Some("identity") => Coding::Identity,
        Some("zstd") => Coding::Zstd,
        Some(_) => {
            let message = "send a batch with `Content-Encoding: zstd`, or without".to_owned();
            return Err(ApiError::Invalid(message));
        }
    };
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > BATCH_SENT_BYTES_MAX) {
        return Err(ApiError::TooLarge(BATCH_SENT_BYTES_MAX));
    }
    let sent =
        tokio::time::timeout(ARRIVAL_MAX, collect(room.memory(), body)).await.map_err(|_| {
            let seconds = ARRIVAL_MAX.as_secs();
            ApiError::Invalid(format!(
                "the batch took more than {seconds} s to arrive; send fewer records"
            ))
        })??;
    match coding {
        Coding::Identity => Ok(sent),
        Coding::Zstd if sent.bytes.len() <= UNPACKED_AT_ONCE => unpack(room.memory(), &sent),
        Coding::Zstd => {
            let turn = Arc::clone(&room.unpacking).acquire_owned().await;
            let memory = room.memory().clone();
            let unpacked = spawn_blocking(move || {
                let unpacked = unpack(&memory, &sent);
                drop(turn);
                unpacked
            });
            // The program ends, or it panicked, which was reported where it happened.
            unpacked.await.map_err(|_| ApiError::Unavailable { retry_s: RETRY_S })?
        }
    }
}

/// Reads a body to its end.
async fn collect(memory: &Memory, mut body: Body) -> Result<Arrived, ApiError> {
    let mut growing = Growing { bytes: Vec::new(), held: memory.hold() };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ended())?;
        let Ok(data) = frame.into_data() else { continue };
        if growing.bytes.len() + data.len() > BATCH_SENT_BYTES_MAX {
            return Err(ApiError::TooLarge(BATCH_SENT_BYTES_MAX));
        }
        growing.add(&data)?;
    }
    Ok(growing.arrived())
}

/// Returns what was compressed.
fn unpack(memory: &Memory, sent: &Arrived) -> Result<Arrived, ApiError> {
    let decoder = || {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok::<_, std::io::Error>(decoder)
    };
    // It has no memory.
    let mut decoder = decoder().map_err(|_| ApiError::Unavailable { retry_s: RETRY_S })?;
    let mut buffer = vec![0; 128 * 1024].into_boxed_slice();
    let mut growing = Growing { bytes: Vec::new(), held: memory.hold() };
    let length_max = sent.bytes.len().saturating_mul(RATIO_MAX).max(RATIO_FROM_BYTES);
    let mut data = &sent.bytes[..];
    // Whether what came so far is whole.
    let mut finished = false;
    loop {
        let status = decoder.run_on_buffers(data, &mut buffer);
        let status =
            status.map_err(|_| ApiError::Invalid("the batch is no valid zstd".to_owned()))?;
        data = &data[status.bytes_read..];
        let length = growing.bytes.len() + status.bytes_written;
        if length > BATCH_BYTES_MAX {
            return Err(ApiError::TooLarge(BATCH_BYTES_MAX));
        }
        if length > length_max {
            let message = format!("a batch becomes at most {RATIO_MAX} times as much as was sent");
            return Err(ApiError::Invalid(message));
        }
        growing.add(&buffer[..status.bytes_written])?;
        if status.bytes_read > 0 || status.bytes_written > 0 {
            finished = status.remaining == 0;
        }
        if data.is_empty() && status.bytes_written < buffer.len() {
            return if finished { Ok(growing.arrived()) } else { Err(ended()) };
        }
    }
}

fn ended() -> ApiError {
    ApiError::Invalid("the batch ended before its end".to_owned())
}

/// Bytes, with the room they take.
struct Growing {
    bytes: Vec<u8>,
    held: Held,
}

impl Growing {
    fn add(&mut self, more: &[u8]) -> Result<(), ApiError> {
        let length = self.bytes.len() + more.len();
        if length > self.bytes.capacity() {
            let capacity = length.next_power_of_two();
            self.held.grow_to(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    fn arrived(self) -> Arrived {
        Arrived { bytes: self.bytes.into(), held: self.held }
    }
}

fn line_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
}

fn head(bytes: &[u8]) -> Result<BatchHead, ApiError> {
    serde_json::from_slice(&bytes[..line_end(bytes)]).map_err(|error| {
        ApiError::Invalid(format!("the first line is no head of a batch: {error}"))
    })
}

fn refused(error: AppendError) -> ApiError {
    match error {
        AppendError::Invalid { reason } => ApiError::Invalid(reason.to_owned()),
        AppendError::GapsFirst { spans } => ApiError::GapsFirst(spans),
        AppendError::Full => ApiError::Unavailable { retry_s: RETRY_S },
        AppendError::Database(error) => ApiError::Database(error),
    }
}

#[cfg(test)]
mod tests;
