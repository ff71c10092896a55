//! Which model is asked: environment first, then `agent.toml`.
//!
//! | setting | from the environment | in the file |
//! |---|---|---|
//! | shape | `OSVM_AI_PROVIDER`, else whose variables are set | `provider` |
//! | URL | `OSVM_AI_URL`, `OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL` | `url` |
//! | model | `OSVM_AI_MODEL`, `OPENAI_MODEL`, `ANTHROPIC_MODEL` | `model` |
//! | key | `OSVM_AI_KEY`, `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` | `key_secret`: a name in the secret store |

use osvm_agent::{Model, Provider};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use url::{Host, Url};

/// Most tokens of one answer, unless the file says otherwise.
const MAX_TOKENS: u32 = 8192;

/// Wait before a second try, in ms.
const RETRY_MS: u64 = 1000;

/// Longest `agent.toml`, in bytes.
const LONGEST: u64 = 64 * 1024;

/// A model, where it is, and what opens it.
#[derive(Clone)]
pub struct ModelConfig {
    /// What the agent is told.
    pub model: Model,
    /// Where requests go, without the path of the API.
    pub url: Url,
    /// The provider's key.
    pub key: Option<String>,
    /// What it costs, if the file says.
    pub price: Option<Price>,
}

/// US dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Read by the model.
    pub input: f64,
    /// Written by it.
    pub output: f64,
}

impl fmt::Debug for ModelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelConfig")
            .field("model", &self.model)
            .field("host", &self.url.host_str())
            .field("key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// Why there is no model although somebody wanted one.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("`{}` is wrong", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: Box<toml_edit::de::Error>,
    },
    /// The file is too long.
    #[error("`{}` has more than {LONGEST} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The address is none.
    #[error("`{url}` is no address of a model: {why}")]
    Url {
        /// What was given, without what could be a key.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Nobody knows this shape.
    #[error("`{name}` is no provider: known are `openai` and `anthropic`")]
    Provider {
        /// What was given.
        name: String,
    },
    /// The model has no name.
    #[error("no model is named for {provider}")]
    NoName {
        /// Whose.
        provider: &'static str,
    },
    /// The key is not in the store.
    #[error("the key of the model, secret `{name}`, cannot be had: {why}")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

impl ConfigError {
    /// What the user can do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoName { .. } => Some("set OSVM_AI_MODEL, or `model` in agent.toml"),
            Self::Secret { .. } => Some("`osvm secret set NAME` keeps it"),
            Self::Url { .. } => {
                Some("such as https://api.openai.com/v1 or http://127.0.0.1:11434/v1")
            }
            _ => None,
        }
    }
}

/// The environment and the secret store, as functions, so that neither is read where it is not
/// meant.
#[expect(missing_debug_implementations, reason = "closures say nothing")]
pub struct Variables<'a> {
    /// A variable of the environment; empty ones count as not set.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// A secret by its name.
    pub secret: &'a dyn Fn(&str) -> Result<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: Option<String>,
    url: Option<String>,
    model: Option<String>,
    key_secret: Option<String>,
    max_tokens: Option<u32>,
    price: Option<Price>,
}

/// What is known of a provider.
struct Known {
    provider: Provider,
    name: &'static str,
    url: &'static str,
    base_variable: &'static str,
    model_variable: &'static str,
    key_variable: &'static str,
    /// What is asked where nobody names a model; none where every choice would surprise.
    model: Option<&'static str>,
}

const KNOWN: [Known; 2] = [
    Known {
        provider: Provider::OpenAi,
        name: "openai",
        url: "https://api.openai.com/v1",
        base_variable: "OPENAI_BASE_URL",
        model_variable: "OPENAI_MODEL",
        key_variable: "OPENAI_API_KEY",
        model: None,
    },
    Known {
        provider: Provider::Anthropic,
        name: "anthropic",
        url: "https://api.anthropic.com",
        base_variable: "ANTHROPIC_BASE_URL",
        model_variable: "ANTHROPIC_MODEL",
        key_variable: "ANTHROPIC_API_KEY",
        model: None,
    },
];

impl ModelConfig {
    /// The model that is configured; `None` where nobody configured one.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where one is configured and can't be used.
    pub fn read(path: &Path, from: &Variables<'_>) -> Result<Option<Self>, ConfigError> {
        let file = File::read(path)?;
        let variable = |name: &str| (from.variable)(name).filter(|value| !value.is_empty());
        let url = variable("OSVM_AI_URL");
        let named = variable("OSVM_AI_PROVIDER").or_else(|| file.provider.clone());
        let known = match named {
            Some(name) => KNOWN
                .iter()
                .find(|known| known.name == name)
                .ok_or(ConfigError::Provider { name })?,
            None => match guess(&variable, url.as_deref().or(file.url.as_deref())) {
                Some(known) => known,
                None if variable("OSVM_AI_KEY").is_none()
                    && variable("OSVM_AI_MODEL").is_none()
                    && file.model.is_none() =>
                {
                    return Ok(None);
                }
                None => {
                    let [openai, _] = &KNOWN;
                    openai
                }
            },
        };
        let url = url
            .or_else(|| variable(known.base_variable))
            .or(file.url)
            .unwrap_or_else(|| known.url.to_owned());
        let name = variable("OSVM_AI_MODEL")
            .or_else(|| variable(known.model_variable))
            .or(file.model)
            .or_else(|| known.model.map(str::to_owned))
            .ok_or(ConfigError::NoName { provider: known.name })?;
        let key = match variable("OSVM_AI_KEY").or_else(|| variable(known.key_variable)) {
            Some(key) => Some(key),
            None => file.key_secret.map(|name| secret(name, from)).transpose()?,
        };
        let max_tokens = file.max_tokens.unwrap_or(MAX_TOKENS);
        let model = Model { provider: known.provider, name, max_tokens, retry_ms: RETRY_MS };
        Ok(Some(Self { model, url: checked(&url, key.is_some())?, key, price: file.price }))
    }

    /// What tokens cost, in US dollars, where that is known.
    pub fn cost(&self, usage: osvm_agent::Usage) -> Option<f64> {
        const MILLION: f64 = 1_000_000.0;
        let price = self.price?;
        let tokens = |count: u64| count as f64 / MILLION;
        Some(tokens(usage.input_tokens) * price.input + tokens(usage.output_tokens) * price.output)
    }
}

fn secret(name: String, from: &Variables<'_>) -> Result<String, ConfigError> {
    (from.secret)(&name).map_err(|why| ConfigError::Secret { name, why })
}

/// Whose shape is meant where nobody says so.
fn guess(variable: &dyn Fn(&str) -> Option<String>, url: Option<&str>) -> Option<&'static Known> {
    let [openai, anthropic] = &KNOWN;
    if let Some(url) = url {
        let of_anthropic = Url::parse(url).ok().and_then(|url| Some(url.host_str()?.to_owned()));
        let of_anthropic = of_anthropic.is_some_and(|host| host.ends_with("anthropic.com"));
        return Some(if of_anthropic { anthropic } else { openai });
    }
    KNOWN.iter().find(|known| {
        variable(known.key_variable).is_some() || variable(known.base_variable).is_some()
    })
}

/// An address that a key may be sent to.
fn checked(text: &str, with_key: bool) -> Result<Url, ConfigError> {
    let wrong = |why| ConfigError::Url { url: shown(text), why };
    let url = Url::parse(text).map_err(|_| wrong("it does not parse"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a key stands in it; keys go into OSVM_AI_KEY or the secret store"));
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(wrong("it names no host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback || !with_key => Ok(url),
        "http" => Err(wrong("a key would cross the network unencrypted: use https")),
        _ => Err(wrong("it is neither https nor http")),
    }
}

/// An address without what could be a key.
fn shown(text: &str) -> String {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => text.chars().take(200).collect(),
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Ok(metadata) if LONGEST < metadata.len() => {
                return Err(ConfigError::TooLong { path: path.to_owned() });
            }
            metadata => _ = metadata.map_err(io)?,
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        toml_edit::de::from_str(&text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), source: Box::new(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Option<ModelConfig>, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        if !file.is_empty() {
            std::fs::write(&path, file).unwrap();
        }
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let secret = |name: &str| {
            if name == "KEY" { Ok("s3cret".to_owned()) } else { Err("there is none".to_owned()) }
        };
        ModelConfig::read(&path, &Variables { variable: &variable, secret: &secret })
    }

    #[test]
    fn nothing_configured_is_no_model() {
        assert!(read("", &[]).unwrap().is_none());
        assert!(read("", &[("OPENAI_API_KEY", "")]).unwrap().is_none());
    }

    #[test]
    fn whose_key_is_set_says_whose_shape_is_spoken() {
        let config = read("", &[("ANTHROPIC_API_KEY", "k"), ("ANTHROPIC_MODEL", "m")]);
        let config = config.unwrap().unwrap();
        assert_eq!(config.model.provider, Provider::Anthropic);
        assert_eq!(config.url.as_str(), "https://api.anthropic.com/");
        let local =
            read("", &[("OSVM_AI_URL", "http://127.0.0.1:11434/v1"), ("OSVM_AI_MODEL", "m")]);
        let local = local.unwrap().unwrap();
        assert_eq!((local.model.provider, local.key), (Provider::OpenAi, None));
    }

    #[test]
    fn the_environment_comes_before_the_file_and_the_key_may_be_a_secret() {
        let file = "url = \"https://x.example/v1\"\nmodel = \"a\"\nkey_secret = \"KEY\"\n";
        let config = read(file, &[("OSVM_AI_MODEL", "b")]).unwrap().unwrap();
        assert_eq!(config.model.name, "b");
        assert_eq!(config.key.as_deref(), Some("s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"));
        let other = file.replace("KEY", "OTHER");
        assert!(matches!(read(&other, &[]), Err(ConfigError::Secret { .. })));
    }

    #[test]
    fn a_key_is_not_sent_where_anybody_can_read_it() {
        let read =
            |url| read("", &[("OSVM_AI_URL", url), ("OSVM_AI_MODEL", "m"), ("OSVM_AI_KEY", "k")]);
        assert!(read("http://127.0.0.1:1/v1").is_ok());
        assert!(read("https://models.example/v1").is_ok());
        for url in ["http://models.example/v1", "ftp://x", "nonsense", "https://k:y@models.example"]
        {
            let error = read(url).unwrap_err();
            assert!(matches!(error, ConfigError::Url { .. }), "{url}");
            assert!(!error.to_string().contains("k:y"), "{error}");
        }
    }

    #[test]
    fn a_config_with_a_typo_is_refused() {
        let error = read("modle = \"x\"\n", &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Toml { .. }));
        assert!(read("provider = \"other\"\n", &[]).is_err());
        assert!(matches!(read("", &[("OPENAI_API_KEY", "k")]), Err(ConfigError::NoName { .. })));
    }

    #[test]
    fn tokens_have_their_price() {
        let file =
            "url = \"http://127.0.0.1\"\nmodel = \"a\"\nprice = {input = 3.0, output = 15.0}\n";
        let config = read(file, &[]).unwrap().unwrap();
        let usage = osvm_agent::Usage { input_tokens: 1_000_000, output_tokens: 100_000 };
        assert_eq!(config.cost(usage), Some(4.5));
    }
}
