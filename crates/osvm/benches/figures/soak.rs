//! Many calls at once while VM processes are killed, clients hang up and guests misbehave.
//!
//! Only when it is asked for by name, because it takes minutes: `cargo xtask bench soak`.
//!
//! # Invariants
//!
//! - Every call is answered rightly or fails with an error of its own; anything else ends the run.
//! - Only processes are killed that the daemon says are its own.
//! - The same random numbers in every run: `SOAK_SEED` names others, `SOAK_CALLS` how many calls.

use crate::daemon::{Daemon, proc_kb, raw, vms};
use crate::figure::Figure;
use crate::host::Host;
use anyhow::{Context, Result, bail, ensure};
use osvm_daemon::ClientError;
use osvm_daemon::client::Trouble;
use osvm_runtime::cids::Cids;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const CALLS: u64 = 10_000;
const CLIENTS: usize = 50;
/// Unused VMs that are kept of each kind.
const SIZE: usize = 4;
/// VMs at once: fewer than callers, so that some always wait.
const MAX_VMS: usize = 40;
/// Descriptors a daemon may have more than before: those of this program's own questions.
const FEW_FILES: u64 = 8;
/// Memory a daemon may have more than before, in KiB: allocators keep some of what was used.
const FEW_KB: u64 = 8 * 1024;

/// Tools whose guests misbehave, with arguments that fit: the guest of each is the hostile image.
const HOSTILE: [(&str, &str, &str); 8] = [
    ("panic", "get_slot", "{}"),
    ("triple_fault", "get_block_height", "{}"),
    ("die_mid_frame", "get_epoch_info", "{}"),
    ("announce_4gib", "get_latest_blockhash", "{}"),
    ("flood", "get_block", r#"{"slot":1}"#),
    ("wrong_id", "validate_address", r#"{"address":"x"}"#),
    ("rubbish_rings", "get_balance", r#"{"address":"x"}"#),
    ("spin", "get_account_info", r#"{"address":"x"}"#),
];

/// What came of the calls.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    /// Good calls whose VM was killed.
    killed: AtomicU64,
    /// Calls whose guest misbehaved.
    hostile: AtomicU64,
    hung_up: AtomicU64,
}

/// The run.
struct Soak<'a> {
    daemon: &'a Daemon,
    tally: Tally,
    next: AtomicU64,
    calls: u64,
    seed: u64,
    over: AtomicBool,
    /// Every VM process that was ever seen, and when it was started: numbers come again.
    seen: Mutex<BTreeSet<(u32, u64)>>,
    kills: AtomicU64,
}

/// Runs it, and says what is left.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    host.install_hostile()?;
    let tools = HOSTILE.map(|(behaviour, tool, _)| {
        format!(
            r#""{tool}":{{"unikernel_image":"hostile","env_vars":{{"HOSTILE":"{behaviour}"}}}}"#
        )
    });
    // Hostile kinds are kept too: whatever does not get ready has to stop nobody else.
    let config = format!(
        r#""pool":{{"size":{SIZE},"max_vms":{MAX_VMS},"max_vms_per_server":{}}},
           "mcp_servers":{{"system":{{"timeout_secs":60}},
             "solana":{{"timeout_secs":3,"tools":{{{}}}}}}}"#,
        MAX_VMS - 8,
        tools.join(",")
    );
    let daemon = Daemon::start(host, "kvm", &config)?;
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("`{name}` is no number")),
        Err(_) => Ok(default),
    };
    let soak = Soak {
        daemon: &daemon,
        tally: Tally::default(),
        next: AtomicU64::new(0),
        calls: number("SOAK_CALLS", CALLS)?,
        seed: number("SOAK_SEED", 1)?,
        over: AtomicBool::new(false),
        seen: Mutex::default(),
        kills: AtomicU64::new(0),
    };
    let before = soak.settled()?;
    let begun = Instant::now();
    soak.run()?;
    let took = begun.elapsed();
    let after = soak.settled()?;
    let left = soak.left_behind(&before, &after)?;
    let figures = soak.figures(took, &before, &after, left);
    let run = daemon.run_dir();
    let home = daemon.stop()?;
    ensure!(!run.join(osvm_daemon::SOCKET).exists(), "the socket was left behind");
    let held = Cids::new(&run, 0..=u32::MAX).list().context("cannot list the CIDs")?;
    ensure!(held.is_empty(), "CIDs are still in use: {held:?}");
    drop(home);
    figures
}

/// The daemon while nothing runs.
#[derive(Debug)]
struct Settled {
    files: u64,
    memory_kb: u64,
}

impl Soak<'_> {
    fn run(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| self.kill_now_and_then());
            let callers: Vec<_> =
                (0..CLIENTS).map(|number| scope.spawn(move || self.caller(number))).collect();
            let mut result = Ok(());
            for caller in callers {
                let ended = caller.join().unwrap_or_else(|_| bail!("a caller panicked"));
                result = result.and(ended);
            }
            self.over.store(true, Ordering::SeqCst);
            let killer = killer.join().unwrap_or_else(|_| bail!("the killer panicked"));
            result.and(killer)
        })
    }

    fn caller(&self, number: usize) -> Result<()> {
        let mut random = Random(self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        loop {
            let call = self.next.fetch_add(1, Ordering::SeqCst);
            if self.calls <= call || self.over.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.call(call, &mut random)
                .inspect_err(|_| self.over.store(true, Ordering::SeqCst))?;
        }
    }

    /// One call: most are good, one in ten has a hostile guest, one in ten is hung up on.
    fn call(&self, number: u64, random: &mut Random) -> Result<()> {
        let hostile = random.one_in(10).then(|| random.pick(&HOSTILE)).flatten();
        let text = format!(r#"{{"text":"{number}"}}"#);
        let (server, tool, arguments) = match hostile {
            Some((_, tool, arguments)) => ("solana", *tool, *arguments),
            None => ("system", "echo", text.as_str()),
        };
        let mut client = self.daemon.connect()?;
        let hang_up = random.one_in(10).then(|| client.hang_up());
        let pause = Duration::from_micros(random.below(60_000));
        let hanging = hang_up.is_some();
        let watcher = hang_up.map(|hang_up| {
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                hang_up.hang_up();
            })
        });
        let reply = client.call(self.daemon.head(server, tool), &raw(arguments)?);
        watcher.into_iter().for_each(|watcher| _ = watcher.join());
        let add = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::SeqCst);
        match reply.map(|reply| reply.outcome) {
            Err(ClientError::Wire(_)) if hanging => add(&self.tally.hung_up),
            Err(error) => bail!("call {number} of `{server}/{tool}`: {error}"),
            Ok(Ok(result)) => {
                ensure!(hostile.is_none(), "a hostile guest answered `{}`", result.get());
                ensure!(result.get() == text, "call {number} got `{}`", result.get());
                add(&self.tally.answered);
            }
            Ok(Err(Trouble::Osvm(failure))) => {
                let own = ["guest", "boot", "timeout"].contains(&failure.code.as_str());
                ensure!(own, "call {number} of `{server}/{tool}`: {failure:?}");
                add(if hostile.is_some() { &self.tally.hostile } else { &self.tally.killed });
            }
            Ok(Err(Trouble::Tool(error))) => bail!("call {number}: {}", error.message),
        }
        Ok(())
    }

    /// Kills VM processes of the daemon, used and unused ones.
    fn kill_now_and_then(&self) -> Result<()> {
        let mut random = Random(self.seed);
        while !self.over.load(Ordering::SeqCst) {
            let pids = vms(&self.daemon.status()?, |_| true);
            if let Some(pid) = random.pick(&pids)
                && let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw)
                && kill_process(pid, Signal::KILL).is_ok()
            {
                self.kills.fetch_add(1, Ordering::SeqCst);
            }
            let known = pids.into_iter().filter_map(|pid| Some((pid, started(pid)?)));
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
            std::thread::sleep(Duration::from_millis(20 + random.below(80)));
        }
        Ok(())
    }

    /// Waits until no call runs, and the good kind is in stock.
    fn settled(&self) -> Result<Settled> {
        let status = self.daemon.eventually("the daemon to be quiet", |daemon| {
            let status = daemon.status()?;
            let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
            let quiet = number("/pool/in_use") == Some(0) && number("/calls/running") == Some(0);
            let good = |shelf: &&Value| shelf.get("image") != Some(&Value::from("hostile"));
            let shelves = status.pointer("/pool/shelves").and_then(Value::as_array);
            let full = shelves.into_iter().flatten().filter(good).all(|shelf| {
                shelf.get("idle").and_then(Value::as_array).is_some_and(|idle| idle.len() == SIZE)
            });
            Ok((quiet && full).then_some(status))
        })?;
        let pid = self.daemon.pid().context("the daemon has ended")?;
        let files = status.get("open_files").and_then(Value::as_u64).context("no `open_files`")?;
        Ok(Settled { files, memory_kb: proc_kb(pid, "status", "RssAnon:")? })
    }

    /// What should not be there any more.
    fn left_behind(&self, before: &Settled, after: &Settled) -> Result<f64> {
        let living = vms(&self.daemon.status()?, |_| true);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = |(pid, since): &&(u32, u64)| started(*pid) == Some(*since);
        let stray = seen.iter().filter(|(pid, _)| !living.contains(pid)).filter(lives).count();
        let tally = &self.tally;
        let counters = [&tally.answered, &tally.killed, &tally.hostile, &tally.hung_up];
        let told: u64 = counters.into_iter().map(|counter| counter.load(Ordering::SeqCst)).sum();
        ensure!(told == self.calls, "{told} of {} calls ended", self.calls);
        ensure!(stray == 0, "{stray} VM processes were left behind");
        let files = after.files.saturating_sub(before.files);
        ensure!(files <= FEW_FILES, "the daemon has {files} more descriptors open");
        let kb = after.memory_kb.saturating_sub(before.memory_kb);
        ensure!(kb <= FEW_KB, "the daemon has {kb} KiB more");
        Ok(stray as f64)
    }

    fn figures(
        &self,
        took: Duration,
        before: &Settled,
        after: &Settled,
        left: f64,
    ) -> Result<Vec<Figure>> {
        let Tally { answered, killed, hostile, hung_up } = &self.tally;
        let count = |name: &str, counter: &AtomicU64| {
            Figure::exact(format!("soak: {name}"), counter.load(Ordering::SeqCst) as f64, "")
        };
        let more = |after: u64, before: u64| after as f64 - before as f64;
        Ok(vec![
            count("calls answered rightly", answered),
            count("good calls whose VM was killed, with an error of their own", killed),
            count("calls to hostile guests, with an error of their own", hostile),
            count("calls hung up on", hung_up),
            count("VM processes killed", &self.kills),
            Figure::exact("soak: calls per second", self.calls as f64 / took.as_secs_f64(), "/s"),
            Figure::exact("soak: VM processes left behind", left, "").goal(0.0),
            Figure::exact(
                "soak: descriptors more than before",
                more(after.files, before.files),
                "",
            )
            .goal(FEW_FILES as f64),
            Figure::exact(
                "soak: memory of the daemon more than before",
                more(after.memory_kb, before.memory_kb),
                "KiB",
            )
            .goal(FEW_KB as f64),
        ])
    }
}

/// When a process was started, in ticks since the host's start: field 22 of proc_pid_stat(5).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may have blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Numbers that look random: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let position = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(position)
    }
}
