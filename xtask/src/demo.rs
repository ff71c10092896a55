//! `cargo xtask demo`: from a fresh checkout to the answer of a real tool call in a VM.

use crate::osvm::Osvm;
use crate::project::Project;
use crate::{guest, install, printer, process, toolchain};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::process::Command;

/// Transactions made by Solana's own libraries, with what must be read out of them.
const VECTORS: &str = "guest/unikraft_tool_executor/tests/vectors/transactions.json";

/// `cargo xtask demo`.
pub(crate) fn run(project: &Project) -> Result<()> {
    check_host()?;
    toolchain::add_targets()?;
    guest::build(project)?;
    install::build_osvm(project)?;
    let store = install::images(project)?;
    let osvm = Osvm::built(project);
    let transaction = transaction(project)?;

    printer::step("calling `solana decode_transaction`, in a VM made for this call");
    let arguments = json!({ "transaction": transaction }).to_string();
    let decoded = osvm.call("solana", "decode_transaction", &arguments)?;
    printer::result(&pretty(decoded.result())?);
    printer::step("calling `system guest_info`, in a VM of its own");
    let seen = osvm.call("system", "guest_info", "{}")?;
    printer::result(&pretty(seen.result())?);

    printer::step("what happened");
    for (call, envelope) in [("decode_transaction", &decoded), ("guest_info", &seen)] {
        printer::result(&format!("\n{call}\n{}", printer::table(&envelope.report()?)));
    }
    printer::result(&format!(
        "\nBoth VMs are gone. Images: {}\nTry it: {} mcp call-tool system echo '{{\"text\":\"hi\"}}'",
        store.display(),
        osvm.path().display()
    ));
    Ok(())
}

/// Says what is missing before anything is built.
fn check_host() -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the demo needs Linux on x86-64");
    }
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
        return Ok(());
    };
    // Slower, but a VM all the same.
    if process::succeeds(Command::new("qemu-system-x86_64").arg("--version")) {
        return Ok(());
    }
    match error.kind() {
        ErrorKind::NotFound => bail!(
            "this host has no `/dev/kvm`: load the module `kvm_intel` or `kvm_amd`, or switch \
             virtualization on in the firmware (in a VM: nested virtualization in its host)"
        ),
        ErrorKind::PermissionDenied => bail!(
            "this user may not open `/dev/kvm`: `sudo usermod -aG kvm $USER`, then log in again"
        ),
        _ => Err(error).context("cannot open `/dev/kvm`"),
    }
}

/// The first signed transaction of the vectors, in base64.
pub(crate) fn transaction(project: &Project) -> Result<String> {
    let path = project.root.join(VECTORS);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{VECTORS}`"))?;
    let vectors: Value = serde_json::from_str(&text).context("the vectors are not JSON")?;
    let transaction = vectors.pointer("/transactions/0/base64").and_then(Value::as_str);
    transaction.map(str::to_owned).with_context(|| format!("`{VECTORS}` has no transaction"))
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).context("cannot write JSON")
}
