//! The same server behind HTTP: a thread for each connection, and as little HTTP/1.1 as a loopback client
//! needs. For benchmarks; it keeps no session and says nothing by itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use crate::Options;
use crate::server::Server;

/// Longer bodies are not read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Serves clients on a port of this machine for ever.
pub(crate) fn serve(options: &Options, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        let options = options.clone();
        thread::spawn(move || connection(stream, options));
    }
    Ok(())
}

fn connection(stream: TcpStream, options: Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut record = match &options.record {
        Some(path) => Some(crate::open_append(path).map_err(io::Error::other)?),
        None => None,
    };
    let mut server = Server::new(options.clone());
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let (mut line, mut body, mut response) = (String::new(), Vec::new(), Vec::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut head = line.clone();
        let is_post = line.starts_with("POST ");
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            head.push_str(&line);
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(usize::MAX);
            }
        }
        if length > BODY_BYTES_MAX {
            return Ok(());
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        if let Some(record) = &mut record {
            record.write_all(&[head.as_bytes(), &body, b"\n"].concat())?;
        }
        if is_post {
            server.receive(&body);
        }
        let is_away = options.away_while.as_ref().is_some_and(|file| file.exists());
        if is_away {
            server.out.clear();
        }
        let status = match (is_post, server.out.is_empty()) {
            _ if is_away => "503 Service Unavailable",
            (true, false) => "200 OK",
            (true, true) => "202 Accepted",
            (false, _) => "405 Method Not Allowed",
        };
        response.clear();
        write!(
            response,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            server.out.len()
        )?;
        response.append(&mut server.out);
        reader.get_mut().write_all(&response)?;
    }
}
