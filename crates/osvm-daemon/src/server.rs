//! The daemon: lets clients in, and ends in order.
//!
//! ```text
//! serve ── accept, one thread each ──▶ … ── Stopper::stop, or idle ──▶ drain ──▶ nothing left
//!
//! drain:  socket gone ▶ idle clients closed ▶ unused VMs destroyed ▶ calls finish, up to a time
//!         ▶ the rest cancelled ▶ every guest destroyed
//! ```

use crate::clients::{self, Clients};
use crate::door::{Door, is_own};
use crate::service::{Host, Service};
use crate::undertaker::Undertaker;
use osvm_runtime::pool::Pool;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};
use thiserror::Error;
use tracing::{debug, info, warn};

/// How often it looks whether something has changed that nobody tells it about.
const TICK: Duration = Duration::from_secs(1);

/// How long cancelled calls may take to end. It takes milliseconds.
const LAST_MOMENT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be taken in, so that it is not tried in a busy loop.
const PAUSE: Duration = Duration::from_millis(50);

/// Stack of the thread of one client, in bytes. JSON is nested 128 deep at most.
const STACK: usize = 512 * 1024;

/// How a daemon behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Ends by itself when nobody has been connected for so long.
    pub idle_exit: Option<Duration>,
    /// How long calls that run may take to finish once it ends.
    pub drain: Duration,
}

/// Ends a daemon, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Stop>);

#[derive(Debug)]
struct Stop {
    stopped: AtomicBool,
    event: OwnedFd,
}

/// The daemon could not be set up.
#[derive(Debug, Error)]
#[error("cannot set up the daemon: the host refused {what}")]
pub struct ServeError {
    /// What it needs.
    what: &'static str,
    /// What the host answered.
    source: io::Error,
}

/// What the threads of a daemon share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) clients: Clients,
    pub(crate) undertaker: Undertaker,
    pub(crate) stopper: Stopper,
    pub(crate) since: Instant,
}

impl Stopper {
    /// One for a daemon that may not run yet.
    ///
    /// # Errors
    ///
    /// The host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Stop { stopped: AtomicBool::new(false), event })))
    }

    /// Ends the daemon in order. Without effect on one that is ending.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        // It fails only when the counter is full, which wakes the waiters just as well.
        let _full = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
    }

    fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }
}

/// Runs a daemon until it is stopped, or idle for long enough. When it returns, nothing of it is
/// left.
///
/// # Errors
///
/// [`ServeError`] when it can't begin. What goes wrong later is logged and told to clients.
pub fn serve(
    mut door: Door,
    host: Box<dyn Host>,
    options: Options,
    stopper: &Stopper,
) -> Result<(), ServeError> {
    allow_files();
    let refused = |what| move |source| ServeError { what, source };
    door.listener().set_nonblocking(true).map_err(refused("a socket that does not block"))?;
    let pool = Arc::new(Pool::start().map_err(refused("threads"))?);
    let shared = Arc::new(Shared {
        clients: Clients::new().map_err(refused("descriptors"))?,
        undertaker: Undertaker::start().map_err(refused("threads"))?,
        stopper: stopper.clone(),
        since: Instant::now(),
        service: Service::new(host, pool),
    });
    let helpers = [
        helper(&shared, "hang-ups", |shared| shared.clients.watch_hang_ups()),
        helper(&shared, "keeper", keep),
    ];
    let mut threads = Vec::new();
    for helper in helpers {
        threads.push(helper.map_err(refused("threads"))?);
    }
    info!(pid = std::process::id(), "the daemon is ready");
    accept(&door, &shared, options);
    door.close();
    drain(&shared, options.drain);
    for thread in threads {
        // A thread that panicked is as gone as one that returned.
        let _ended = thread.join();
    }
    info!("the daemon has ended");
    Ok(())
}

/// Lets clients in until it is time to end.
fn accept(door: &Door, shared: &Arc<Shared>, options: Options) {
    let tick = Timespec::try_from(TICK).ok();
    while !shared.stopper.is_stopped() {
        let mut fds = [
            PollFd::new(door.listener(), PollFlags::IN),
            PollFd::new(&shared.stopper.0.event, PollFlags::IN),
        ];
        if let Err(error) = poll(&mut fds, tick.as_ref())
            && error != rustix::io::Errno::INTR
        {
            warn!(%error, "cannot wait for clients");
            std::thread::sleep(PAUSE);
        }
        match door.listener().accept() {
            Ok((stream, _)) => let_in(shared, stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if options.idle_exit.is_some_and(|limit| limit <= shared.clients.quiet()) {
                    info!("nobody has asked for anything for a while");
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "a client could not be let in");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn let_in(shared: &Arc<Shared>, stream: UnixStream) {
    if !is_own(&stream) {
        warn!("a process of another user was turned away");
        return;
    }
    let stream = Arc::new(stream);
    let Some(id) = shared.clients.enter(&stream) else {
        debug!("a client was turned away");
        clients::turn_away(&stream);
        return;
    };
    let serve = {
        let shared = Arc::clone(shared);
        move || clients::serve(&shared, id, stream)
    };
    if let Err(error) = Builder::new().name("client".into()).stack_size(STACK).spawn(serve) {
        warn!(%error, "no thread for a client");
        shared.clients.leave(id);
    }
}

/// Follows changes of the config, the images and the program.
fn keep(shared: &Shared) {
    let tick = Timespec::try_from(TICK).ok();
    while !shared.stopper.is_stopped() {
        // A signal only makes it look a little early.
        let _woken =
            poll(&mut [PollFd::new(&shared.stopper.0.event, PollFlags::IN)], tick.as_ref());
        if let Some(reason) = shared.service.host().outdated() {
            info!(reason, "the daemon makes room for a new one");
            shared.stopper.stop();
        }
        if !shared.stopper.is_stopped() {
            shared.service.follow();
        }
    }
}

fn drain(shared: &Shared, limit: Duration) {
    shared.stopper.stop();
    shared.clients.close();
    shared.service.pool().close();
    if !shared.clients.wait_for_end(Instant::now() + limit) {
        warn!(after_secs = limit.as_secs(), "calls that still run are cancelled");
        shared.clients.cancel_all();
        if !shared.clients.wait_for_end(Instant::now() + LAST_MOMENT) {
            warn!("some clients do not end; their VMs end with this process");
        }
    }
    shared.clients.stop_watching();
    shared.undertaker.finish();
}

fn helper(
    shared: &Arc<Shared>,
    name: &str,
    work: impl Fn(&Shared) + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name(name.into()).spawn(move || work(&shared))
}

/// Every VM takes some descriptors, so as many are allowed as the host lets this process have.
fn allow_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        debug!(%error, "the limit of open files stays as it is");
    }
}
