use std::convert::Infallible;

use futures_util::{StreamExt, stream};
use http::HeaderValue;

use super::*;

fn headers(coding: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    headers
}

/// A body that comes in pieces of this size.
fn pieces(bytes: &[u8], size: usize) -> Body {
    let pieces: Vec<_> = bytes
        .chunks(size)
        .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
        .collect();
    Body::from_stream(stream::iter(pieces))
}

async fn arrive(coding: Option<&'static str>, body: Body) -> Result<Arrived, ApiError> {
    receive(&Room::default(), &headers(coding), body).await
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Bytes that do not become shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn a_body_arrives_however_it_is_cut() {
    let text = br#"{"head":1}"#.repeat(5000);
    let two = [zstd(&text[..100]), zstd(&text[100..])].concat();

    for size in [1, 7, 1000, 100_000] {
        for (coding, body) in [
            (None, text.clone()),
            (Some("identity"), text.clone()),
            (Some("zstd"), zstd(&text)),
            // Frames may follow each other (RFC 8878, section 3).
            (Some("zstd"), two.clone()),
        ] {
            let arrived = arrive(coding, pieces(&body, size)).await.unwrap();
            assert_eq!(arrived.bytes, text, "{coding:?} {size}");
        }
    }
}

#[tokio::test]
async fn what_is_sent_has_a_limit() {
    let long = noise(BATCH_SENT_BYTES_MAX + 1);
    for coding in [None, Some("zstd")] {
        let error = arrive(coding, pieces(&long, 10_000)).await.unwrap_err();
        assert!(matches!(error, ApiError::TooLarge(BATCH_SENT_BYTES_MAX)), "{error:?}");
    }

    let mut headers = headers(None);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(BATCH_SENT_BYTES_MAX + 1));
    // Nothing of it is read: it would never end.
    let error = receive(&Room::default(), &headers, Body::from_stream(endless())).await;
    assert!(matches!(error, Err(ApiError::TooLarge(BATCH_SENT_BYTES_MAX))));
}

fn endless() -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::pending::<Infallible>().map(|never| match never {})
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_goes_off() {
    // A gibibyte of zeros is 32 KiB.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 3).unwrap();
    assert!(bomb.len() < 128 * 1024);
    // Less than 100 times as much, but more than is taken.
    let big = zstd(&noise(400_000).repeat(45));
    assert!(big.len() < BATCH_SENT_BYTES_MAX);
    let room = Room::default();

    let bomb = receive(&room, &headers(Some("zstd")), pieces(&bomb, 4096)).await.unwrap_err();
    let big = receive(&room, &headers(Some("zstd")), pieces(&big, 4096)).await.unwrap_err();

    assert!(matches!(&bomb, ApiError::Invalid(text) if text.contains("100 times")), "{bomb:?}");
    assert!(matches!(big, ApiError::TooLarge(BATCH_BYTES_MAX)), "{big:?}");
}

#[tokio::test]
async fn what_is_cut_or_no_zstd_is_refused() {
    let body = zstd(&noise(50_000));

    for cut in [0, 1, 5, body.len() / 2, body.len() - 1] {
        let error = arrive(Some("zstd"), pieces(&body[..cut], 1000)).await.unwrap_err();
        assert!(matches!(error, ApiError::Invalid(_)), "{cut}: {error:?}");
    }
    for (coding, body) in [("zstd", &b"{}\n"[..]), ("gzip", b""), ("br", b"")] {
        let error = arrive(Some(coding), pieces(body, 10)).await.unwrap_err();
        assert!(matches!(error, ApiError::Invalid(_)), "{coding}: {error:?}");
    }
    let mut html = headers(None);
    html.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    let error = receive(&Room::default(), &html, Body::empty()).await.unwrap_err();
    assert!(matches!(error, ApiError::Invalid(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_given_up() {
    let slow = stream::iter([Ok(Bytes::from_static(b"{"))]).chain(endless());

    let error = arrive(None, Body::from_stream(slow)).await.unwrap_err();

    assert!(matches!(&error, ApiError::Invalid(text) if text.contains("20 s")), "{error:?}");
}

#[tokio::test]
async fn bodies_share_the_room_and_give_it_back() {
    let room = Room::default();
    let text = noise(1024 * 1024);
    let mut arrived = Vec::new();
    let error = loop {
        match receive(&room, &headers(None), pieces(&text, 64 * 1024)).await {
            Ok(body) => arrived.push(body),
            Err(error) => break error,
        }
    };

    assert!(matches!(error, ApiError::Unavailable { .. }), "{error:?}");
    assert_eq!(arrived.len(), 256);
    arrived.clear();
    assert!(receive(&room, &headers(None), pieces(&text, 64 * 1024)).await.is_ok());
}

#[test]
fn the_first_line_is_the_head() {
    let text = r#"{"database":"d","kind":"audit","first":3,"count":1,"new":true}"#;
    for (body, lines) in [(format!("{text}\n{{}}\n"), "{}\n"), (text.to_owned(), "")] {
        assert_eq!(head(body.as_bytes()).unwrap().first, 3);
        assert_eq!(&body[line_end(body.as_bytes())..], lines);
    }
    assert!(matches!(head(b"{}\n"), Err(ApiError::Invalid(_))));
}
