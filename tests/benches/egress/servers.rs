//! Servers on loopback, where connections of the guest end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

/// Ports of servers, each a thread until the process ends.
#[derive(Debug)]
pub struct Servers {
    /// Reads to the end, then ends.
    pub sink: u16,
    /// Writes without an end.
    pub source: u16,
    /// Answers each byte.
    pub echo: u16,
    /// Answers one byte, then ends.
    pub once: u16,
}

impl Servers {
    /// Starts all.
    ///
    /// # Errors
    /// No port.
    pub fn start() -> Result<Self> {
        Ok(Self {
            sink: each_in_a_thread(sink)?,
            source: each_in_a_thread(source)?,
            echo: each_in_a_thread(echo)?,
            once: one_after_the_other(once)?,
        })
    }
}

fn each_in_a_thread(serve: fn(TcpStream)) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let builder = thread::Builder::new().stack_size(1 << 18);
            // A connection that finds no thread is closed.
            let _ = builder.spawn(move || serve(stream));
        }
    });
    Ok(port)
}

fn one_after_the_other(serve: fn(TcpStream)) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    Ok(port)
}

fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 18];
    while let Ok(1..) = stream.read(&mut buffer) {}
}

fn source(mut stream: TcpStream) {
    let piece = vec![7; 1 << 18];
    while stream.write_all(&piece).is_ok() {}
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn once(mut stream: TcpStream) {
    let mut byte = [0];
    if stream.read_exact(&mut byte).is_ok() {
        let _ = stream.write_all(&byte);
    }
}
