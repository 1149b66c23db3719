//! An MCP server for the official conformance suite, in both eras.
//!
//! It offers what the suite calls by name, and keeps to the specification in everything the suite looks at:
//! sessions, streams and requests of the server up to 2025-11-25; headers, multi round-trip requests,
//! subscriptions and tasks in 2026-07-28. Every tool works in both eras, so that a gateway can be tested with
//! a client of one and this server pinned to the other. It is written without an MCP library, because a test
//! has to know exactly what goes over the wire.

mod asking;
mod call;
mod calls;
mod content;
mod headers;
mod http;
mod legacy;
mod listen;
mod lists;
mod modern;
mod prompts;
mod resources;
mod rpc;
mod seal;
mod server;
mod session;
mod sink;
mod sse;
mod stdio;
mod stream;
mod tasks;
mod tools;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;

use server::{Eras, Server};

/// An MCP server for the official conformance suite
///
/// Over HTTP it prints `port=N` when it listens on 127.0.0.1; the endpoint is /mcp.
#[derive(Debug, Parser)]
struct Options {
    /// Port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Serve one client on stdin and stdout
    #[arg(long, conflicts_with = "port")]
    stdio: bool,
    /// What it speaks
    #[arg(long, default_value = "both")]
    era: Eras,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "conformance-fixture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Arc::new(Server::new(options.era));
    runtime.block_on(async {
        if options.stdio {
            return stdio::serve(server).await;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .await
            .with_context(|| format!("cannot listen on port {}", options.port))?;
        writeln!(io::stdout(), "port={}", listener.local_addr()?.port())?;
        http::serve(listener, server).await?;
        Ok(())
    })
}
