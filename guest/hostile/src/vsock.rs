//! Packets no driver sends: a driver of our own that accepts one connection and then lies.

use core::hint::spin_loop;
use osvm_kernel::{Guest, Platform, Registers, die};
use osvm_kernel_core::virtio::mmio::Device;
use osvm_kernel_core::virtio::ring::{Buffer, Queue, Ring, address_of};
use osvm_kernel_core::vsock::packet::{HEADER_LEN, Header, SharedHeader, WIRE_HEADER_LEN, op};
use osvm_kernel_core::vsock::{Platform as _, RX_BUFFER_LEN, RX_BUFFERS};

const RX: u32 = 0;
const TX: u32 = 1;
/// What goes out in one packet.
static PIECE: [u8; 32 * 1024] = [b'x'; 32 * 1024];

static RINGS: [Ring; 3] = [const { Ring::new() }; 3];
static HEADER: SharedHeader = SharedHeader::new();

/// A connection that was accepted, and what a packet on it looks like.
struct Accepted {
    device: Device<Registers>,
    platform: Platform,
    rx: Queue<'static>,
    tx: Queue<'static>,
    ours: Header,
}

pub(crate) fn wrong_cid(guest: Guest) -> ! {
    let mut accepted = Accepted::new(guest);
    let ours = accepted.ours;
    accepted.send(&Header { src_cid: ours.src_cid + 1, op: op::RW, ..ours }, &PIECE);
    accepted.send(&Header { dst_cid: ours.src_cid + 1, op: op::RW, ..ours }, &PIECE);
    accepted.wait()
}

pub(crate) fn unknown_op(guest: Guest) -> ! {
    let mut accepted = Accepted::new(guest);
    accepted.send(&Header { op: 77, ..accepted.ours }, &[]);
    accepted.wait()
}

pub(crate) fn credit_lie(guest: Guest) -> ! {
    let mut accepted = Accepted::new(guest);
    let lie = Header { op: op::CREDIT_UPDATE, buf_alloc: u32::MAX, ..accepted.ours };
    for fwd_cnt in [u32::MAX, 1 << 31, 0, 12_345] {
        accepted.send(&Header { fwd_cnt, ..lie }, &[]);
    }
    accepted.wait()
}

pub(crate) fn ignore_credit(guest: Guest) -> ! {
    let mut accepted = Accepted::new(guest);
    let header = Header { op: op::RW, ..accepted.ours };
    loop {
        accepted.send(&header, &PIECE);
    }
}

pub(crate) fn stray(guest: Guest) -> ! {
    let mut accepted = Accepted::new(guest);
    let ours = accepted.ours;
    for port in 1..=100 {
        accepted.send(&Header { dst_port: port, op: op::RW, ..ours }, &PIECE);
        accepted.send(&Header { src_port: port, op: op::RESPONSE, ..ours }, &[]);
    }
    accepted.wait()
}

impl Accepted {
    fn new(guest: Guest) -> Self {
        let [rx, tx, events] = &RINGS;
        let (device, platform) = guest.vsock.into_parts();
        if let Err(error) = device.prepare(&[rx, tx, events]) {
            die(format_args!("{error}"));
        }
        let mut rx = Queue::new(rx);
        for buffer in 0..RX_BUFFERS {
            let address = platform.rx_address(buffer);
            rx.describe_writable(buffer, Buffer { address, len: RX_BUFFER_LEN });
            rx.offer(buffer);
        }
        device.start();
        device.notify(RX);
        let ours = Header::default();
        let mut accepted = Self { device, platform, rx, tx: Queue::new(tx), ours };
        let theirs = accepted.receive();
        accepted.ours = Header {
            src_cid: theirs.dst_cid,
            dst_cid: theirs.src_cid,
            src_port: theirs.dst_port,
            dst_port: theirs.src_port,
            kind: theirs.kind,
            buf_alloc: RX_BUFFER_LEN,
            ..Header::default()
        };
        accepted.send(&Header { op: op::RESPONSE, ..accepted.ours }, &[]);
        accepted
    }

    /// Waits for a packet and forgets its payload.
    fn receive(&mut self) -> Header {
        let used = loop {
            match self.rx.take() {
                Some(used) => break used,
                None => self.pause(),
            }
        };
        let mut bytes = [0; HEADER_LEN];
        self.platform.rx_copy(used.head, 0, &mut bytes);
        self.rx.offer(used.head);
        self.device.notify(RX);
        Header::from_bytes(&bytes)
    }

    fn send(&mut self, header: &Header, payload: &'static [u8]) {
        let len = u32::try_from(payload.len()).unwrap_or_default();
        HEADER.store(&Header { len, ..*header });
        let address = self.platform.lend(payload);
        let first = Buffer { address: address_of(&HEADER), len: WIRE_HEADER_LEN };
        self.tx.describe_readable(first, Buffer { address, len });
        self.tx.offer(0);
        self.device.notify(TX);
        while self.tx.take().is_none() {
            spin_loop();
        }
    }

    /// Takes whatever comes, for ever.
    fn wait(mut self) -> ! {
        loop {
            self.receive();
        }
    }

    fn pause(&mut self) {
        self.platform.wait();
        if self.platform.uses_interrupts() {
            self.device.acknowledge_interrupt();
        }
    }
}
