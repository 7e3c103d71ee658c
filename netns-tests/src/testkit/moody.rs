use std::{
    fs,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::replica::{line, read_line};
use crate::pause;

/// Between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_secs(1);

/// Answers requests as a replica does, one a connection; but `/health` as the file `mood` says at that moment:
///
/// - `good`: 200
/// - `bad`: 503
/// - `endless`: headers without end, as fast as they are taken
/// - `drip`: one byte a second
pub fn serve_moody(port: u16, name: &str, mood: &Path) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("TCP port {port} cannot be bound"))?;
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            // A connection that fails ends alone; its client counts it.
            scope.spawn(move || answer(&stream, name, mood));
        }
        Ok(())
    })
}

fn answer(stream: &TcpStream, name: &str, mood: &Path) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let request = read_line(&mut reader)?.unwrap_or_default();
    while read_line(&mut reader)?.is_some_and(|header| !header.is_empty()) {}
    let body = format!("{}\n", line(name, client));
    let answer = |status: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    };
    if request.split_whitespace().nth(1) != Some("/health") {
        return writer.write_all(answer("200 OK").as_bytes());
    }
    match fs::read_to_string(mood)?.trim() {
        "good" => writer.write_all(answer("200 OK").as_bytes()),
        "endless" => {
            writer.write_all(b"HTTP/1.1 103 Early Hints\r\n")?;
            loop {
                writer.write_all(b"X-More: to come\r\n")?;
            }
        }
        "drip" => answer("200 OK").bytes().try_for_each(|byte| {
            pause(DRIP);
            writer.write_all(&[byte])
        }),
        _ => writer.write_all(answer("503 Service Unavailable").as_bytes()),
    }
}
