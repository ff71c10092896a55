//! What a brokered request and a receipt cost a call. The same request is made by a plain client and
//! through the broker, in turn, so that whatever else the machine does hits both.

use crate::figure::Figure;
use crate::host::WARM_UP;
use anyhow::{Context, Result, ensure};
use osvm_broker::{Broker, NoSecrets, Protected};
use osvm_image::Digest;
use osvm_policy::{Config, Env, Resolved};
use osvm_receipts::Receipts;
use osvm_runtime::{
    CallId, Cancel, ClientName, Decision, HostRequest, HostServices as _, Isolation, Ledger as _,
    Reach, Record, RunMode, Trace,
};
use serde_json::value::RawValue;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests and receipts that are timed: they are short.
const TIMES: usize = 1000;
const BODY: &str = r#"{"jsonrpc":"2.0","result":{"value":1000000},"id":1}"#;

/// Measures both.
pub(crate) fn measure(_host: &crate::Host) -> Result<Vec<Figure>> {
    let mut figures = requests()?;
    figures.push(receipts()?);
    Ok(figures)
}

fn requests() -> Result<Vec<Figure>> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let policy = policy(port)?;
    let broker = Broker::new(Arc::new(NoSecrets), Protected::new("/nowhere".into(), Vec::new()));
    let call: CallId = "00000000000000000000000001".parse().context("not a call id")?;
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_nodelay(true)?;
    let (mut plain, mut brokered) = (Vec::new(), Vec::new());
    for run in 0..WARM_UP + TIMES {
        let begun = Instant::now();
        by_hand(&mut client)?;
        let between = Instant::now();
        ask(&broker, &policy, call, port)?;
        if WARM_UP <= run {
            plain.push(between.duration_since(begun));
            brokered.push(between.elapsed());
        }
    }
    broker.ended(call, &Trace::default());
    let plain = Figure::times("broker: floor, the same HTTP request by a plain client", &plain)?;
    let brokered = Figure::times("broker: loopback HTTP request of a guest", &brokered)?;
    let added = brokered.value - plain.value;
    let added = Figure::exact("broker: of which the broker, at the median", added, "ms").goal(0.5);
    Ok(vec![brokered, plain, added])
}

fn receipts() -> Result<Figure> {
    let home = tempfile::tempdir().context("no directory for receipts")?;
    let ledger = Receipts::new(home.path().join("receipts"));
    let mut times = Vec::new();
    for run in 0..WARM_UP + TIMES {
        let record = record();
        let begun = Instant::now();
        ledger.ready().context("receipts can't be kept")?;
        ledger.write(&record).context("a receipt was not kept")?;
        if WARM_UP <= run {
            times.push(begun.elapsed());
        }
    }
    Ok(Figure::times("broker: receipt of a call with one request", &times)?.goal(0.2))
}

fn record() -> Record {
    let reach = Reach::Http {
        method: "POST".into(),
        host: "127.0.0.1".into(),
        port: 8899,
        path: "/".into(),
        status: Some(200),
        sent_bytes: 120,
        received_bytes: 64,
        refused: None,
    };
    Record {
        call: CallId::now(),
        client: ClientName::new("bench"),
        server: "solana".into(),
        tool: "get_balance".into(),
        arguments: Digest::of(b"{}"),
        result: Some(Digest::of(b"{}")),
        decision: Decision::Allow,
        rule: None,
        origin: "line 7 `mcp_servers.solana`".into(),
        isolation: Isolation {
            image: Some("unikraft_tool_executor".into()),
            total: Some(Duration::from_millis(15)),
            ..Isolation::none(RunMode::Unikernel)
        },
        isolation_failure: None,
        exit: "result".into(),
        reason: None,
        reaches: vec![reach],
        reaches_left_out: 0,
    }
}

fn policy(port: u16) -> Result<Resolved> {
    let config = format!(
        r#"{{"mcp_servers": {{"s": {{"network_enabled": true, "egress": [{{"host": "127.0.0.1",
            "ports": [{port}], "methods": ["POST"], "rate_per_minute": 1000000}}]}}}}}}"#
    );
    let env = Env::new(None, None, Some("/nowhere".into()))?;
    let config = Config::parse(config.as_bytes(), Path::new("bench.json"), &env)?;
    Ok(config.resolve("s", "t"))
}

fn ask(broker: &Broker, policy: &Resolved, call: CallId, port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/");
    let params = format!(r#"{{"method":"POST","url":"{url}","body":"{{\"id\":1}}"}}"#);
    let params = RawValue::from_string(params)?;
    let (trace, cancel) = (Trace::default(), Cancel::default());
    let request = HostRequest {
        call,
        policy,
        method: "host/http",
        params: Some(&params),
        deadline: Instant::now() + Duration::from_secs(10),
        cancel: &cancel,
        trace: &trace,
    };
    let answer = broker.serve(&request).context("the broker refused")?;
    ensure!(answer.get().contains("1000000"), "another answer");
    Ok(())
}

fn by_hand(stream: &mut TcpStream) -> Result<()> {
    let request = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8\r\n\r\n{\"id\":1}";
    stream.write_all(request.as_bytes())?;
    read_until(stream, BODY.as_bytes())
}

/// Reads to the end of a message that ends so, and fits.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Result<()> {
    let (mut buffer, mut filled) = ([0; 4096], 0);
    while !buffer.get(..filled).unwrap_or_default().ends_with(end) {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
        ensure!(read > 0, "the connection ended");
        filled += read;
    }
    Ok(())
}

/// Answers each request of a connection, until it ends.
fn answer(mut stream: TcpStream) {
    let _slower = stream.set_nodelay(true);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    while read_until(&mut stream, br#"{"id":1}"#).is_ok() {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
