//! A guest and a host made of bytes: the one entry for fuzzing the whole device.
//!
//! A script is a list of actions of the driver (registers, memory, rings, packets) and of the
//! host (connect, write, hang up, service). Every byte string is a script. Some actions do what
//! a good driver would, so that a fuzzer gets past set-up without having to invent it.
//!
//! What must hold is checked by the caller just by calling: [`exercise`] returns, without a panic.

use crate::abuse::Abuse;
use crate::device::{Device, Event};
use crate::mmio::{REGION_SIZE, Vsock};
use crate::packet::{HEADER_LEN, Header, TYPE_STREAM};
use osvm_protocol::{Cid, PORT};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// Where the rings of a guest that is set up by the script stand: 8 entries each, one ring after
/// the other, from here on in steps of [`RING_STEP`].
pub const RINGS: u64 = 0x1000;
/// Bytes from one ring to the next: descriptors at 0, available ring at 0x80, used ring at 0x100.
pub const RING_STEP: u64 = 0x200;

const RING_SIZE: u16 = 8;
const RX: u64 = RINGS;
const TX: u64 = RINGS + RING_STEP;
const PACKET: u64 = 0x4000;
const RX_BUFFERS: u64 = 0x6000;
const RX_BUFFER_LEN: u64 = 0x400;
const HOSTS: usize = 16;
/// A port on which the host takes connections of the guest.
const SERVICE: u32 = 80;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Runs `script` on a new device for a guest with memory `mem`.
///
/// # Errors
///
/// The script's guest was abusive, which is what most scripts come to.
pub fn exercise<M: GuestMemory>(mem: &M, script: &[u8]) -> Result<(), Abuse> {
    let device = Cid::new(200).ok().and_then(|cid| Device::new(cid).ok());
    let Some(Ok(mut vsock)) = device.map(Vsock::new) else { return Ok(()) };
    vsock.device().listen(SERVICE);
    let mut script = Script { mem, vsock, hosts: Vec::new(), rest: script };
    while !script.rest.is_empty() {
        script.act()?;
        script.answer_guest();
    }
    Ok(())
}

struct Script<'a, M> {
    mem: &'a M,
    vsock: Vsock,
    hosts: Vec<UnixStream>,
    rest: &'a [u8],
}

impl<M: GuestMemory> Script<'_, M> {
    /// The next bytes of the script, zero past its end.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.rest.split_at(N.min(self.rest.len()));
        self.rest = tail;
        let mut bytes = [0; N];
        bytes.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        bytes
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn act(&mut self) -> Result<(), Abuse> {
        match self.byte() % 12 {
            0 => self.set_up(),
            1 => {
                let offset = u64::from(self.byte()) * 4 % REGION_SIZE;
                let value: [u8; 4] = self.take();
                self.vsock.write(self.mem, offset, &value)
            }
            2 => self.connect(),
            3 => {
                let len = self.byte();
                self.host(|mut host| drop(host.write(&vec![len; usize::from(len) * 16])));
                Ok(())
            }
            4 => {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
                let how = how.get(usize::from(self.byte() % 3)).copied();
                self.host(|host| drop(how.map(|how| host.shutdown(how))));
                Ok(())
            }
            5 => self.vsock.service(self.mem),
            6 => self.register(0x50, 1),
            7 => self.poke(),
            8 => self.packet(),
            9 => self.offer_rx_buffer(),
            10 => {
                self.host(|mut host| drop(host.read(&mut [0; 4096])));
                Ok(())
            }
            _ => {
                self.vsock.device().transport_reset();
                Ok(())
            }
        }
    }

    fn register(&mut self, offset: u64, value: u32) -> Result<(), Abuse> {
        self.vsock.write(self.mem, offset, &value.to_le_bytes())
    }

    /// What a good driver does first.
    fn set_up(&mut self) -> Result<(), Abuse> {
        for (offset, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
            self.register(offset, value)?;
        }
        for queue in 0..3 {
            let base = RINGS + RING_STEP * queue;
            for (offset, value) in [
                (0x30, queue),
                (0x38, RING_SIZE.into()),
                (0x80, base),
                (0x90, base + 0x80),
                (0xa0, base + 0x100),
                (0x44, 1),
            ] {
                self.register(offset, u32::try_from(value).unwrap_or(u32::MAX))?;
            }
        }
        self.register(0x70, 15)
    }

    fn connect(&mut self) -> Result<(), Abuse> {
        let Some(end) = self.new_host() else { return Ok(()) };
        self.vsock.connect(self.mem, PORT, end.into(), 0)
    }

    /// A new host, and the device's end of its socket. The oldest of too many hosts hangs up.
    fn new_host(&mut self) -> Option<UnixStream> {
        let (host, end) = UnixStream::pair().ok()?;
        host.set_nonblocking(true).ok()?;
        if HOSTS <= self.hosts.len() {
            self.hosts.remove(0);
        }
        self.hosts.push(host);
        Some(end)
    }

    fn host(&mut self, act: impl FnOnce(&UnixStream)) {
        let which = usize::from(self.byte());
        if let Some(host) = self.hosts.iter().cycle().nth(which) {
            act(host);
        }
    }

    fn answer_guest(&mut self) {
        let events: Vec<_> = self.vsock.device().take_events().collect();
        for event in events {
            if let Event::Incoming(peer) = event {
                match self.new_host() {
                    Some(end) if peer.guest_port.is_multiple_of(2) => {
                        self.vsock.device().accept(peer, end.into());
                    }
                    _ => self.vsock.device().refuse(peer),
                }
            }
        }
    }

    /// Changes a few bytes of guest memory. Where there is none, nothing happens.
    fn poke(&mut self) -> Result<(), Abuse> {
        let addr = u16::from_le_bytes(self.take());
        let bytes: [u8; 8] = self.take();
        let _ = self.mem.write_slice(&bytes, GuestAddress(addr.into()));
        Ok(())
    }

    /// Sends a packet that is well-formed, with whatever in it.
    fn packet(&mut self) -> Result<(), Abuse> {
        let [op, ports, flags, odd] = self.take();
        let len = u16::from_le_bytes(self.take()) % 0x2000;
        let service = ports & 0x80 != 0;
        let header = Header {
            src_cid: if odd == 1 { 201 } else { 200 },
            dst_cid: Cid::HOST.into(),
            src_port: if service { u32::from(ports & 7) } else { PORT },
            dst_port: if service { SERVICE } else { 0x1_0000 + u32::from(ports & 7) },
            len: len.into(),
            socket_type: if odd == 2 { 2 } else { TYPE_STREAM },
            op: (op % 9).into(),
            flags: flags.into(),
            buf_alloc: u32::from_le_bytes(self.take()),
            fwd_cnt: u32::from_le_bytes(self.take()),
        };
        let _ = self.mem.write_slice(&header.encode(), GuestAddress(PACKET));
        self.descriptor(TX, 0, PACKET, HEADER_LEN as u64, [NEXT, 1]);
        self.descriptor(TX, 1, PACKET + 0x100, len.into(), [0, 0]);
        self.offer(TX, 0);
        self.register(0x50, 1)
    }

    fn offer_rx_buffer(&mut self) -> Result<(), Abuse> {
        let head = self.byte() % 8;
        let addr = RX_BUFFERS + u64::from(head) * RX_BUFFER_LEN;
        self.descriptor(RX, head.into(), addr, RX_BUFFER_LEN, [WRITE, 0]);
        self.offer(RX, head.into());
        self.register(0x50, 0)
    }

    fn descriptor(&self, ring: u64, at: u64, addr: u64, len: u64, [flags, next]: [u16; 2]) {
        let tail = len | u64::from(flags) << 32 | u64::from(next) << 48;
        let place = GuestAddress(ring + at * 16);
        let _ = self.mem.write_obj([addr.to_le(), tail.to_le()], place);
    }

    fn offer(&self, ring: u64, head: u16) {
        let place = GuestAddress(ring + 0x82);
        let index: u16 = self.mem.read_obj(place).unwrap_or_default();
        let slot = ring + 0x84 + u64::from(index % RING_SIZE) * 2;
        let _ = self.mem.write_obj(head, GuestAddress(slot));
        let _ = self.mem.write_obj(index.wrapping_add(1), place);
    }
}
