//! The fake upstream itself: a test that fails behind Ultra shall not fail because of it.

use serde_json::json;
use ultra_tests::{Fake, Session};

#[tokio::test]
async fn echo_returns_its_arguments() {
    let session = Session::start(Fake::new("fake").command());
    session.initialize(json!({})).await;

    let reply = session.call_tool("echo", json!({"a": [1, 2]})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"a": [1, 2]}));
}
