//! Somebody who opens pages.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Times;

pub(crate) async fn open(hub: &str, cookie: &str, times: u32, paths: &[String]) -> Value {
    let client = ultra_tests::hub::client().build().expect("a client");
    let mut report = serde_json::Map::new();
    for path in paths {
        let mut measured = Times::default();
        let mut bytes = 0;
        for _ in 0..times {
            let begun = Instant::now();
            let request = client.get(format!("{hub}{path}")).header("cookie", cookie);
            let response = request.send().await.expect("an answer");
            assert!(response.status().is_success(), "{path}: {}", response.status());
            bytes = response.bytes().await.expect("a page").len();
            measured.note(begun);
        }
        let mut figures = measured.report();
        figures["bytes"] = json!(bytes);
        report.insert(path.clone(), figures);
    }
    Value::Object(report)
}
