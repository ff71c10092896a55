//! Tools that are held back: their servers changed them, and nobody has believed it yet.
//!
//! Who remembers what is believed is handed in. Without anybody, all is.

use osvm_runtime::HostedError;
use osvm_upstream::{Offer, Server};
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::warn;

/// Knows which definitions of tools are believed.
pub trait Trust: fmt::Debug + Send + Sync {
    /// Those of the tools, by name, whose definition is another one than that which is believed.
    /// What was never seen before is believed from now on.
    ///
    /// # Errors
    ///
    /// Why that is not known. Then none of them is believed.
    fn changed(&self, server: &str, tools: &[&RawValue]) -> Result<Vec<String>, String>;
}

/// Why a tool is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Its definition is not the one that is believed.
    Changed,
    /// It is not known which one is.
    Unknown(String),
}

/// Which tools of a server are held back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    tools: BTreeSet<String>,
    all: Option<String>,
}

impl Held {
    /// Whether none is.
    pub(crate) fn is_none(&self) -> bool {
        self.tools.is_empty() && self.all.is_none()
    }

    /// Why that one is, if it is.
    pub(crate) fn doubt(&self, tool: &str) -> Option<Doubt> {
        let unknown = self.all.clone().map(Doubt::Unknown);
        unknown.or_else(|| self.tools.contains(tool).then_some(Doubt::Changed))
    }
}

/// Asks once about each offer, and again as long as something is held back.
#[derive(Debug, Default)]
pub struct Keeper {
    trust: Option<Arc<dyn Trust>>,
    /// Of what nothing was held back, by server.
    believed: Mutex<HashMap<String, Arc<Offer>>>,
}

impl Keeper {
    /// Without anybody who knows, all is believed.
    pub fn new(trust: Option<Arc<dyn Trust>>) -> Self {
        Self { trust, believed: Mutex::default() }
    }

    /// Whether that tool is believed as its server defined it when it was asked last.
    ///
    /// # Errors
    ///
    /// It is held back.
    pub fn check(&self, server: &Server, tool: &str) -> Result<(), HostedError> {
        let held = server.offer().map(|offer| self.held(server.name(), &offer));
        let doubt = held.and_then(|held| held.doubt(tool));
        doubt.map_or(Ok(()), |doubt| Err(held_back(server.name(), tool, doubt)))
    }

    /// Which of the tools that a server offers are held back.
    pub(crate) fn held(&self, server: &str, offer: &Arc<Offer>) -> Held {
        let Some(trust) = &self.trust else { return Held::default() };
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if believed.get(server).is_some_and(|known| Arc::ptr_eq(known, offer)) {
            return Held::default();
        }
        let tools: Vec<&RawValue> = offer.tools.iter().map(|tool| &**tool).collect();
        let held = match trust.changed(server, &tools) {
            Ok(tools) => Held { tools: tools.into_iter().collect(), all: None },
            Err(why) => Held { tools: BTreeSet::new(), all: Some(why) },
        };
        if held.is_none() {
            believed.insert(server.to_owned(), Arc::clone(offer));
        } else {
            warn!(server, ?held, "tools are held back");
        }
        held
    }
}

/// A call of a tool that is held back.
pub(crate) fn held_back(server: &str, tool: &str, doubt: Doubt) -> HostedError {
    let (message, causes, hint) = match doubt {
        Doubt::Changed => (
            format!("server `{server}` has changed its tool `{tool}` since it was believed"),
            Vec::new(),
            format!(
                "`osvm mcp trust {server} --diff` shows what changed, `osvm mcp trust {server}` \
                 believes it"
            ),
        ),
        Doubt::Unknown(why) => (
            format!("it is not known whether server `{server}` has changed its tool `{tool}`"),
            vec![why],
            "without that, no tool of a configured server is called".to_owned(),
        ),
    };
    HostedError { code: "changed", message, causes, hint: Some(hint), isolation_failure: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_upstream::Era;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Doubts tools by that name while `asked` is below the limit.
    #[derive(Debug)]
    struct Doubter(AtomicUsize, usize);

    impl Trust for Doubter {
        fn changed(&self, server: &str, tools: &[&RawValue]) -> Result<Vec<String>, String> {
            assert_eq!((server, tools.len()), ("s", 1));
            let asked = self.0.fetch_add(1, Ordering::SeqCst);
            Ok(if asked < self.1 { vec!["t".to_owned()] } else { Vec::new() })
        }
    }

    #[derive(Debug)]
    struct Forgetful;

    impl Trust for Forgetful {
        fn changed(&self, _: &str, _: &[&RawValue]) -> Result<Vec<String>, String> {
            Err("the disk is full".to_owned())
        }
    }

    fn offer() -> Arc<Offer> {
        let tools = vec![RawValue::from_string(r#"{"name":"t"}"#.to_owned()).unwrap()];
        Arc::new(Offer {
            era: Era::Modern,
            version: "v".to_owned(),
            dual: false,
            capabilities: None,
            server_info: None,
            instructions: None,
            tools,
            prompts: Vec::new(),
            resources: Vec::new(),
            resource_templates: Vec::new(),
            left_out: Vec::new(),
        })
    }

    #[test]
    fn what_is_held_back_is_asked_about_again_and_what_is_believed_is_not() {
        let doubter = Arc::new(Doubter(AtomicUsize::new(0), 2));
        let keeper = Keeper::new(Some(Arc::clone(&doubter) as Arc<dyn Trust>));
        let first = offer();
        assert_eq!(keeper.held("s", &first).doubt("t"), Some(Doubt::Changed));
        assert_eq!(keeper.held("s", &first).doubt("u"), None);
        assert!(keeper.held("s", &first).is_none() && keeper.held("s", &first).is_none());
        assert_eq!(doubter.0.load(Ordering::SeqCst), 3);
        assert!(keeper.held("s", &offer()).is_none(), "another offer is another matter");
        assert_eq!(doubter.0.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn where_nobody_knows_what_is_believed_nothing_is() {
        let keeper = Keeper::new(Some(Arc::new(Forgetful)));
        let doubt = keeper.held("s", &offer()).doubt("t");
        assert_eq!(doubt, Some(Doubt::Unknown("the disk is full".to_owned())));
        assert!(Keeper::default().held("s", &offer()).is_none());
    }
}
