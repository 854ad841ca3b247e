//! A server that says what time it is: many threads, each of which serves one connection after the other.
//!
//! It prints its port. For each byte that it is sent it answers with two numbers of 64 bits, little-endian: nanoseconds
//! since it began (`Instant`) and since 1970 (`SystemTime`). It ends when its standard input does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

/// Serve the time of day.
#[derive(Parser)]
struct Arguments {
    /// Connections that are served at a time.
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

fn serve(mut stream: TcpStream, began: Instant) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0];
    while stream.read(&mut request)? == 1 {
        let elapsed = began.elapsed().as_nanos() as u64;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_nanos() as u64);
        let mut answer = [0; 16];
        answer[..8].copy_from_slice(&elapsed.to_le_bytes());
        answer[8..].copy_from_slice(&wall.to_le_bytes());
        stream.write_all(&answer)?;
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    for _ in 0..arguments.workers {
        let listener = listener.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is none of the next one's business.
                let _ = serve(stream, began);
            }
        });
    }
    println!("{}", listener.local_addr()?.port());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
