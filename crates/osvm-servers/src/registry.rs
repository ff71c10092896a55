//! `server.json` of the MCP registry (schema 2025-12-11): a server as its author published it.
//!
//! One entry comes out of it: a package of npm or PyPI if there is one, else an endpoint, else a
//! container image. Values that its user has to give become `${NAME}`, or secrets where the author
//! says that they are.

use crate::entry::{Entry, Http, Stdio, Target};
use crate::import::{Imported, usable_name};
use crate::read;
use crate::source::{Source, npm, pypi};
use jsonc_parser::ast::{Array, Object};
use osvm_policy::printable;

pub(crate) fn import(root: &Object<'_>) -> Imported {
    let mut imported = Imported::default();
    let full = text(root, "name").unwrap_or_default();
    let name = usable_name(full.rsplit('/').next().unwrap_or_default());
    let packages: Vec<_> = objects(root.get_array("packages")).collect();
    let of = |kinds: &[&str]| {
        let is = |package: &&&Object<'_>| {
            let kind = text(package, "registryType").or_else(|| text(package, "registry_type"));
            kind.is_some_and(|kind| kinds.contains(&kind.as_str()))
        };
        packages.iter().find(is).copied()
    };
    let http = |remote: &&Object<'_>| {
        text(remote, "type").is_some_and(|kind| kind == "streamable-http" || kind == "http")
    };
    let made = if let Some(package) = of(&["npm", "pypi"]) {
        program(package)
    } else if let Some(remote) = objects(root.get_array("remotes")).find(http) {
        endpoint(remote)
    } else if let Some(package) = of(&["oci"]) {
        container(package)
    } else {
        Err("it has no package of npm, PyPI or OCI, and no Streamable HTTP endpoint".into())
    };
    match made {
        Err(reason) => imported.note(&name, format!("left out: {reason}")),
        Ok((mut entry, notes)) => {
            entry.description = text(root, "description").filter(|text| !text.is_empty());
            for note in notes {
                imported.note(&name, note);
            }
            imported.servers.push((name, entry));
        }
    }
    imported
}

type Made = Result<(Entry, Vec<String>), String>;

/// A package that `npx` or `uvx` runs.
fn program(package: &Object<'_>) -> Made {
    let identifier = text(package, "identifier").ok_or("a package has no `identifier`")?;
    let version = text(package, "version").filter(|version| version != "latest");
    let kind = text(package, "registryType").or_else(|| text(package, "registry_type"));
    let is_npm = kind.is_some_and(|kind| kind == "npm");
    let joined = match (&version, is_npm) {
        (Some(version), true) => format!("{identifier}@{version}"),
        (Some(version), false) => format!("{identifier}=={version}"),
        (None, _) => identifier,
    };
    let source =
        if is_npm { npm(&joined).map(Source::Npm) } else { pypi(&joined).map(Source::PyPi) };
    let source = source.map_err(|error| error.to_string())?;
    let mut notes = Vec::new();
    let (command, mut args) = source.command().ok_or("it is no package")?;
    let package_args = arguments(package, "packageArguments", &mut notes);
    if !arguments(package, "runtimeArguments", &mut notes).is_empty() {
        notes.push("its `runtimeArguments` are not taken over".into());
    }
    args.extend(package_args);
    let (env, env_from_secret) =
        values(package.get_array("environmentVariables"), &mut notes, |name, _| {
            read::variable_name(name)
        })?;
    let scheme = if is_npm { "npx" } else { "uvx" };
    let stdio = Stdio { command: Some(command), args, env, env_from_secret, cwd: None };
    let mut entry = Entry::new(Target::Stdio(stdio));
    entry.source = Some(format!("{scheme}://{joined}"));
    Ok((entry, notes))
}

fn endpoint(remote: &Object<'_>) -> Made {
    let url = text(remote, "url").ok_or("its endpoint has no `url`")?;
    read::check_url(&url)?;
    if url.contains('{') {
        return Err("its endpoint has variables in its address".into());
    }
    let mut notes = Vec::new();
    let (headers, headers_from_secret) =
        values(remote.get_array("headers"), &mut notes, read::header)?;
    let http = Http { url, headers, headers_from_secret, bearer_from_secret: None };
    Ok((Entry::new(Target::Http(http)), notes))
}

fn container(package: &Object<'_>) -> Made {
    let identifier = text(package, "identifier").ok_or("a package has no `identifier`")?;
    let mut notes = vec!["a container needs an image before it can run".to_owned()];
    let variables = package.get_array("environmentVariables");
    let (env, env_from_secret) =
        values(variables, &mut notes, |name, _| read::variable_name(name))?;
    let stdio = Stdio { env, env_from_secret, ..Stdio::default() };
    let mut entry = Entry::new(Target::Stdio(stdio));
    let version = text(package, "version").filter(|_| !identifier.contains(['@', ':']));
    let tag = version.map(|version| format!(":{version}")).unwrap_or_default();
    entry.source = Some(format!("oci://{identifier}{tag}"));
    Ok((entry, notes))
}

/// Arguments with their values. One that its user has to give is left out, and noted.
fn arguments(package: &Object<'_>, member: &str, notes: &mut Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    for argument in objects(package.get_array(member)) {
        let value = text(argument, "value").or_else(|| text(argument, "default"));
        let name = text(argument, "name");
        let flag = text(argument, "type").is_some_and(|kind| kind == "named");
        let required = argument.get_boolean("isRequired").is_some_and(|flag| flag.value);
        match (flag, name, value) {
            (true, Some(name), Some(value)) => all.extend([name, value]),
            (true, Some(name), None) if !required => {
                notes.push(format!("argument `{}` is not given", printable(&name)));
            }
            (false, _, Some(value)) => all.push(value),
            (_, name, _) => {
                let name = name.or_else(|| text(argument, "valueHint")).unwrap_or_default();
                notes.push(format!("add argument `{}` yourself", printable(&name)));
            }
        }
    }
    all
}

type Pairs = Vec<(String, String)>;

/// Variables or headers: those with values, and those that are secrets.
fn values(
    list: Option<&Array<'_>>,
    notes: &mut Vec<String>,
    check: impl Fn(&str, &str) -> Result<(), &'static str>,
) -> Result<(Pairs, Pairs), String> {
    let (mut plain, mut secret) = (Vec::new(), Vec::new());
    for item in objects(list) {
        let Some(name) = text(item, "name") else { continue };
        let flag = |name| item.get_boolean(name).is_some_and(|flag| flag.value);
        let value = text(item, "value").or_else(|| text(item, "default"));
        check(&name, value.as_deref().unwrap_or_default())?;
        match value {
            Some(value) => plain.push((name, value)),
            None if flag("isSecret") => {
                let key = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
                notes.push(format!("needs secret `{key}`: `osvm secret set {key}`"));
                secret.push((name, key));
            }
            None if flag("isRequired") => {
                let variable = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                notes.push(format!("needs variable `{variable}`"));
                plain.push((name, format!("${{{variable}}}")));
            }
            None => {}
        }
    }
    Ok((plain, secret))
}

fn text(object: &Object<'_>, name: &str) -> Option<String> {
    object.get_string(name).map(|text| text.value.clone().into_owned())
}

fn objects<'v, 'a>(list: Option<&'v Array<'a>>) -> impl Iterator<Item = &'v Object<'a>> {
    list.into_iter().flat_map(|list| &list.elements).filter_map(|value| value.as_object())
}
