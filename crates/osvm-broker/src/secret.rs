//! Secrets on their way into a request, behind the guest's back.
//!
//! # Invariants
//!
//! - A value leaves this module in a header of a request, and nowhere else: it is in no `Debug`, no
//!   error and no log.
//! - Whatever comes back in the same call goes through [`Vault::cutter`], whichever rule it came by,
//!   because a server can keep a value and hand it out at another place.

use crate::cut::Cutter;
use crate::refusal::Refusal;
use hyper::header::HeaderValue;
use osvm_policy::Resolved;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where secrets come from. Asked once in a call for each secret that the tool's rules name.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// The value of a secret, if it is set.
    ///
    /// # Errors
    ///
    /// Why the source can't be read, in words that hold no secret.
    fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String>;
}

/// A source without secrets.
#[derive(Clone, Copy, Debug)]
pub struct NoSecrets;

impl SecretSource for NoSecrets {
    fn secret(&self, _name: &str) -> Result<Option<Zeroizing<String>>, String> {
        Ok(None)
    }
}

/// The secrets of one call: all that its tool's rules name.
#[derive(Default)]
pub(crate) struct Vault {
    values: BTreeMap<String, Result<Zeroizing<String>, &'static str>>,
    cutter: Option<Arc<Cutter>>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Vault {
    /// Fetches what the rules name.
    pub(crate) fn open(source: &dyn SecretSource, policy: &Resolved) -> Self {
        let mut values = BTreeMap::new();
        let templates = policy.egress.iter().flat_map(|rule| &rule.headers);
        for name in templates.flat_map(|(_, template)| parts(template)).filter_map(Part::secret) {
            values.entry(name.to_owned()).or_insert_with(|| match source.secret(name) {
                Ok(Some(value)) if value.is_empty() => Err("is empty"),
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err("is not set"),
                Err(why) => {
                    tracing::warn!(secret = name, "the secret store cannot be read: {why}");
                    Err("cannot be read from the secret store")
                }
            });
        }
        let known = values.iter().filter_map(|(name, value)| Some((name, value.as_ref().ok()?)));
        let cutter = Cutter::new(known.map(|(name, value)| (name.as_str(), value.as_str())));
        Self { values, cutter: cutter.map(Arc::new) }
    }

    /// What removes the values from whatever comes back; none if there are none.
    pub(crate) fn cutter(&self) -> Option<&Arc<Cutter>> {
        self.cutter.as_ref()
    }

    /// A header's value with the secrets put in, and whether there were any.
    pub(crate) fn fill(&self, template: &str, host: &str) -> Result<(HeaderValue, bool), Refusal> {
        let mut text = Zeroizing::new(String::with_capacity(template.len() + 256));
        let mut last = None;
        for part in parts(template) {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Secret(name) => {
                    last = Some(name);
                    match self.values.get(name).unwrap_or(&Err("is not set")) {
                        Ok(value) => text.push_str(value),
                        Err(why) => return Err(missing(name, host, why)),
                    }
                }
            }
        }
        let mut value = HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| missing(last.unwrap_or_default(), host, "does not fit into a header"))?;
        value.set_sensitive(last.is_some());
        Ok((value, last.is_some()))
    }
}

/// Refuses a secret.
pub(crate) fn missing(name: &str, host: &str, why: &'static str) -> Refusal {
    Refusal::Secret { name: name.to_owned(), host: host.to_owned(), why }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Secret(&'a str),
}

impl<'a> Part<'a> {
    fn secret(self) -> Option<&'a str> {
        match self {
            Self::Secret(name) => Some(name),
            Self::Text(_) => None,
        }
    }
}

/// A template, cut at its `${secret:NAME}`.
fn parts(template: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let named = rest.strip_prefix("${secret:").and_then(|tail| tail.split_once('}'));
        if let Some((name, tail)) = named {
            rest = tail;
            return Some(Part::Secret(name));
        }
        let skip = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest.get(skip..).and_then(|tail| tail.find("${secret:")).map(|end| end + skip);
        let (text, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some(Part::Text(text))
    })
}

/// The secrets that a template names, for the words of a refusal.
pub(crate) fn first_name(template: &str) -> Option<&str> {
    parts(template).find_map(Part::secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::policy;

    #[derive(Debug)]
    struct One;

    impl SecretSource for One {
        fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
            match name {
                "KEY" => Ok(Some(Zeroizing::new("s3cr3t-value".into()))),
                "BAD" => Ok(Some(Zeroizing::new("line\nbreak".into()))),
                "LOCKED" => Err("locked".into()),
                _ => Ok(None),
            }
        }
    }

    const RULES: &str = r#"[{"host": "a.com", "headers": {"x-a": "Bearer ${secret:KEY}!",
        "x-b": "${secret:GONE}", "x-c": "${secret:BAD}", "x-d": "${secret:LOCKED}"}}]"#;

    #[test]
    fn a_value_takes_its_place_in_the_header() {
        let vault = Vault::open(&One, &policy(RULES));
        let (value, secret) = vault.fill("Bearer ${secret:KEY}!", "a.com").unwrap();
        assert_eq!((value.as_bytes(), secret), (&b"Bearer s3cr3t-value!"[..], true));
        let (value, secret) = vault.fill("plain $x", "a.com").unwrap();
        assert_eq!((value.as_bytes(), secret), (&b"plain $x"[..], false));
    }

    #[test]
    fn a_secret_that_cannot_be_had_is_named() {
        let vault = Vault::open(&One, &policy(RULES));
        let why = |template| vault.fill(template, "a.com").unwrap_err().to_string();
        let of = "of the egress rule for `a.com`";
        assert_eq!(why("${secret:GONE}"), format!("secret `GONE` {of} is not set"));
        assert_eq!(why("${secret:BAD}"), format!("secret `BAD` {of} does not fit into a header"));
        assert!(why("${secret:LOCKED}").ends_with("cannot be read from the secret store"));
    }

    #[test]
    fn debug_shows_no_value() {
        let vault = Vault::open(&One, &policy(RULES));
        let shown = format!("{vault:?} {:?}", vault.fill("${secret:KEY}", "a.com"));
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(shown.contains("KEY"), "{shown}");
    }
}
