//! The server's process: started on pipes, reaped with everything that becomes an orphan.

use crate::launch::Order;
use crate::{Error, LAUNCH};
use osvm_protocol::linux::Orders;
use osvm_protocol::linux::net::PROXY_PORT;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its stdin; `None` once it is closed.
    pub(crate) stdin: Option<OwnedFd>,
    /// Its stdout.
    pub(crate) stdout: Option<OwnedFd>,
    /// Its stderr.
    pub(crate) stderr: Option<OwnedFd>,
    /// Its process id.
    pub(crate) pid: Pid,
    /// Gives one [`Ended`] when it is over.
    pub(crate) ended: OwnedFd,
}

/// How the server ended: one of the two, as raw numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// Bytes of an [`Ended`] in the pipe from the thread that reaps.
pub(crate) const ENDED_LEN: usize = 8;

impl Ended {
    fn encode(status: WaitStatus) -> [u8; ENDED_LEN] {
        let code = status.exit_status().unwrap_or(-1).to_le_bytes();
        let signal = status.terminating_signal().unwrap_or(-1).to_le_bytes();
        let mut bytes = [0; ENDED_LEN];
        for (to, from) in bytes.iter_mut().zip(code.into_iter().chain(signal)) {
            *to = from;
        }
        bytes
    }

    /// Reads what [`Server::ended`] gives.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first_chunk()?;
        let number = |bytes: [u8; 4]| Some(i32::from_le_bytes(bytes)).filter(|n| 0 <= *n);
        Some(Self { code: number(*code), signal: number(*rest.first_chunk()?) })
    }
}

/// Starts the server, with `hooks` in its environment.
pub(crate) fn start(orders: &Orders, hooks: Vec<(String, String)>) -> Result<Server, Error> {
    let order = Order {
        uid: orders.uid,
        max_processes: orders.max_processes,
        cwd: orders.cwd.clone().into(),
        command: find(orders).into(),
        args: orders.args.iter().map(Into::into).collect(),
    };
    // Spawned through /proc, because the file went with the RAM disk.
    let mut command = Command::new("/proc/self/exe");
    command.arg(LAUNCH).args(order.words());
    command.env_clear().envs(environment(orders, hooks));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::during("start the server"))?;
    let server = Server {
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().map(OwnedFd::from),
        stderr: child.stderr.take().map(OwnedFd::from),
        pid: Pid::from_child(&child),
        ended: reaper(Pid::from_child(&child))?,
    };
    for pipe in [&server.stdin, &server.stdout, &server.stderr].into_iter().flatten() {
        ioctl_fionbio(pipe, true).map_err(Error::during("prepare the server's pipes"))?;
    }
    Ok(server)
}

/// Sends `signal` to every process but this one: kill(2) with -1.
pub(crate) fn signal_all(signal: Signal) {
    // It fails if there is no other process, which is fine.
    let _none = kill_process_group(Pid::INIT, signal);
}

/// The environment, hooks appended to variables that hold lists.
fn environment(orders: &Orders, hooks: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut env = orders.env.clone();
    if orders.network {
        // What the server's own settings say comes first.
        let missing = way_out().into_iter().filter(|(name, _)| env.iter().all(|(n, _)| n != name));
        let missing: Vec<_> = missing.collect();
        env.extend(missing);
    }
    for (name, value) in hooks {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) if name == "PYTHONPATH" => *known = format!("{value}:{known}"),
            Some((_, known)) => *known = format!("{value} {known}"),
            None => env.push((name, value)),
        }
    }
    env
}

/// What tells programs of the proxy. Node looks at the others only if it is told to.
fn way_out() -> Vec<(String, String)> {
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let rest = [("NO_PROXY", "localhost"), ("no_proxy", "localhost"), ("NODE_USE_ENV_PROXY", "1")];
    names.map(|name| (name, proxy.as_str())).into_iter().chain(rest).map(own).collect()
}

/// Looks a plain name up in the server's own `PATH`, not in this program's.
fn find(orders: &Orders) -> PathBuf {
    let name = PathBuf::from(&orders.command);
    let path = orders.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str());
    if orders.command.contains('/') {
        return name;
    }
    let folders = path.unwrap_or("/usr/local/bin:/usr/bin:/bin").split(':');
    folders
        .map(|folder| PathBuf::from(folder).join(&name))
        .find(|file| file.exists())
        .unwrap_or(name)
}

/// Waits for every process there is; the server's end is told through the returned pipe.
fn reaper(server: Pid) -> Result<OwnedFd, Error> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::during("make a pipe"))?;
    let run = move || {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == server => {
                    // The reader lives as long as PID 1.
                    let _told = rustix::io::write(&writer, &Ended::encode(status));
                }
                Ok(_) | Err(Errno::INTR) => {}
                // Nobody is left, and nobody will come: the server was the first of them all.
                Err(_) => return,
            }
        }
    };
    let thread = std::thread::Builder::new().name("reaper".into()).stack_size(64 * 1024);
    thread.spawn(run).map_err(Error::during("start a thread"))?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_protocol::linux::Channel;

    fn orders(env: &[(&str, &str)]) -> Orders {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Orders {
            protocol: 1,
            channel: Channel::VirtioSerial,
            command: "sh".into(),
            args: Vec::new(),
            env: env.iter().map(own).collect(),
            cwd: "/".into(),
            uid: 1,
            own: Vec::new(),
            writable_mib: 1,
            max_processes: 1,
            entropy: None,
            clock_behind_secs: 0,
            hooks: true,
            network: false,
            places: Vec::new(),
        }
    }

    #[test]
    fn hooks_join_what_the_server_has_already() {
        let orders = orders(&[("PYTHONPATH", "/app"), ("NODE_OPTIONS", "--jitless")]);
        let hook = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env =
            environment(&orders, vec![hook("PYTHONPATH", "/h"), hook("NODE_OPTIONS", "-r h")]);
        assert_eq!(env, [hook("PYTHONPATH", "/h:/app"), hook("NODE_OPTIONS", "-r h --jitless")]);
    }

    #[test]
    fn a_way_out_is_told_of_where_there_is_one() {
        let mut orders = orders(&[("NO_PROXY", "own")]);
        assert_eq!(environment(&orders, Vec::new()).len(), 1);
        orders.network = true;
        let env = environment(&orders, Vec::new());
        let value =
            |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("HTTPS_PROXY"), Some("http://127.0.0.1:3128"));
        assert_eq!(value("NO_PROXY"), Some("own"));
    }

    #[test]
    fn a_plain_name_is_looked_up_in_the_servers_own_path() {
        assert_eq!(find(&orders(&[("PATH", "/nowhere:/bin")])), PathBuf::from("/bin/sh"));
        assert_eq!(find(&orders(&[("PATH", "/nowhere")])), PathBuf::from("sh"));
    }
}
