//! A browser that nobody sees: opens a URL, follows redirects, and signs in wherever nobody is asked.
//!
//! Started as `BROWSER` would be. Its exit code says whether a page came in the end.

use std::process::ExitCode;

use anyhow::{Context, bail};
use http::Request;
use http::header::LOCATION;
use ultra_tests::oauth::plain_http::exchange;
use url::Url;

/// As browsers do.
const HOPS_MAX: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match browse().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn browse() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("a URL is the only argument")?;
    let mut url = Url::parse(&url)?;
    for _ in 0..HOPS_MAX {
        let answer = exchange(Request::get(url.as_str()).body(Default::default())?).await?;
        let Some(next) = answer.headers().get(LOCATION) else {
            return if answer.status().is_success() { Ok(()) } else { bail!(answer.status()) };
        };
        url = url.join(next.to_str()?)?;
    }
    bail!("too many redirects")
}
