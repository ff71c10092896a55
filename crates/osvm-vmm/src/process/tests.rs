//! VM processes played by a shell: how they end, what they leave, what they are given.

use super::*;
use std::fs;
use std::io::Write;
use std::mem;
use std::os::unix::process::ExitStatusExt;

#[test]
fn dropping_it_leaves_no_process() {
    let process = shell("exec sleep 1000");
    let pid = process.pid();
    assert!(alive(pid));
    drop(process);
    assert!(!alive(pid));
}

#[test]
fn a_killed_process_says_by_which_signal() {
    let mut process = shell("exec sleep 1000");
    let killer = process.killer();
    killer.kill();
    let status = process.wait(soon()).unwrap().unwrap();
    assert_eq!(status.signal(), Some(9));
    killer.kill();
    drop(process);
    killer.kill();
}

#[test]
fn a_running_process_is_waited_for_no_longer_than_asked() {
    let mut process = shell("exec sleep 1000");
    assert_eq!(process.wait(Instant::now() + Duration::from_millis(20)).unwrap(), None);
}

#[test]
fn last_words_are_cut_and_never_block_the_process() {
    let mut process = shell("head -c 1000000 /dev/zero >&2; exit 3");
    let status = process.wait(soon()).unwrap().unwrap();
    // `head` gives up when the pipe is full; the shell still gets to its exit.
    assert_eq!(status.code(), Some(3));
    assert!(process.report().len() <= 3 * MAX_REPORT);
}

#[test]
fn last_words_arrive() {
    let mut process = shell("echo no room >&2; echo at all >&2");
    process.wait(soon()).unwrap();
    assert_eq!(process.report(), "no room; at all");
}

#[test]
fn the_environment_stays_here() {
    let mut process = shell("env >&2");
    process.wait(soon()).unwrap();
    let report = process.report();
    assert!(!report.contains("CARGO"), "{report}");
}

#[test]
fn a_mapped_descriptor_has_its_number() {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let args = ["-c".into(), "cat <&7 >&2".into()];
    let mut launch = script(&args);
    launch.fds.push((theirs, 7));
    let mut process = VmProcess::spawn(launch).unwrap();
    fs::File::from(ours).write_all(b"through seven").unwrap();
    process.wait(soon()).unwrap();
    assert_eq!(process.report(), "through seven");
}

#[test]
fn the_lifeline_hangs_up_when_its_holder_is_gone() {
    // `cat` ends at the end of its input, which here is the reading end of the lifeline.
    let mut process = shell("exec cat <&1");
    assert_eq!(process.wait(Instant::now() + Duration::from_millis(50)).unwrap(), None);
    let elsewhere = process.report.try_clone().unwrap();
    drop(mem::replace(&mut process._lifeline, elsewhere));
    assert!(process.wait(soon()).unwrap().unwrap().success());
}

#[test]
fn a_missing_program_is_not_found() {
    let args = [];
    let launch = Launch { program: Path::new("/nowhere/osvm-vm"), ..script(&args) };
    assert_eq!(VmProcess::spawn(launch).unwrap_err().kind(), io::ErrorKind::NotFound);
}

fn shell(commands: &str) -> VmProcess {
    VmProcess::spawn(script(&["-c".into(), commands.into()])).unwrap()
}

fn script(args: &[OsString]) -> Launch<'_> {
    let stdin = fs::File::open("/dev/null").unwrap().into();
    Launch { program: Path::new("/bin/sh"), args, stdin, fds: Vec::new() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn memory_of_a_file_that_others_have_too_is_not_counted() {
    let rollup = "Rss: 900 kB\nPrivate_Dirty: 800 kB\nAnonymous:          42 kB\n";
    assert_eq!(anonymous(rollup), Some(42));
}
