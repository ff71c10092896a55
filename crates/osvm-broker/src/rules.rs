//! Which egress rule allows a request: the first that fits, else none.
//!
//! There are no rules that forbid, so whatever is compared too strictly here is refused, never
//! let through.

use crate::refusal::Refusal;
use crate::target::{Name, Target};
use osvm_policy::{EgressRule, HostPattern, PathPattern, Resolved};
use serde::Serialize;
use std::collections::BTreeSet;

/// The method of rules for connections that carry what osvm does not read.
pub(crate) const CONNECT: &str = "CONNECT";

/// What is compared with the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a Name,
    pub(crate) port: u16,
    /// None for a connection.
    pub(crate) target: Option<&'a Target>,
}

/// The rule of `policy` that allows what is wanted.
pub(crate) fn find<'p>(
    policy: &'p Resolved,
    wanted: &Wanted<'_>,
) -> Result<&'p EgressRule, Refusal> {
    if !policy.network_enabled {
        return Err(Refusal::NetworkOff {
            host: wanted.host.to_string(),
            server: policy.server.clone(),
            tool: policy.tool.clone(),
        });
    }
    let allowed = policy.egress.iter().find(|rule| lacks(rule, wanted).is_none());
    allowed.ok_or_else(|| refusal(&policy.egress, wanted))
}

/// The ports at which some rule lets `host` be reached, in order.
pub(crate) fn ports(policy: &Resolved, host: &Name) -> Result<Vec<u16>, Refusal> {
    if !policy.network_enabled {
        return Err(Refusal::NetworkOff {
            host: host.to_string(),
            server: policy.server.clone(),
            tool: policy.tool.clone(),
        });
    }
    let rules = policy.egress.iter().filter(|rule| host_fits(&rule.host, host));
    let ports: BTreeSet<u16> = rules.flat_map(|rule| rule.ports.iter().copied()).collect();
    if ports.is_empty() {
        let wanted = Wanted { method: CONNECT, host, port: 443, target: None };
        return Err(refusal(&policy.egress, &wanted));
    }
    Ok(ports.into_iter().collect())
}

/// What a rule is short of, in the order in which a request is compared; the greater, the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Host,
    Port,
    Method,
    Path,
}

fn lacks(rule: &EgressRule, wanted: &Wanted<'_>) -> Option<Lack> {
    if !host_fits(&rule.host, wanted.host) {
        Some(Lack::Host)
    } else if !rule.ports.contains(&wanted.port) {
        Some(Lack::Port)
    } else if !rule.methods.iter().any(|method| method == wanted.method) {
        Some(Lack::Method)
    } else if wanted.target.is_some_and(|target| !path_fits(&rule.paths, target)) {
        Some(Lack::Path)
    } else {
        None
    }
}

fn host_fits(pattern: &HostPattern, host: &Name) -> bool {
    match (pattern, host) {
        (HostPattern::Name(name), Name::Dns(host)) => name == host,
        (HostPattern::Below(domain), Name::Dns(host)) => host
            .strip_suffix(domain.as_str())
            .and_then(|front| front.strip_suffix('.'))
            .is_some_and(|front| !front.is_empty()),
        (HostPattern::Address(listed), Name::Address(address)) => {
            listed.to_canonical() == address.to_canonical()
        }
        (HostPattern::Name(_) | HostPattern::Below(_), Name::Address(_))
        | (HostPattern::Address(_), Name::Dns(_)) => false,
    }
}

fn path_fits(patterns: &[PathPattern], target: &Target) -> bool {
    // Only worth a look where it could matter.
    let tricky = || target.is_tricky();
    patterns.iter().any(|pattern| match pattern {
        PathPattern::Exact(path) => *path == target.path,
        PathPattern::Under(prefix) if prefix == "/" => true,
        PathPattern::Under(prefix) => target.path.starts_with(prefix) && !tricky(),
    })
}

#[derive(Serialize)]
struct Line<'a> {
    host: String,
    methods: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<[&'a str; 1]>,
    ports: [u16; 1],
}

fn refusal(rules: &[EgressRule], wanted: &Wanted<'_>) -> Refusal {
    let Wanted { method, host, port, target } = *wanted;
    let near =
        rules.iter().enumerate().filter_map(|(i, rule)| Some((lacks(rule, wanted)?, i, rule)));
    // Of two that are equally near, the one that stands first.
    let near = near.max_by_key(|(lack, i, _)| (*lack, std::cmp::Reverse(*i)));
    let nearest = match near {
        None => "there are no rules".into(),
        Some((Lack::Host, ..)) => "no rule is about this host".into(),
        Some((Lack::Port, _, rule)) => format!("the rule for `{}` has other ports", rule.host),
        Some((Lack::Method, _, rule)) => {
            format!("the rule for `{}` allows {} only", rule.host, rule.methods.join(", "))
        }
        Some((Lack::Path, _, rule)) => {
            let paths: Vec<_> = rule.paths.iter().map(|path| format!("`{path}`")).collect();
            format!("the rule for `{}` allows the paths {} only", rule.host, paths.join(", "))
        }
    };
    let paths = target.map(|target| [target.path.as_str()]);
    let line = Line { host: host.to_string(), methods: [method], paths, ports: [port] };
    Refusal::NoRule {
        method: method.into(),
        host: host.to_string(),
        port,
        path: target.map(|target| target.shown_path().to_owned()).unwrap_or_default(),
        nearest,
        rule: serde_json::to_string(&line).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::policy;

    fn asked(rules: &str, method: &str, url: &str) -> Result<usize, Refusal> {
        let policy = policy(rules);
        let target = Target::parse(url)?;
        let (host, port) = (&target.host, target.port);
        let rule = find(&policy, &Wanted { method, host, port, target: Some(&target) })?;
        Ok(policy.egress.iter().position(|other| std::ptr::eq(other, rule)).unwrap())
    }

    #[track_caller]
    fn check(rules: &str, method: &str, url: &str, expected: Option<usize>) {
        assert_eq!(asked(rules, method, url).ok(), expected, "{method} {url}");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules =
            r#"[{"host": "a.com", "paths": ["/x"]}, {"host": "*.com.org"}, {"host": "a.com"}]"#;
        check(rules, "GET", "https://a.com/x", Some(0));
        check(rules, "GET", "https://a.com/y", Some(2));
        check(rules, "GET", "https://b.com.org/", Some(1));
    }

    #[test]
    fn a_pattern_is_about_hosts_below_the_domain_only() {
        let rules = r#"[{"host": "*.example.com"}]"#;
        check(rules, "GET", "https://a.example.com/", Some(0));
        check(rules, "GET", "https://a.b.example.com/", Some(0));
        check(rules, "GET", "https://example.com/", None);
        check(rules, "GET", "https://evilexample.com/", None);
        check(rules, "GET", "https://example.com.evil.org/", None);
    }

    #[test]
    fn method_port_and_path_have_to_fit() {
        let rules = r#"[{"host": "a.com", "methods": ["POST"], "paths": ["/v1/*", "/"]}]"#;
        check(rules, "POST", "https://a.com/v1/x?y", Some(0));
        check(rules, "POST", "https://a.com", Some(0));
        check(rules, "GET", "https://a.com/v1/x", None);
        check(rules, "post", "https://a.com/v1/x", None);
        check(rules, "POST", "https://a.com:444/v1/x", None);
        check(rules, "POST", "http://a.com/v1/x", None);
        check(rules, "POST", "https://a.com/v1", None);
        check(rules, "POST", "https://a.com/v2/x", None);
    }

    #[test]
    fn no_spelling_of_a_path_leaves_what_is_allowed() {
        let rules = r#"[{"host": "a.com", "paths": ["/v1/*"]}]"#;
        for path in
            ["../admin", "%2e%2e/admin", "..%2fadmin", "..%252fadmin", "x/../../admin", "..;/a"]
        {
            check(rules, "GET", &format!("https://a.com/v1/{path}"), None);
        }
        check(rules, "GET", "https://a.com/x/../v1/y", Some(0));
        check(r#"[{"host": "a.com"}]"#, "GET", "https://a.com/a%2fb", Some(0));
    }

    #[test]
    fn an_address_is_allowed_by_a_rule_for_that_address_only() {
        let rules = r#"[{"host": "127.0.0.1", "ports": [80]}, {"host": "*.0.0.1.com"}]"#;
        check(rules, "GET", "http://127.0.0.1/", Some(0));
        check(rules, "GET", "http://[::ffff:7f00:1]/", Some(0));
        check(rules, "GET", "http://127.0.0.2/", None);
    }

    #[test]
    fn a_refusal_names_the_nearest_rule_and_the_line_to_add() {
        let rules = r#"[{"host": "b.com"}, {"host": "a.com", "paths": ["/v1/*"]}]"#;
        let refusal = asked(rules, "POST", "https://a.com/v2").unwrap_err();
        let text =
            "no egress rule allows POST `a.com:443/v2`: the rule for `a.com` allows GET, HEAD only";
        assert_eq!(refusal.to_string(), text);
        let line = r#"{"host":"a.com","methods":["POST"],"paths":["/v2"],"ports":[443]}"#;
        assert!(refusal.hint().unwrap().ends_with(line));
        assert!(
            asked("[]", "GET", "https://a.com/").unwrap_err().to_string().ends_with("no rules")
        );
    }

    #[test]
    fn without_the_network_rules_mean_nothing() {
        let mut policy = policy(r#"[{"host": "a.com"}]"#);
        policy.network_enabled = false;
        let host = Name::Dns("a.com".into());
        let wanted = Wanted { method: "GET", host: &host, port: 443, target: None };
        assert!(matches!(find(&policy, &wanted), Err(Refusal::NetworkOff { .. })));
    }
}
