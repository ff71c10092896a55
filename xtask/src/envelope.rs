//! What `osvm mcp call-tool --json` prints: the answer and how it was isolated.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// The answer to one call.
#[derive(Debug)]
pub(crate) struct Envelope(Value);

impl Envelope {
    /// Runs the call and reads what it printed. An answer that is an error is an error here.
    pub(crate) fn of_call(osvm: &Path, server: &str, tool: &str, arguments: &str) -> Result<Self> {
        let mut command = Command::new(osvm);
        command.args(["mcp", "call-tool", "--json", server, tool, arguments]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot run `{}`", osvm.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("`{server} {tool}` printed no envelope: {}", text.trim()))?;
        match (value.get("result"), output.status.success()) {
            (Some(_), true) => Ok(Self(value)),
            _ => bail!("`{server} {tool}` failed: {}", value.get("error").unwrap_or(&value)),
        }
    }

    /// The tool's result.
    pub(crate) fn result(&self) -> &Value {
        self.0.get("result").unwrap_or(&Value::Null)
    }

    /// A member of `isolation` as text.
    pub(crate) fn isolation(&self, member: &str) -> String {
        match self.member(member) {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// A member of `isolation` that is a number.
    pub(crate) fn number(&self, member: &str) -> Result<f64> {
        self.member(member)
            .as_f64()
            .with_context(|| format!("the envelope has no number `{member}`"))
    }

    fn member(&self, name: &str) -> &Value {
        self.0.get("isolation").and_then(|isolation| isolation.get(name)).unwrap_or(&Value::Null)
    }

    /// The report that ends a demonstration: what ran where and how long it took.
    pub(crate) fn report(&self) -> Result<Vec<Vec<String>>> {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let ms = |member| self.number(member).map(|ms| format!("{ms:.1} ms"));
        let memory = self.number("guest_memory_kb")?;
        let mut rows = vec![
            row("mode", self.isolation("mode")),
            row("backend", self.isolation("backend")),
            row("boot", ms("boot_ms")?),
            row("call", ms("call_ms")?),
            row("total", ms("total_ms")?),
            row("memory", format!("{memory} KB of the guest's memory touched")),
        ];
        if !self.member("fallback").is_null() {
            rows.push(row("FALLBACK", self.isolation("fallback")));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_shows_in_the_report() {
        let mut isolation = serde_json::json!({
            "mode": "unikernel", "backend": "kvm", "boot_ms": 1.0, "call_ms": 2.0,
            "total_ms": 3.25, "guest_memory_kb": 400, "fallback": null,
        });
        let report = |isolation: &Value| {
            Envelope(serde_json::json!({ "result": {}, "isolation": isolation })).report().unwrap()
        };
        assert_eq!(report(&isolation).last().unwrap()[0], "memory");
        isolation["fallback"] = "no image".into();
        assert_eq!(report(&isolation).last().unwrap(), &["FALLBACK", "no image"]);
    }
}
