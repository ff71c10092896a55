//! The initial RAM disk: PID 1 and its orders, as a cpio archive in the `newc` format.

use cpio::newc::{Builder, ModeFileType, trailer};
use osvm_protocol::linux::{ORDERS, Orders};
use std::io::{self, Write};

/// PID 1 must be executable, and nobody else is to read its orders.
const PROGRAM_MODE: u32 = 0o700;
const ORDERS_MODE: u32 = 0o600;

/// The archive of `init` and `orders`.
pub(crate) fn build(init: &[u8], orders: &Orders) -> io::Result<Vec<u8>> {
    let orders = serde_json::to_vec(orders)?;
    let mut archive = Vec::with_capacity(init.len() + orders.len() + 1024);
    add(&mut archive, 1, "init", PROGRAM_MODE, init)?;
    add(&mut archive, 2, ORDERS, ORDERS_MODE, &orders)?;
    trailer(&mut archive)?;
    Ok(archive)
}

fn add(archive: &mut Vec<u8>, inode: u32, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let entry = Builder::new(name).ino(inode).nlink(1).mode(mode);
    let mut writer = entry.set_mode_file_type(ModeFileType::Regular).write(archive, len);
    writer.write_all(bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;
    use osvm_protocol::linux::Channel;
    use std::io::Read;

    #[test]
    fn the_kernel_finds_pid_1_and_its_orders() {
        let orders = Orders {
            protocol: 1,
            channel: Channel::VirtioSerial,
            command: "/bin/server".into(),
            args: vec!["x y".into()],
            env: vec![("A".into(), "b".into())],
            cwd: "/".into(),
            uid: 1000,
            own: Vec::new(),
            writable_mib: 16,
            max_processes: 64,
            entropy: None,
            clock_behind_secs: 0,
            hooks: true,
            network: false,
            places: Vec::new(),
        };
        let archive = build(b"program", &orders).unwrap();
        let mut first = Reader::new(archive.as_slice()).unwrap();
        assert_eq!((first.entry().name(), first.entry().mode()), ("init", 0o100_700));
        let mut program = Vec::new();
        first.read_to_end(&mut program).unwrap();
        assert_eq!(program, b"program");
        let mut second = Reader::new(first.finish().unwrap()).unwrap();
        assert_eq!((second.entry().name(), second.entry().mode()), (ORDERS, 0o100_600));
        let mut text = Vec::new();
        second.read_to_end(&mut text).unwrap();
        assert_eq!(serde_json::from_slice::<Orders>(&text).unwrap(), orders);
    }
}
