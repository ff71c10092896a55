//! A small HTTP server on loopback, for guests that ask the host for requests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request that arrived.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) target: String,
    /// Header `Authorization`, or nothing.
    pub(crate) authorization: String,
}

/// A running server. Its threads end with the test program.
#[derive(Debug)]
pub(crate) struct Web {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    connections: Arc<AtomicU64>,
}

impl Web {
    /// Answers every request with the body that `answer` makes, or hangs up where it makes none.
    pub(crate) fn start(answer: impl Fn(&Asked) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, connections) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || serve(&stream, &*answer));
            }
        });
        Self { port, connections }
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A URL of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Until the other side, or the answer, ends the connection.
fn serve(stream: &TcpStream, answer: &(dyn Fn(&Asked) -> Option<String> + Send + Sync)) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let (mut asked, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            let Some(Asked { authorization, .. }) = &mut asked else {
                let target = line.split(' ').nth(1).unwrap().to_owned();
                asked = Some(Asked { target, authorization: String::new() });
                continue;
            };
            match line.split_once(": ") {
                Some(("authorization", value)) => *authorization = value.to_owned(),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).unwrap();
        let Some(body) = answer(&asked.unwrap()) else { return };
        let mut to = stream;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if to.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
