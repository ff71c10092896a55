//! What `osvm mcp call-tool --json` prints: the answer and how it was isolated.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The answer to one call.
#[derive(Debug)]
pub(crate) struct Envelope(Value);

impl Envelope {
    /// Reads what a call printed. An answer that is an error is an error here.
    pub(crate) fn read(printed: &str, call: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(printed)
            .with_context(|| format!("`{call}` printed no envelope: {}", printed.trim()))?;
        if value.get("result").is_none() {
            bail!("`{call}` failed: {}", value.get("error").unwrap_or(&value));
        }
        Ok(Self(value))
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
