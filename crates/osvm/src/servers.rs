//! The MCP servers that are configured, as the parts that start and call them need them.
//!
//! Where the list comes from is `osvm-servers`; here it meets the environment, the secrets and the
//! isolation config. One server that can't be used does not keep the others out: why is kept with
//! it.

use crate::broker;
use crate::context::Context;
use crate::failure::Failure;
use crate::vm_program;
use osvm_policy::{Config, Env, ExecutionMode, nearest};
use osvm_secrets::{SecretName, Secrets};
use osvm_servers::expand::expand_entry;
use osvm_servers::{
    Entry, FromEnvironment, Http, Listed, Origin, Servers, ServersError, Stdio, Target,
    default_path, from_environment, listed,
};
use osvm_upstream::Spec;
use std::path::PathBuf;

/// A server, and how to reach it.
#[derive(Debug)]
pub(crate) struct Configured {
    /// Its name.
    pub(crate) name: String,
    /// What is written of it.
    pub(crate) entry: Entry,
    /// How to reach it: `None` where no process and no address belongs to it, because its tools
    /// are in the unikernel image, or because it runs from an image of its own only.
    pub(crate) spec: Result<Option<Spec>, Failure>,
}

/// Where the list is.
pub(crate) fn path(context: &Context, env: &Env) -> PathBuf {
    default_path(std::env::var_os("OSVM_MCP_SERVERS"), &context.config_path(env))
}

/// Where what servers offered last time is kept.
pub(crate) fn cache_dir(context: &Context, env: &Env) -> PathBuf {
    context.dirs(env).calls.with_file_name("servers")
}

/// Every server osvm knows, by name: of the file, of the environment, and the builtin ones.
pub(crate) fn all(context: &Context, env: &Env) -> Result<Vec<Listed>, Failure> {
    let servers = Servers::load(&path(context, env)).map_err(|error| failure(&error))?;
    Ok(listed(&servers, &environment(context)))
}

/// What variables of the environment say; those that make no sense are told.
fn environment(context: &Context) -> FromEnvironment {
    let found = from_environment(std::env::vars_os());
    for refused in &found.refused {
        context.printer.note(&format!("warning: {refused}"));
    }
    found
}

/// Every server that is enabled, with `${VAR}` expanded and secrets in place.
pub(crate) fn configured(context: &Context) -> Result<Vec<Configured>, Failure> {
    let env = context.env()?;
    let secrets = broker::secrets(&env);
    let enabled = all(context, &env)?.into_iter().filter(|listed| listed.entry.enabled);
    Ok(enabled.map(|listed| with_spec(listed, &secrets)).collect())
}

/// One server that is enabled.
///
/// # Errors
///
/// There is none of this name, or it is disabled.
pub(crate) fn find(context: &Context, name: &str) -> Result<Configured, Failure> {
    let env = context.env()?;
    let all = all(context, &env)?;
    let Some(listed) = all.iter().find(|listed| listed.name == name) else {
        return Err(unknown(name, all.iter().map(|listed| listed.name.as_str())));
    };
    if !listed.entry.enabled {
        return Err(Failure::new("disabled", format!("server `{name}` is disabled"))
            .hint(format!("`osvm mcp enable {name}`")));
    }
    Ok(with_spec(listed.clone(), &broker::secrets(&env)))
}

/// A server that nobody has configured.
pub(crate) fn unknown<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Failure {
    let failure = Failure::new("unknown_server", format!("unknown server `{name}`"));
    match nearest(name, known) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`osvm mcp list` shows them"),
    }
}

/// What the isolation config says of a server as a whole: a process may be started outside of a
/// virtual machine only where it says `direct`.
///
/// # Errors
///
/// The config does not say so.
pub(crate) fn may_start(config: &Config, server: &Configured) -> Result<(), Failure> {
    if !matches!(server.entry.target, Target::Stdio(_)) {
        return Ok(());
    }
    match config.resolve(&server.name, "").mode {
        ExecutionMode::Direct => Ok(()),
        mode => {
            let name = &server.name;
            let message = format!(
                "server `{name}` is a program, and its execution mode `{mode}` keeps it off the host"
            );
            Err(Failure::new("denied", message).hint(format!(
                "to run it with your rights, write into `{}`: {}",
                config.path().display(),
                isolation_lines(name, ExecutionMode::Direct)
            )))
        }
    }
}

/// What the isolation config has to say for a server to run in `mode`.
pub(crate) fn isolation_lines(name: &str, mode: ExecutionMode) -> String {
    format!("\"mcp_servers\": {{\"{name}\": {{\"execution_mode\": \"{mode}\"}}}}")
}

/// The value of a secret, for the server that is given it.
fn reveal(secrets: &Secrets, name: &str) -> Result<String, Failure> {
    let name: SecretName =
        name.parse().map_err(|error| Failure::from_error("secret", &error, None))?;
    let value = secrets.get(&name);
    let value = value.map_err(|error| Failure::from_error("secret", &error, error.hint()))?;
    value.map(|value| value.reveal().to_owned()).ok_or_else(|| {
        Failure::new("secret", format!("there is no secret `{name}`"))
            .hint(format!("`osvm secret set {name}` keeps one"))
    })
}

/// A list that can't be used, as every command shows it.
pub(crate) fn failure(error: &ServersError) -> Failure {
    Failure::from_error("servers", error, error.hint())
}

impl From<ServersError> for Failure {
    fn from(error: ServersError) -> Self {
        failure(&error)
    }
}

fn with_spec(Listed { name, entry, origin }: Listed, secrets: &Secrets) -> Configured {
    let spec = spec(&name, &entry, &origin, secrets);
    Configured { name, entry, spec }
}

fn spec(
    name: &str,
    entry: &Entry,
    origin: &Origin,
    secrets: &Secrets,
) -> Result<Option<Spec>, Failure> {
    let secret = |name: &str| reveal(secrets, name);
    // What comes from a variable is an address as it is, with nothing in it to expand.
    let entry = match origin {
        Origin::Environment(_) => entry.clone(),
        Origin::Builtin | Origin::File => expanded(name, entry)?,
    };
    let target = match entry.target {
        Target::Builtin | Target::Stdio(Stdio { command: None, .. }) => return Ok(None),
        Target::Stdio(Stdio { command: Some(command), args, mut env, env_from_secret, cwd }) => {
            for (variable, name) in env_from_secret {
                env.push((variable, secret(&name)?));
            }
            osvm_upstream::Target::Process { command, args, env, cwd: cwd.map(PathBuf::from) }
        }
        Target::Http(http) => {
            stays_secret(name, &http)?;
            let Http { url, mut headers, headers_from_secret, bearer_from_secret } = http;
            for (header, name) in headers_from_secret {
                headers.push((header, secret(&name)?));
            }
            if let Some(name) = bearer_from_secret {
                headers.push(("Authorization".into(), format!("Bearer {}", secret(&name)?)));
            }
            osvm_upstream::Target::Http { url, headers }
        }
    };
    let mut spec = Spec::new(name, target);
    // Without it a program is still ended with osvm, unless osvm is killed.
    spec.guard = vm_program::find().ok();
    Ok(Some(spec))
}

/// A secret is for the server, not for those on the way.
fn stays_secret(name: &str, http: &Http) -> Result<(), Failure> {
    let mut secrets = http.headers_from_secret.iter().map(|(_, secret)| secret);
    let Some(secret) = secrets.next().or(http.bearer_from_secret.as_ref()) else { return Ok(()) };
    if !http.is_overheard() {
        return Ok(());
    }
    let message = format!(
        "secret `{secret}` is not sent to server `{name}`: anybody on the way could read it"
    );
    Err(Failure::new("secret", message).hint("use its `https` address, or one of this host"))
}

/// The environment of a program.
#[derive(Debug)]
pub(crate) struct Variables {
    /// What stands in the file.
    pub(crate) plain: Vec<(String, String)>,
    /// What may be in no file: secrets, and whatever comes from osvm's own environment.
    pub(crate) secret: Vec<(String, String)>,
}

/// The environment of a server that is a program.
///
/// # Errors
///
/// A variable is not set, or a secret is not there.
pub(crate) fn variables(server: &Configured, secrets: &Secrets) -> Result<Variables, Failure> {
    let mut variables = Variables { plain: Vec::new(), secret: Vec::new() };
    let (Target::Stdio(written), expanded) =
        (&server.entry.target, expanded(&server.name, &server.entry)?)
    else {
        return Ok(variables);
    };
    let Target::Stdio(expanded) = expanded.target else { return Ok(variables) };
    for (name, value) in expanded.env {
        let plain = written.env.iter().any(|(own, text)| *own == name && *text == value);
        let list = if plain { &mut variables.plain } else { &mut variables.secret };
        list.push((name, value));
    }
    for (variable, name) in expanded.env_from_secret {
        variables.secret.push((variable, reveal(secrets, &name)?));
    }
    Ok(variables)
}

fn expanded(name: &str, entry: &Entry) -> Result<Entry, Failure> {
    let lookup = |variable: &str| std::env::var(variable).ok();
    expand_entry(entry, &lookup).map_err(|error| {
        let message = format!("cannot use server `{name}`");
        let failure = Failure::new("servers", message).caused_by(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}
