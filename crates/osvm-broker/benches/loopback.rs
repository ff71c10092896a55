//! What the broker adds to an HTTP request on this host: the same request by a plain client on the
//! calling thread, and through [`Broker::serve`] with rule, rate, resolver's answer and trace.
//!
//! Prints medians and 99th percentiles of both, in microseconds. `cargo bench -p osvm-broker`.

use osvm_broker::{Broker, NoSecrets, Protected};
use osvm_policy::{Config, Env, Resolved};
use osvm_runtime::{CallId, Cancel, HostRequest, HostServices as _, Trace};
use serde_json::value::RawValue;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const WARM_UP: usize = 200;
const ROUNDS: usize = 3000;
const BODY: &str = r#"{"jsonrpc":"2.0","result":{"value":1000000},"id":1}"#;

fn main() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let policy = policy(port)?;
    let broker = Broker::new(Arc::new(NoSecrets), Protected::new("/nowhere".into(), Vec::new()));
    let mut plain = TcpStream::connect(("127.0.0.1", port))?;
    plain.set_nodelay(true)?;
    let direct = measure(|| by_hand(&mut plain))?;
    let call: CallId = "00000000000000000000000001".parse()?;
    let kept = measure(|| brokered(&broker, &policy, call, port))?;
    broker.ended(call, &Trace::default());
    let mut number = 1_u32;
    let fresh = measure(|| {
        number += 1;
        let call: CallId = format!("{number:026}").parse()?;
        brokered(&broker, &policy, call, port)?;
        broker.ended(call, &Trace::default());
        Ok(())
    })?;
    let fresh_direct = measure(|| by_hand(&mut TcpStream::connect(("127.0.0.1", port))?))?;
    let mut out = std::io::stdout().lock();
    for (what, plain, broker) in
        [("kept connection", direct, kept), ("new connection", fresh_direct, fresh)]
    {
        let added = broker.0.saturating_sub(plain.0);
        writeln!(
            out,
            "{what}: plain {:?} (p99 {:?}), broker {:?} (p99 {:?}), added at the median {added:?}",
            plain.0, plain.1, broker.0, broker.1
        )?;
    }
    Ok(())
}

fn policy(port: u16) -> Outcome<Resolved> {
    let config = format!(
        r#"{{"mcp_servers": {{"s": {{"network_enabled": true, "egress": [{{"host": "127.0.0.1",
            "ports": [{port}], "methods": ["POST"], "rate_per_minute": 1000000}}]}}}}}}"#
    );
    let env = Env::new(None, None, Some("/nowhere".into()))?;
    let config = Config::parse(config.as_bytes(), Path::new("bench.json"), &env)?;
    Ok(config.resolve("s", "t"))
}

/// Median and 99th percentile.
fn measure(mut act: impl FnMut() -> Outcome<()>) -> Outcome<(Duration, Duration)> {
    for _ in 0..WARM_UP {
        act()?;
    }
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        act()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    Ok((at(ROUNDS / 2), at(ROUNDS * 99 / 100)))
}

fn brokered(broker: &Broker, policy: &Resolved, call: CallId, port: u16) -> Outcome<()> {
    let params =
        format!(r#"{{"method":"POST","url":"http://127.0.0.1:{port}/","body":"{{\"id\":1}}"}}"#);
    let params = RawValue::from_string(params)?;
    let (trace, cancel) = (Trace::default(), Cancel::default());
    let answer = broker.serve(&HostRequest {
        call,
        policy,
        method: "host/http",
        params: Some(&params),
        deadline: Instant::now() + Duration::from_secs(10),
        cancel: &cancel,
        trace: &trace,
    })?;
    if answer.get().contains("1000000") { Ok(()) } else { Err("another answer".into()) }
}

fn by_hand(stream: &mut TcpStream) -> Outcome<()> {
    let request = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8\r\n\r\n{\"id\":1}";
    stream.write_all(request.as_bytes())?;
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while !buffer.get(..filled).unwrap_or_default().ends_with(BODY.as_bytes()) {
        match stream.read(buffer.get_mut(filled..).unwrap_or_default())? {
            0 => return Err("hung up".into()),
            more => filled += more,
        }
    }
    Ok(())
}

/// Answers each request of a connection; all of them fit one read.
fn answer(mut stream: TcpStream) {
    let _slower = stream.set_nodelay(true);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(more) = stream.read(buffer.get_mut(filled..).unwrap_or_default()) {
        filled += more;
        if more == 0 {
            return;
        }
        if buffer.get(..filled).unwrap_or_default().ends_with(b"{\"id\":1}") {
            filled = 0;
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
