//! Batches of records: taken apart within limits, and handed to the store.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use http::{HeaderMap, header};

use super::{Api, Device};
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::events::{AppendError, Batch};
use crate::wire::{Acknowledgement, BATCH_BYTES_MAX, BATCH_SENT_BYTES_MAX, BatchHead, Problem};

/// A MiB takes so long over a line of 300 kbit/s.
const BODY_MAX: Duration = Duration::from_secs(25);

/// Records compress to a tenth; a GiB of zeros is 32 KiB.
const RATIO_MAX: usize = 100;

/// What is smaller than this may repeat itself as it likes.
const RATIO_FLOOR_BYTES: usize = 256 * 1024;

/// A head has the numbers of what was lost, and little else.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Whoever is told that there is no room comes again after this many seconds.
const RETRY_S: u64 = 5;

/// Takes records.
#[utoipa::path(
    post, path = "/api/v1/records", tag = "gateways", security(("gateway" = [])),
    request_body(
        content = String, content_type = "application/x-ndjson",
        description = "A `BatchHead` on the first line, then one record per line. `Content-Encoding: zstd` is taken.",
    ),
    responses(
        (status = 200, body = Acknowledgement), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem),
    ),
)]
pub(super) async fn records(
    State(api): State<Api>,
    Device(known): Device,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Acknowledgement>, ApiError> {
    api.room.check(known.origin.gateway)?;
    let received_ms = now_ms();
    let sent = tokio::time::timeout(BODY_MAX, axum::body::to_bytes(body, BATCH_SENT_BYTES_MAX));
    let sent = sent
        .await
        .map_err(|_| ApiError::Invalid("the body came too slowly".to_owned()))?
        .map_err(|_| ApiError::TooLarge(BATCH_SENT_BYTES_MAX))?;
    let text = match headers.get(header::CONTENT_ENCODING).map(|name| name.as_bytes()) {
        None | Some(b"identity") => sent,
        Some(b"zstd") => tokio::task::spawn_blocking(move || unpacked(&sent))
            .await
            .map_err(|_| ApiError::Unavailable { retry_s: RETRY_S })??,
        Some(_) => {
            return Err(ApiError::Invalid("only `zstd` is known as an encoding".to_owned()));
        }
    };
    let batch = taken_apart(&text, received_ms)?;
    let count = batch.head.count;
    let acknowledgement = api.events.append(known.origin, batch).await.map_err(refused)?;
    api.presence.note_sync(known.origin.gateway);
    api.metrics.batches.fetch_add(1, Ordering::Relaxed);
    api.metrics.records.fetch_add(count, Ordering::Relaxed);
    api.metrics.rejected.fetch_add(acknowledgement.rejected, Ordering::Relaxed);
    Ok(Json(acknowledgement))
}

/// Returns what was compressed, unless it grows too much.
fn unpacked(sent: &[u8]) -> Result<Bytes, ApiError> {
    let broken = |_| ApiError::Invalid("the body is not zstd, or was cut off".to_owned());
    let most = sent.len().saturating_mul(RATIO_MAX).max(RATIO_FLOOR_BYTES).min(BATCH_BYTES_MAX);
    let decoder = zstd::stream::read::Decoder::with_buffer(sent).map_err(broken)?;
    let mut text = Vec::new();
    decoder.take(most as u64 + 1).read_to_end(&mut text).map_err(broken)?;
    if text.len() > most {
        return Err(ApiError::TooLarge(most));
    }
    Ok(text.into())
}

fn taken_apart(text: &Bytes, received_ms: i64) -> Result<Batch, ApiError> {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    if end > HEAD_BYTES_MAX {
        return Err(ApiError::TooLarge(HEAD_BYTES_MAX));
    }
    let head: BatchHead = serde_json::from_slice(&text[..end])
        .map_err(|error| ApiError::Invalid(format!("the first line is no batch head: {error}")))?;
    let lines = text.slice((end + 1).min(text.len())..);
    Ok(Batch { head, lines, received_ms })
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
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let zeros = zstd::encode_all(std::io::repeat(0).take(1 << 30), 3).unwrap();
        assert!(zeros.len() < BATCH_SENT_BYTES_MAX);

        assert!(matches!(unpacked(&zeros), Err(ApiError::TooLarge(_))));
    }

    #[test]
    fn what_was_cut_off_is_not_taken() {
        let whole = zstd::encode_all(&b"{\"a\":1}\n".repeat(100)[..], 1).unwrap();

        assert_eq!(unpacked(&whole).unwrap().len(), 800);
        for cut in 0..whole.len() {
            assert!(unpacked(&whole[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_first_line_is_the_head() {
        let text = |text: &'static str| taken_apart(&Bytes::from_static(text.as_bytes()), 0);
        let head = "{\"database\":\"d\",\"kind\":\"traces\",\"first\":1,\"count\":1}\nx\n";

        assert_eq!(text(head).unwrap().lines, "x\n");
        for bad in ["", "\n", "x", "{}"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
