//! Whose tool, prompt or resource a client means.

use super::{Catalog, Entry, Listed, name, resources};
use crate::trust::Doubt;

/// Where a request for a resource goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) server: &'a str,
    /// The URI for that server.
    pub(crate) own: String,
}

impl Catalog {
    /// The tool that clients call `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Listed> {
        self.tools.get(name)
    }

    /// The tool that clients call `name`, which is held back.
    pub(crate) fn get_held(&self, name: &str) -> Option<&Listed> {
        self.held.get(name)
    }

    /// Why that tool of a server is held back, if it is.
    pub(crate) fn doubt(&self, server: &str, tool: &str) -> Option<Doubt> {
        let held = self.held.values().find(|held| held.server == server && held.tool == tool);
        held.and_then(|held| held.doubt.clone())
    }

    /// The tool's name most like `name`, for whom mistook it.
    pub(crate) fn nearest(&self, name: &str) -> Option<String> {
        nearest(name, self.tools.keys().map(String::as_str))
    }

    /// The prompt that clients call `name`.
    pub(crate) fn prompt(&self, name: &str) -> Option<&Entry> {
        self.prompts.get(name)
    }

    /// The prompt's name most like `name`.
    pub(crate) fn nearest_prompt(&self, name: &str) -> Option<String> {
        nearest(name, self.prompts.keys().map(String::as_str))
    }

    /// Whose resource has this URI, or whose template has, if `uri` is one: what names a server
    /// is that server's, what is listed belongs to who lists it, then templates decide, the one
    /// with the longest fixed beginning first. Where one server alone has resources, all are its.
    pub(crate) fn resource(&self, uri: &str) -> Option<Found<'_>> {
        let named = uri.strip_prefix(resources::SCHEME).and_then(|rest| {
            let servers = self.with_resources.iter();
            let of = |server: &'_ &String| {
                rest.strip_prefix(server.as_str()).is_some_and(|rest| rest.starts_with('/'))
            };
            let server = servers.filter(of).max_by_key(|server| server.len())?;
            let own = rest.get(server.len() + 1..)?.to_owned();
            Some(Found { server, own })
        });
        let listed = || {
            let all = self.resources.iter().chain(&self.templates);
            let entry = all.into_iter().find(|entry| entry.key == uri)?;
            Some(Found { server: &entry.server, own: entry.own.clone() })
        };
        let of_template = || {
            let fitting = self.templates.iter().filter_map(|t| Some((fits(&t.own, uri)?, t)));
            let (_, template) = fitting.max_by_key(|(fixed, _)| *fixed)?;
            Some(Found { server: &template.server, own: uri.to_owned() })
        };
        let only = || match self.with_resources.as_slice() {
            [server] => Some(Found { server, own: uri.to_owned() }),
            _ => None,
        };
        named.or_else(listed).or_else(of_template).or_else(only)
    }
}

/// Whether `uri` can come from `template`; if so, how long the fixed beginning is.
fn fits(template: &str, uri: &str) -> Option<usize> {
    let start = template.find('{').unwrap_or(template.len());
    let end = template.rfind('}').map_or(template.len(), |at| at + 1);
    let (prefix, suffix) = (template.get(..start)?, template.get(end..)?);
    let between = uri.strip_prefix(prefix)?;
    between.ends_with(suffix).then_some(prefix.len())
}

/// The known name most like `wanted`, if one is like it at all.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Similarity (Jaro-Winkler, 0 to 1) below which a name is no help.
    const ALIKE: f64 = 0.75;
    /// Comparing takes time in proportion to the length, and no name is longer.
    const LONGEST: usize = 4 * name::MAX_NAME;
    if wanted.len() > LONGEST {
        return None;
    }
    let like = known.map(|name| (strsim::jaro_winkler(wanted, name), name));
    let nearest = like.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_what_has_its_beginning_and_its_end() {
        assert_eq!(fits("test://{id}/data", "test://7/data"), Some(7));
        assert_eq!(fits("test://{id}/data", "test://7/date"), None);
        assert_eq!(fits("test://a{?q,r}", "test://a?q=1"), Some(8));
        assert_eq!(fits("ab", "ab"), Some(2));
        assert_eq!(fits("}{", "x"), None);
    }
}
