//! The port as Linux's 8250 driver meets it, in the order in which the driver does.

use super::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

const LOOP: u8 = 0x10;
const DLAB: u8 = 0x80;

struct Guest {
    serial: Serial,
    file: File,
}

impl Guest {
    fn boot() -> Self {
        let file = File::from(memfd_create("console", MemfdFlags::CLOEXEC).unwrap());
        let serial = Serial::new(Console::new(file.try_clone().unwrap().into()));
        Self { serial, file }
    }

    fn load(&mut self, register: u16) -> u8 {
        let mut byte = [0xee];
        self.serial.read(PORT + register, &mut byte);
        byte[0]
    }

    fn store(&mut self, register: u16, value: u8) {
        self.serial.write(PORT + register, &[value]);
    }

    fn sent(&mut self) -> String {
        self.serial.console().flush();
        let mut bytes = vec![0; usize::try_from(self.file.metadata().unwrap().len()).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The port goes on as another one, by way of what would stand in a file.
    fn move_on(&mut self) {
        let saved = serde_json::to_vec(&self.serial.state()).unwrap();
        let console = Console::new(self.file.try_clone().unwrap().into());
        let state = serde_json::from_slice(&saved).unwrap();
        self.serial = Serial::restored(&state, console).unwrap();
    }
}

#[test]
fn the_probe_of_linux_finds_a_16550a() {
    let mut guest = Guest::boot();
    // A port that is there keeps the lower four bits of IER, and no others.
    for (written, kept) in [(0, 0), (0x0f, 0x0f), (0xff, 0x0f), (0, 0)] {
        guest.store(IER, written);
        assert_eq!(guest.load(IER), kept);
    }
    // In loopback mode the modem's outputs are its inputs.
    guest.store(MCR, LOOP | 0x0a);
    assert_eq!(guest.load(MSR) & 0xf0, 0x90);
    guest.store(MCR, 0x08);
    // FIFOs that work are what makes a 16550A.
    guest.store(LCR, 0);
    guest.store(FCR, 1);
    assert_eq!(guest.load(IIR) >> 6, 3);
    // Bit 6 of IER is only in other models.
    guest.store(IER, 0x40);
    assert_eq!(guest.load(IER), 0);
    guest.store(SCR, 0x5a);
    assert_eq!(guest.load(SCR), 0x5a);
    assert_eq!(guest.load(MSR) & 0xb0, 0xb0, "somebody is at the other end");
}

#[test]
fn a_console_that_polls_writes_without_interrupts() {
    let mut guest = Guest::boot();
    for byte in *b"Linux version 6.1\r\n" {
        assert_eq!(guest.load(LSR) & 0x60, 0x60, "ready and idle");
        guest.store(DATA, byte);
        assert!(!guest.serial.interrupt());
    }
    assert_eq!(guest.sent(), "Linux version 6.1\r\n");
}

#[test]
fn the_divisor_is_kept_apart_from_data_and_interrupts() {
    let mut guest = Guest::boot();
    guest.store(IER, 1);
    guest.store(LCR, DLAB | 3);
    guest.store(DATA, 1);
    guest.store(IER, 2);
    assert_eq!((guest.load(DATA), guest.load(IER)), (1, 2));
    guest.store(LCR, 3);
    assert_eq!((guest.load(LCR), guest.load(IER)), (3, 1));
    assert_eq!(guest.sent(), "");
}

#[test]
fn an_empty_transmitter_interrupts_whoever_asks_for_it_each_time() {
    // What Linux tests at start-up: a port that interrupts only the first time has a known bug.
    let mut guest = Guest::boot();
    for _ in 0..2 {
        guest.store(IER, 2);
        assert!(guest.serial.interrupt());
        assert_eq!(guest.load(IIR), 0xc2);
        assert!(!guest.serial.interrupt(), "taken note of");
        guest.store(IER, 0);
    }
    assert_eq!(guest.load(IIR), 0xc1);
}

#[test]
fn a_program_that_writes_is_served_by_interrupts() {
    let mut guest = Guest::boot();
    let mut text = b"hello from user space\n".iter();
    guest.store(IER, 2);
    let mut interrupts = 0;
    while guest.serial.interrupt() {
        interrupts += 1;
        assert_eq!(guest.load(IIR) & 0x0f, 2);
        match text.next() {
            Some(byte) => guest.store(DATA, *byte),
            None => guest.store(IER, 0),
        }
    }
    assert_eq!((interrupts, guest.sent().as_str()), (23, "hello from user space\n"));
}

#[test]
fn an_interrupt_masked_before_it_was_taken_comes_back() {
    let mut guest = Guest::boot();
    guest.store(IER, 2);
    guest.store(IER, 0);
    assert!(!guest.serial.interrupt());
    guest.store(IER, 2);
    assert!(guest.serial.interrupt());
}

#[test]
fn nothing_is_ever_received_but_what_comes_back_in_loopback_mode() {
    let mut guest = Guest::boot();
    guest.store(IER, 1);
    assert_eq!((guest.load(LSR) & 1, guest.load(DATA)), (0, 0));
    guest.store(MCR, LOOP);
    guest.store(DATA, b'x');
    assert!(guest.serial.interrupt());
    assert_eq!((guest.load(IIR) & 0x0f, guest.load(LSR) & 1), (4, 1));
    assert_eq!((guest.load(DATA), guest.load(LSR) & 1), (b'x', 0));
    assert!(!guest.serial.interrupt());
    assert_eq!(guest.sent(), "");
    for _ in 0..1000 {
        guest.store(DATA, b'y');
    }
    assert_eq!(guest.serial.state().received.len(), 64, "as much as the FIFO holds");
}

#[test]
fn only_its_own_eight_ports_are_answered() {
    let mut guest = Guest::boot();
    for port in [0, PORT - 1, PORT + 8, u16::MAX] {
        assert!(!Serial::has(port));
        let mut byte = [0];
        guest.serial.read(port, &mut byte);
        assert_eq!(byte, [0xff], "{port:#x}");
        guest.serial.write(port, b"x");
    }
    assert_eq!(guest.sent(), "");
    guest.serial.write(PORT, b"several at once\n");
    assert_eq!(guest.sent(), "several at once\n");
}

#[test]
fn a_restored_port_goes_on_where_it_stopped() {
    let mut guest = Guest::boot();
    guest.store(LCR, DLAB | 3);
    guest.store(DATA, 7);
    guest.store(LCR, 3);
    guest.store(SCR, 0x77);
    guest.store(MCR, LOOP);
    guest.store(DATA, b'x');
    guest.store(MCR, 0x0b);
    guest.store(IER, 2);
    let before = guest.serial.state();
    guest.move_on();
    assert_eq!(guest.serial.state(), before);
    assert!(guest.serial.interrupt());
    assert_eq!((guest.load(IIR) & 2, guest.load(SCR), guest.load(DATA)), (2, 0x77, b'x'));
    guest.store(LCR, DLAB);
    assert_eq!(guest.load(DATA), 7);
}

#[test]
fn a_restored_port_always_sends() {
    let mut guest = Guest::boot();
    let state = SerialState {
        divisor: [0xff; 2],
        interrupt_enable: 0xff,
        interrupt_identification: 0xff,
        line_control: 0x7f,
        modem_control: 0,
        modem_status: 0xff,
        scratch: 0xff,
        received: vec![],
    };
    let console = Console::new(guest.file.try_clone().unwrap().into());
    guest.serial = Serial::restored(&state, console).unwrap();
    assert_eq!(guest.load(LSR), 0x60);
    guest.store(DATA, b'x');
    assert_eq!(guest.sent(), "x");
    let overfull = SerialState { received: vec![0; 65], ..state };
    let console = Console::new(guest.file.try_clone().unwrap().into());
    let error = Serial::restored(&overfull, console).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_guest_that_never_stops_writing_fills_no_more_than_the_console_takes() {
    let mut guest = Guest::boot();
    for _ in 0..2 * console::LIMIT {
        guest.store(DATA, b'x');
    }
    assert_eq!(guest.sent().len(), console::LIMIT + console::CUT.len());
}
