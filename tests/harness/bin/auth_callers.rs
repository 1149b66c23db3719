//! One gateway's worth of callers: many calls at once to a protected server, as one process.
//!
//! `auth-callers DIRECTORY URL CALLS`: prints `ready`, waits for a line on stdin, calls, and prints how
//! many calls were answered with 200. It ends with the first line after that.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinSet;
use ultra::auth::Server;
use ultra_tests::oauth::{Call, call, client};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().context("a directory")?);
    let url = args.next().context("a URL")?;
    let calls: usize = args.next().context("a number of calls")?.parse()?;
    let authorizer = client(&directory);
    let server = Server::new(Arc::from("protected"), &url, Default::default())?;
    loop {
        say("ready")?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut running = JoinSet::new();
        for _ in 0..calls {
            let (authorizer, server) = (authorizer.clone(), server.clone());
            running.spawn(async move { call(&authorizer, &server).await });
        }
        let answered = running
            .join_all()
            .await
            .into_iter()
            .filter(|call| matches!(call, Call::Answered(200, _)))
            .count();
        say(&answered.to_string())?;
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
