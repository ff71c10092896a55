//! The status line of a session: the counts of `osvm status`, and where the agent is.

use super::words;
use crate::context::{Context, cases};
use crate::failure::Failure;
use osvm_policy::Env;
use osvm_runtime::Runtime;
use osvm_runtime::cids::Holder;
use std::time::{Duration, Instant};

/// Tells the status.
#[derive(Debug)]
pub(crate) struct StatusLine {
    runtime: Runtime,
    began: Instant,
    place: &'static str,
    brokered: bool,
}

impl StatusLine {
    /// The status of a session whose agent runs at `place`.
    pub(crate) fn new(context: &Context, env: &Env, place: &'static str) -> Result<Self, Failure> {
        let config = context.config(env)?;
        let brokered = cases(&config).any(|(server, tool)| {
            let resolved = config.resolve(server, tool);
            resolved.network_enabled && !resolved.egress.is_empty()
        });
        let runtime = context.runtime(config, env)?;
        Ok(Self { runtime, began: Instant::now(), place, brokered })
    }

    /// The line, and below it why the last call was not isolated, if it was not.
    pub(crate) fn text(&self) -> String {
        let up = Duration::from_secs(self.began.elapsed().as_secs());
        match self.runtime.status(up) {
            Ok(status) => {
                let servers = !status.servers.is_empty();
                with_agent(&status.to_string(), servers, self.place, self.brokered)
            }
            // What can't be counted is not shown as none.
            Err(error) => format!("OSVM: unknown: {error}"),
        }
    }

    /// The guests that run now; none where they can't be told.
    pub(crate) fn guests(&self) -> Vec<Holder> {
        self.runtime.guests().unwrap_or_default()
    }
}

fn with_agent(status: &str, servers: bool, place: &str, brokered: bool) -> String {
    let (counts, rest) = status.split_once(" • ").unwrap_or((status, ""));
    let between = if servers { " " } else { " • " };
    let rest =
        if brokered { rest.replacen("net:none", "net:brokered", 1) } else { rest.to_owned() };
    format!("{counts} • agent({place}:run){between}{rest}")
}

/// The line in at most `width` letters: servers are left out and counted before anything else is.
pub(crate) fn fit(line: &str, width: usize) -> String {
    let fits = |line: &str| line.chars().count() <= width;
    let mut parts = line.splitn(3, " • ");
    let (Some(counts), Some(places), Some(rest)) = (parts.next(), parts.next(), parts.next())
    else {
        return words::brief(line, width);
    };
    let places: Vec<&str> = places.split(' ').collect();
    let shorter = (1..places.len()).rev().map(|shown| {
        let (some, others) = places.split_at(shown);
        format!("{counts} • {} +{} • {rest}", some.join(" "), others.len())
    });
    let all = std::iter::once(line.to_owned());
    all.chain(shorter).find(|line| fits(line)).unwrap_or_else(|| words::brief(line, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let line = "OSVM: 1μVMs 2uK • agent(μVM-1:run) x(uK:cfg) y(uK:cfg) • net:none • up:41s";
        assert_eq!(fit(line, 80), line);
        assert_eq!(
            fit(line, 70),
            "OSVM: 1μVMs 2uK • agent(μVM-1:run) x(uK:cfg) +1 • net:none • up:41s"
        );
        assert_eq!(fit(line, 60), "OSVM: 1μVMs 2uK • agent(μVM-1:run) +2 • net:none • up:41s");
        assert_eq!(fit(line, 20), "OSVM: 1μVMs 2uK • a…");
        assert_eq!(fit("OSVM: unknown: no file", 10), "OSVM: unk…");
    }

    #[test]
    fn the_agent_stands_before_the_servers() {
        assert_eq!(
            with_agent("OSVM: 1μVMs 2uK • x(uK:cfg) • net:none • up:41s", true, "μVM-1", true),
            "OSVM: 1μVMs 2uK • agent(μVM-1:run) x(uK:cfg) • net:brokered • up:41s"
        );
        assert_eq!(
            with_agent("OSVM: 0μVMs 0uK • net:none • up:0s", false, "host", false),
            "OSVM: 0μVMs 0uK • agent(host:run) • net:none • up:0s"
        );
    }
}
