//! A client of a protected server, as the gateway's transport is one: it sends what the authorizer has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use ultra::auth::{
    AuthError, Authorizer, Browser, Challenged, Keys, Options, Refused, Secret, Server,
};
use ultra::config::Environment;

use super::plain_http;
use crate::program;

/// A call that was refused more often than that will be refused for ever.
const TRIES_MAX: usize = 6;

/// Nothing here takes longer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Debug)]
pub enum Call {
    /// With this status, after so many requests.
    Answered(u16, usize),
    /// Without a token to send.
    Failed(Arc<AuthError>),
}

/// Returns an authorizer that keeps its tokens in a directory, with a browser that nobody sees.
pub fn client(directory: &Path) -> Authorizer {
    let browser = program("headless-browser");
    let browser = browser.to_str().expect("paths of tests are UTF-8");
    authorizer(directory, &[("BROWSER", browser)])
}

/// The same on a machine without a browser.
pub fn windowless(directory: &Path) -> Authorizer {
    authorizer(directory, &[])
}

fn authorizer(directory: &Path, variables: &[(&str, &str)]) -> Authorizer {
    Authorizer::new(Options {
        directory: directory.to_owned(),
        keys: Keys::default(),
        browser: Browser::of(&Environment::of(variables.iter().copied())),
    })
}

/// Calls a server, and signs in if it has to.
///
/// # Panics
///
/// If it is not answered in time.
pub async fn call(authorizer: &Authorizer, server: &Server) -> Call {
    match tokio::time::timeout(PATIENCE, tries(authorizer, server)).await {
        Ok(Ok(call)) => call,
        Ok(Err(error)) => Call::Failed(error),
        Err(_) => panic!("waited {PATIENCE:?} for `{}` to answer a call", server.url()),
    }
}

async fn tries(authorizer: &Authorizer, server: &Server) -> Result<Call, Arc<AuthError>> {
    let mut tried = 0;
    loop {
        let token = authorizer.bearer(server).await?;
        let (status, www_authenticate) = request(server.url(), token.as_ref()).await;
        tried += 1;
        if !matches!(status, 401 | 403) || tried == TRIES_MAX {
            return Ok(Call::Answered(status, tried));
        }
        let refused = Refused { status, www_authenticate, token: token.as_ref() };
        match authorizer.challenged(server, refused).await? {
            Challenged::Retry => {}
            Challenged::SignIn(sign_in) => sign_in.done().await?,
            Challenged::Forbidden => return Ok(Call::Answered(status, tried)),
        }
    }
}

async fn request(url: &str, token: Option<&Secret>) -> (u16, Vec<String>) {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
    let mut request = http::Request::post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(body.into()).expect("its parts are fixed");
    let answer =
        plain_http::exchange(request).await.unwrap_or_else(|error| panic!("`{url}`: {error:#}"));
    let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
    let challenges = challenges.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect();
    (answer.status().as_u16(), challenges)
}
