//! Logs of calls: what is kept, who can write an end line, what a reader gets.

use super::*;
use tempfile::TempDir;

fn bench() -> (TempDir, CallLogs) {
    let dir = tempfile::tempdir().unwrap();
    let logs = CallLogs::new(dir.path().join("calls"));
    (dir, logs)
}

fn header(cid: u32) -> Header {
    let mut header = Header::new(CallId::now(), "system", "echo", "unikernel");
    header.cid = Some(cid);
    header
}

fn end(id: CallId) -> End {
    End {
        end: id,
        outcome: "result".into(),
        isolation_failure: None,
        fell_back: false,
        vm_pid: Some(7),
        total_ms: 1.5,
    }
}

/// A finished call whose guest wrote `console`.
fn finished(logs: &CallLogs, cid: u32, console: &[u8]) -> CallId {
    let header = header(cid);
    let log = logs.begin(header.clone()).unwrap();
    log.console().unwrap().write_all(console).unwrap();
    log.end(&end(header.id)).unwrap();
    header.id
}

fn lines(logs: &CallLogs, id: CallId) -> Vec<LogLine> {
    let mut reader = logs.open(id).unwrap();
    std::iter::from_fn(|| reader.next(false).unwrap()).collect()
}

fn console(text: &str) -> LogLine {
    LogLine::Console(text.into())
}

#[test]
fn a_log_holds_the_facts_the_console_and_the_end() {
    let (_dir, logs) = bench();
    let header = header(200);
    let log = logs.begin(header.clone()).unwrap();
    log.console().unwrap().write_all(b"booting\r\nlast words\n").unwrap();
    log.end(&end(header.id)).unwrap();
    assert_eq!(logs.open(header.id).unwrap().header(), &header);
    assert_eq!(
        lines(&logs, header.id),
        [console("booting"), console("last words"), LogLine::End(end(header.id))]
    );
}

#[test]
fn a_guest_that_dies_in_mid_line_leaves_the_end_line_alone() {
    let (_dir, logs) = bench();
    let id = finished(&logs, 200, b"half a li");
    assert_eq!(lines(&logs, id), [console("half a li"), LogLine::End(end(id))]);
}

#[test]
fn a_guest_cannot_write_an_end_line() {
    let (_dir, logs) = bench();
    let forged = serde_json::to_string(&end(CallId::now())).unwrap();
    let id = finished(&logs, 200, format!("{forged}\n").as_bytes());
    assert_eq!(lines(&logs, id), [console(&forged), LogLine::End(end(id))]);
}

#[test]
fn console_lines_cannot_act_on_the_terminal() {
    let (_dir, logs) = bench();
    let id = finished(&logs, 200, b"\x1b]0;x\x07\xff\tok\n");
    assert_eq!(lines(&logs, id)[0], console("\u{fffd}]0;x\u{fffd}\u{fffd}\tok"));
}

#[test]
fn a_line_without_end_comes_in_pieces() {
    let (_dir, logs) = bench();
    let id = finished(&logs, 200, &[b'x'; 100_000]);
    let lines = lines(&logs, id);
    let lengths = lines.iter().map(|line| match line {
        LogLine::Console(text) => text.len(),
        LogLine::End(_) => 0,
    });
    assert!(lengths.clone().all(|length| length < 32 * 1024));
    assert_eq!(lengths.sum::<usize>(), 100_000);
    assert!(matches!(lines.last(), Some(LogLine::End(_))));
}

#[test]
fn who_follows_sees_what_comes_until_the_last_writer_is_gone() {
    let (_dir, logs) = bench();
    let header = header(200);
    let log = logs.begin(header.clone()).unwrap();
    let mut reader = logs.open(header.id).unwrap();
    assert!(reader.is_live());
    let follower = std::thread::spawn(move || {
        std::iter::from_fn(|| reader.next(true).unwrap()).collect::<Vec<_>>()
    });
    let mut vm = log.console().unwrap();
    vm.write_all(b"one\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(120));
    log.end(&end(header.id)).unwrap();
    assert!(!follower.is_finished());
    vm.write_all(b"late").unwrap();
    drop(vm);
    let expected = [console("one"), LogLine::End(end(header.id)), console("late")];
    assert_eq!(follower.join().unwrap(), expected);
    assert!(!logs.open(header.id).unwrap().is_live());
}

#[test]
fn a_call_is_found_by_the_beginning_of_its_id_and_by_its_cid() {
    let (_dir, logs) = bench();
    let old = finished(&logs, 200, b"");
    std::thread::sleep(std::time::Duration::from_millis(2));
    let new = finished(&logs, 200, b"");
    std::thread::sleep(std::time::Duration::from_millis(2));
    let other = finished(&logs, 201, b"");
    assert_eq!(logs.find("200").unwrap(), new);
    assert_eq!(logs.find("201").unwrap(), other);
    assert_eq!(logs.find(&old.to_string()).unwrap(), old);
    assert_eq!(logs.find(&old.to_string().to_lowercase()[..25]).unwrap(), old);
    assert!(matches!(logs.find("0"), Err(LogError::Ambiguous { count: 3, .. })));
    for query in ["", "202", "7ZZ", "../x", "\u{1b}[2J"] {
        let error = logs.find(query).unwrap_err();
        assert!(matches!(error, LogError::NotFound { .. }), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    assert_eq!(logs.newest().unwrap().unwrap().header().cid, Some(201));
}

#[test]
fn only_the_newest_logs_are_kept() {
    let (_dir, logs) = bench();
    let ids: Vec<CallId> = (0..KEPT + 5).map(|_| finished(&logs, 200, b"")).collect();
    let mut newest = ids.clone();
    newest.sort_unstable_by(|one, other| other.cmp(one));
    newest.truncate(KEPT);
    logs.prune().unwrap();
    assert_eq!(logs.ids().unwrap(), newest);
}

#[test]
fn running_and_finished_calls_are_listed_newest_first() {
    let (_dir, logs) = bench();
    let done = finished(&logs, 200, b"x\n");
    std::thread::sleep(std::time::Duration::from_millis(2));
    let running = header(201);
    let _log = logs.begin(running.clone()).unwrap();
    let calls = logs.list().unwrap();
    let [first, second] = &*calls else { panic!("{calls:?}") };
    assert_eq!((first.header.id, first.live, &first.end), (running.id, true, &None));
    assert_eq!((second.header.id, second.live), (done, false));
    assert_eq!(second.end, Some(end(done)));
}

#[test]
fn files_that_are_no_logs_are_left_alone() {
    let (_dir, logs) = bench();
    let id = finished(&logs, 200, b"");
    let damaged = CallId::now();
    std::fs::write(logs.path(damaged), "{}\n").unwrap();
    std::fs::write(logs.dir.join("notes.txt"), "mine").unwrap();
    assert!(matches!(logs.open(damaged), Err(LogError::Damaged { .. })));
    assert_eq!(logs.list().unwrap().len(), 1);
    assert_eq!(logs.list().unwrap()[0].header.id, id);
    logs.prune().unwrap();
    assert!(logs.dir.join("notes.txt").exists());
}

#[test]
fn logs_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, logs) = bench();
    let id = finished(&logs, 200, b"");
    let mode = logs.path(id).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn before_the_first_call_there_is_nothing() {
    let (_dir, logs) = bench();
    assert!(logs.list().unwrap().is_empty());
    assert!(logs.newest().unwrap().is_none());
    logs.prune().unwrap();
}
