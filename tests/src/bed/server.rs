//! The `server`, and clients that keep it busy and hold its answers against their own clocks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Bed, Restored};

/// How often the wall clock may differ in a row: somebody may set it.
const ATTEMPTS: u32 = 4;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server on a bed, under load. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub restored: Restored,
    clients: Vec<JoinHandle<Result<(), String>>>,
    end: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

impl Server {
    /// Starts `program`, which is the server, and as many clients as it has threads.
    pub fn start(bed: &Bed, program: &Path, workers: usize) -> Result<Self, String> {
        let mut command = Command::new(program);
        command
            .args(["--workers", &workers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut restored = bed.launch(command)?;
        let output = restored.child.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        read.map_err(|error| error.to_string())?;
        let port = line.trim().parse::<u16>();
        let port = port.map_err(|_| format!("the server says {line:?} instead of its port"))?;
        let (end, requests) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        // When the server began, on the clock of this process.
        let origin = Instant::now();
        let client = |_| {
            let (end, requests) = (end.clone(), requests.clone());
            thread::spawn(move || ask(port, origin, &end, &requests))
        };
        let clients = (0..workers).map(client).collect();
        Ok(Self {
            restored,
            clients,
            end,
            requests,
        })
    }

    /// Answers so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// Ends the load, and says how many answers there were; or what was wrong with the first one
    /// that was.
    pub fn finish(mut self) -> Result<u64, String> {
        self.end.store(true, SeqCst);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| "a client has panicked")??;
        }
        Ok(self.requests())
    }
}

/// What a client knows about the server's clock. Every answer says that it began within a span of
/// the client's own clock; if all are right, there is a moment that lies in all of these.
struct Began {
    earliest: i128,
    latest: i128,
}

/// One client.
fn ask(port: u16, origin: Instant, end: &AtomicBool, requests: &AtomicU64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("the server: {error}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut began = Began {
        earliest: i128::MIN,
        latest: i128::MAX,
    };
    let (mut last, mut strange) = (0, 0);
    while !end.load(SeqCst) {
        let before = (origin.elapsed(), wall());
        let mut answer = [0; 16];
        stream.write_all(b"?").map_err(failed)?;
        stream.read_exact(&mut answer).map_err(failed)?;
        let after = (origin.elapsed(), wall());
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| answer[at + byte]));
        let (elapsed, time) = (number(0), number(8));
        if elapsed < last {
            return Err(format!("monotonic time went from {last} to {elapsed}"));
        }
        last = elapsed;
        began.narrow(before.0, elapsed, after.0)?;
        let is_right = (before.1..=after.1).contains(&time);
        strange = if is_right { 0 } else { strange + 1 };
        if strange >= ATTEMPTS {
            return Err(format!(
                "{time} is not between {} and {}",
                before.1, after.1
            ));
        }
        requests.fetch_add(1, SeqCst);
    }
    Ok(())
}

impl Began {
    fn narrow(&mut self, before: Duration, elapsed: u64, after: Duration) -> Result<(), String> {
        let moment = |now: Duration| now.as_nanos() as i128 - i128::from(elapsed);
        self.earliest = self.earliest.max(moment(before));
        self.latest = self.latest.min(moment(after));
        match self.earliest <= self.latest {
            true => Ok(()),
            false => Err(format!(
                "monotonic time is {elapsed}, which is wrong by {} ns",
                self.earliest - self.latest
            )),
        }
    }
}

fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_noticed() {
        let mut began = Began {
            earliest: i128::MIN,
            latest: i128::MAX,
        };
        let at = Duration::from_nanos;
        began.narrow(at(1000), 5010, at(1020)).unwrap();
        began.narrow(at(2000), 6010, at(2020)).unwrap();
        let error = began.narrow(at(3000), 7031, at(3010)).unwrap_err();
        assert!(error.contains("wrong by 11 ns"), "{error}");
    }
}
