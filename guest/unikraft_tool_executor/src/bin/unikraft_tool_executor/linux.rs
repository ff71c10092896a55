//! What Linux, or Unikraft in its stead, says about the machine.
//!
//! Everything here may be missing, and then it is reported as empty or zero rather than guessed.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use unikraft_tool_executor::{Device, Facts};

/// The machine, looked at once.
#[derive(Debug)]
pub(crate) struct Machine {
    memory_bytes: u64,
    devices: Vec<Device>,
    command_line: String,
    env: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

impl Machine {
    /// Looks at `/proc`, `/sys` and the environment.
    pub(crate) fn look() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let env = std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value)));
        Self {
            memory_bytes: memory_bytes(&meminfo).unwrap_or(0),
            devices: devices(Path::new("/sys/bus/virtio/devices")),
            command_line: command_line.trim_end().to_owned(),
            env: env.collect(),
        }
    }

    /// The same for the tools.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            memory_bytes: self.memory_bytes,
            devices: &self.devices,
            command_line: &self.command_line,
            name: crate::NAME,
            build: crate::BUILD,
            env: &self.env,
            platform: "linux",
        }
    }
}

fn lossy(text: &std::ffi::OsStr) -> Cow<'static, str> {
    Cow::Owned(text.to_string_lossy().into_owned())
}

/// The line `MemTotal:  131072 kB`, in bytes.
fn memory_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The virtio devices below `bus`, in the order of their names.
fn devices(bus: &Path) -> Vec<Device> {
    let Ok(entries) = fs::read_dir(bus) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| device(path)).collect()
}

fn device(path: &Path) -> Option<Device> {
    let kind = fs::read_to_string(path.join("device")).ok()?;
    let kind = u32::from_str_radix(kind.trim().strip_prefix("0x")?, 16).ok()?;
    let address = fs::canonicalize(path).ok().and_then(|place| address(&place)).unwrap_or(0);
    Some(Device { address, kind })
}

/// Linux names a memory-mapped transport `<address>.<name>`, in hexadecimal. Others carry no
/// address in their name.
fn address(place: &Path) -> Option<u64> {
    let transport = place.parent()?.file_name()?.to_str()?;
    let (address, name) = transport.split_once('.')?;
    if !name.contains("virtio") {
        return None;
    }
    u64::from_str_radix(address, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_bytes() {
        let meminfo = "MemTotal:         131072 kB\nMemFree:          1 kB\n";
        assert_eq!(memory_bytes(meminfo), Some(134_217_728));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(memory_bytes("MemTotal: 18446744073709551615 kB\n"), None);
    }

    #[test]
    fn only_memory_mapped_transports_have_an_address() {
        let mapped = "/sys/devices/platform/fe003e00.virtio_mmio/virtio0";
        assert_eq!(address(Path::new(mapped)), Some(0xfe00_3e00));
        let pci = "/sys/devices/pci0000:00/0000:00:03.0/virtio0";
        assert_eq!(address(Path::new(pci)), None);
        let on_command_line = "/sys/devices/virtio-mmio-cmdline/virtio-mmio.0/virtio0";
        assert_eq!(address(Path::new(on_command_line)), None);
    }

    #[test]
    fn a_machine_without_virtio_has_no_devices() {
        assert_eq!(devices(Path::new("/nonexistent")), []);
    }
}
