//! A guest for tests: its memory, its rings and a vsock driver that does as it is told.
//!
//! Uses only what the crate offers to everyone, so that benchmarks can use it too. Its own packet
//! encoding checks the device's.
#![expect(clippy::cast_possible_truncation, reason = "numbers of a test fit where it puts them")]

use osvm_protocol::Cid;
use osvm_vsock::mmio::Vsock;
use osvm_vsock::{Abuse, Device, Event};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) const CID: u64 = 200;
pub(crate) const HOST: u64 = 2;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const RESPONSE: u16 = 2;
pub(crate) const RST: u16 = 3;
pub(crate) const SHUTDOWN: u16 = 4;
pub(crate) const RW: u16 = 5;
pub(crate) const CREDIT_UPDATE: u16 = 6;
pub(crate) const CREDIT_REQUEST: u16 = 7;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const RX: usize = 0;
pub(crate) const TX: usize = 1;
pub(crate) const EVENT: usize = 2;

const MEMORY: u64 = 64 << 20;
const RINGS: u64 = 0x1_0000;
const RX_BUFFERS: u64 = 16 << 20;
const TX_BUFFERS: u64 = 40 << 20;

/// A packet as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) guest_port: u32,
    pub(crate) host_port: u32,
    pub(crate) socket_type: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.guest_port.to_le_bytes());
        bytes.extend(self.host_port.to_le_bytes());
        bytes.extend(u32::try_from(self.payload.len()).unwrap().to_le_bytes());
        bytes.extend(self.socket_type.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }

    fn from_device(bytes: &[u8]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes.len() - 44, u32_at(24) as usize, "used length and packet length differ");
        Self {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            host_port: u32_at(16),
            guest_port: u32_at(20),
            socket_type: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
            payload: bytes[44..].to_vec(),
        }
    }
}

/// One split ring in guest memory, from the driver's side.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
}

impl Ring {
    fn new(index: usize, size: u16) -> Self {
        let base = RINGS * (index as u64 + 1);
        Self {
            size,
            desc: base,
            avail: base + 0x4000,
            used: base + 0x8000,
            next_avail: 0,
            next_used: 0,
        }
    }

    pub(crate) fn descriptor(
        &self,
        mem: &GuestMemoryMmap,
        at: u16,
        addr: u64,
        len: u32,
        flags: [u16; 2],
    ) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags[0].to_le_bytes());
        bytes.extend(flags[1].to_le_bytes());
        mem.write_slice(&bytes, GuestAddress(self.desc + u64::from(at) * 16)).unwrap();
    }

    pub(crate) fn offer(&mut self, mem: &GuestMemoryMmap, head: u16) {
        let slot = self.avail + 4 + u64::from(self.next_avail % self.size) * 2;
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        mem.write_obj(self.next_avail, GuestAddress(self.avail + 2)).unwrap();
    }

    /// The head and length of the next buffer the device gave back.
    pub(crate) fn take_used(&mut self, mem: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let index: u16 = mem.read_obj(GuestAddress(self.used + 2)).unwrap();
        if index == self.next_used {
            return None;
        }
        let slot = self.used + 4 + u64::from(self.next_used % self.size) * 8;
        self.next_used = self.next_used.wrapping_add(1);
        let [head, len]: [u32; 2] = mem.read_obj(GuestAddress(slot)).unwrap();
        Some((u16::try_from(head).unwrap(), len))
    }

    /// Whether the device wants to hear of new buffers.
    fn wants_notification(&self, mem: &GuestMemoryMmap) -> bool {
        mem.read_obj::<u16>(GuestAddress(self.used)).unwrap() & 1 == 0
    }
}

/// The guest's half of one connection.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
    /// Bytes the guest may hold, as it tells the device.
    pub(crate) window: u32,
    /// What the counters of both sides begin with.
    pub(crate) start: u32,
    pub(crate) received: Vec<u8>,
    pub(crate) forwarded: u32,
    pub(crate) sent: u32,
    pub(crate) peer_window: u32,
    pub(crate) peer_forwarded: u32,
    pub(crate) shutdown: u32,
    pub(crate) reset: bool,
    /// Whether the guest takes what it receives at once, and says so when half the window is used.
    pub(crate) reads: bool,
    pub(crate) announced: u32,
}

impl Stream {
    pub(crate) fn credit(&self) -> u32 {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// The wrapping count of all bytes received.
    pub(crate) fn total(&self) -> u32 {
        self.start.wrapping_add(self.received.len() as u32)
    }

    pub(crate) fn packet(&self, op: u16, payload: &[u8]) -> Packet {
        Packet {
            src_cid: CID,
            dst_cid: HOST,
            guest_port: self.guest_port,
            host_port: self.host_port,
            socket_type: 1,
            op,
            flags: 0,
            buf_alloc: self.window,
            fwd_cnt: self.forwarded,
            payload: payload.to_vec(),
        }
    }
}

/// A booted guest with a driver.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) mem: GuestMemoryMmap,
    pub(crate) vsock: Vsock,
    pub(crate) rings: [Ring; 3],
    pub(crate) rx_buffer: u32,
    /// Window the guest gives new connections.
    pub(crate) window: u32,
    /// What the counters of new connections begin with.
    pub(crate) start: u32,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) notifications: usize,
}

impl Guest {
    /// A guest whose driver is ready, with `size` buffers of `rx_buffer` bytes for packets.
    pub(crate) fn boot(size: u16, rx_buffer: u32) -> Self {
        let mut guest = Self::cold(size, rx_buffer);
        guest.start_driver();
        guest
    }

    /// The driver begins anew, with fresh rings.
    pub(crate) fn start_driver(&mut self) {
        let size = self.rings[RX].size;
        self.rings = [RX, TX, EVENT].map(|index| Ring::new(index, size));
        for ring in &self.rings {
            self.mem.write_slice(&vec![0; RINGS as usize], GuestAddress(ring.desc)).unwrap();
        }
        self.streams.clear();
        self.set_up().unwrap();
        for head in 0..size {
            self.post_rx(head);
        }
        self.notify(RX).unwrap();
    }

    /// A guest whose driver has not touched the device.
    pub(crate) fn cold(size: u16, rx_buffer: u32) -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let device = Device::new(Cid::new(CID as u32).unwrap()).unwrap();
        Self {
            mem,
            vsock: Vsock::new(device).unwrap(),
            rings: [RX, TX, EVENT].map(|index| Ring::new(index, size)),
            rx_buffer,
            window: 64 * 1024,
            start: 0,
            streams: BTreeMap::new(),
            notifications: 0,
        }
    }

    pub(crate) fn register(&mut self, offset: u64, value: u32) -> Result<(), Abuse> {
        self.vsock.write(&self.mem, offset, &value.to_le_bytes())
    }

    pub(crate) fn read_register(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.vsock.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// What a virtio 1.0 driver does before it uses the device.
    pub(crate) fn set_up(&mut self) -> Result<(), Abuse> {
        self.register(0x70, 0)?;
        self.register(0x70, 1)?;
        self.register(0x70, 3)?;
        self.register(0x24, 1)?;
        self.register(0x20, 1)?;
        self.register(0x70, 11)?;
        assert_eq!(self.read_register(0x70), 11, "the device refused its own features");
        for index in [RX, TX, EVENT] {
            self.set_up_ring(index)?;
        }
        self.register(0x70, 15)
    }

    pub(crate) fn set_up_ring(&mut self, index: usize) -> Result<(), Abuse> {
        let Ring { size, desc, avail, used, .. } = self.rings[index];
        self.register(0x30, index as u32)?;
        self.register(0x38, size.into())?;
        for (offset, addr) in [(0x80, desc), (0x90, avail), (0xa0, used)] {
            self.register(offset, (addr & 0xffff_ffff) as u32)?;
            self.register(offset + 4, (addr >> 32) as u32)?;
        }
        self.register(0x44, 1)
    }

    pub(crate) fn notify(&mut self, index: usize) -> Result<(), Abuse> {
        self.notifications += 1;
        self.register(0x50, index as u32)
    }

    /// Makes one rx buffer available, without a word.
    pub(crate) fn post_rx(&mut self, head: u16) {
        let addr = RX_BUFFERS + u64::from(head) * u64::from(self.rx_buffer);
        let ring = &mut self.rings[RX];
        ring.descriptor(&self.mem, head, addr, self.rx_buffer, [WRITE, 0]);
        ring.offer(&self.mem, head);
    }

    /// Sends a packet, as a header and a payload buffer, and notifies the device.
    pub(crate) fn send(&mut self, packet: &Packet) -> Result<(), Abuse> {
        self.queue(packet);
        self.notify(TX)?;
        while self.rings[TX].take_used(&self.mem).is_some() {}
        Ok(())
    }

    /// Puts a packet into the tx ring without a word.
    pub(crate) fn queue(&mut self, packet: &Packet) {
        let slot = self.rings[TX].next_avail % (self.rings[TX].size / 2);
        let (first, second) = (slot * 2, slot * 2 + 1);
        let slots = u64::from(self.rings[TX].size / 2);
        let addr = TX_BUFFERS + u64::from(slot) * ((MEMORY - TX_BUFFERS) / slots);
        self.mem.write_slice(&packet.header(), GuestAddress(addr)).unwrap();
        let ring = &mut self.rings[TX];
        if packet.payload.is_empty() {
            ring.descriptor(&self.mem, first, addr, 44, [0, 0]);
        } else {
            let len = u32::try_from(packet.payload.len()).unwrap();
            self.mem.write_slice(&packet.payload, GuestAddress(addr + 0x1000)).unwrap();
            ring.descriptor(&self.mem, first, addr, 44, [NEXT, second]);
            ring.descriptor(&self.mem, second, addr + 0x1000, len, [0, 0]);
        }
        ring.offer(&self.mem, first);
    }

    /// Takes every packet the device has delivered, and makes the buffers available again.
    pub(crate) fn take(&mut self) -> Vec<Packet> {
        let packets = self.take_and_keep_buffers();
        for (head, _) in &packets {
            self.post_rx(*head);
        }
        if !packets.is_empty() && self.rings[RX].wants_notification(&self.mem) {
            self.notify(RX).unwrap();
        }
        packets.into_iter().map(|(_, packet)| packet).collect()
    }

    /// The same, but the buffers are not given back.
    pub(crate) fn take_and_keep_buffers(&mut self) -> Vec<(u16, Packet)> {
        let mut packets = Vec::new();
        while let Some((head, len)) = self.rings[RX].take_used(&self.mem) {
            let addr = RX_BUFFERS + u64::from(head) * u64::from(self.rx_buffer);
            let mut bytes = vec![0; len as usize];
            self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
            packets.push((head, Packet::from_device(&bytes)));
        }
        packets
    }

    /// The ops of every packet delivered since.
    pub(crate) fn take_ops(&mut self) -> Vec<u16> {
        self.take().iter().map(|packet| packet.op).collect()
    }

    /// One step of a well-behaved driver: takes packets, answers what must be answered. Returns
    /// how many there were.
    pub(crate) fn step(&mut self) -> usize {
        let packets = self.take();
        let count = packets.len();
        for packet in packets {
            self.handle(packet);
        }
        count
    }

    fn handle(&mut self, packet: Packet) {
        assert_eq!((packet.src_cid, packet.dst_cid), (HOST, CID));
        let start = self.start;
        let window = self.window;
        let stream = self.streams.entry(packet.host_port).or_insert_with(|| Stream {
            host_port: packet.host_port,
            guest_port: packet.guest_port,
            window,
            start,
            forwarded: start,
            announced: start,
            sent: start,
            reads: true,
            ..Stream::default()
        });
        stream.peer_window = packet.buf_alloc;
        stream.peer_forwarded = packet.fwd_cnt;
        let mut answer = None;
        match packet.op {
            REQUEST => answer = Some(stream.packet(RESPONSE, &[])),
            RW => {
                stream.received.extend_from_slice(&packet.payload);
                let total = stream.total();
                assert!(
                    total.wrapping_sub(stream.announced) <= stream.window,
                    "the device overran the guest's window"
                );
                if stream.reads {
                    stream.forwarded = total;
                    if total.wrapping_sub(stream.announced) >= stream.window / 2 {
                        answer = Some(stream.packet(CREDIT_UPDATE, &[]));
                    }
                }
            }
            CREDIT_REQUEST if stream.reads => answer = Some(stream.packet(CREDIT_UPDATE, &[])),
            SHUTDOWN => stream.shutdown |= packet.flags,
            RST => stream.reset = true,
            RESPONSE | CREDIT_UPDATE | CREDIT_REQUEST => {}
            op => panic!("the device sent op {op}"),
        }
        if let Some(answer) = answer {
            stream.announced = stream.forwarded;
            self.send(&answer).unwrap();
        }
    }

    /// The guest takes what it has received, and says so.
    pub(crate) fn read(&mut self, host_port: u32) {
        let stream = self.streams.get_mut(&host_port).unwrap();
        stream.forwarded = stream.total();
        stream.announced = stream.forwarded;
        let update = stream.packet(CREDIT_UPDATE, &[]);
        self.send(&update).unwrap();
    }

    /// Sends as much of `bytes` as credit allows in one packet of at most `max` bytes.
    pub(crate) fn write(&mut self, host_port: u32, bytes: &[u8], max: usize) -> usize {
        let Some(stream) = self.streams.get_mut(&host_port) else { return 0 };
        let len = bytes.len().min(max).min(stream.credit() as usize);
        if len == 0 {
            return 0;
        }
        let packet = stream.packet(RW, &bytes[..len]);
        stream.announced = stream.forwarded;
        stream.sent = stream.sent.wrapping_add(u32::try_from(len).unwrap());
        self.send(&packet).unwrap();
        len
    }

    /// A connection from the host, accepted: the host's end and the host's port.
    pub(crate) fn connected(&mut self, token: u64) -> (UnixStream, u32) {
        let host = self.connect(token);
        while self.step() != 0 {}
        assert_eq!(self.events(), [Event::Accepted { token }]);
        let port = *self.streams.keys().max().unwrap();
        (host, port)
    }

    /// A connection from the host, asked for. The host's end doesn't block.
    pub(crate) fn connect(&mut self, token: u64) -> UnixStream {
        let (host, end) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        self.vsock.connect(&self.mem, 5252, OwnedFd::from(end), token).unwrap();
        host
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.vsock.device().take_events().collect()
    }

    /// What the VMM does when the epoll set is readable.
    pub(crate) fn service(&mut self) {
        self.vsock.service(&self.mem).unwrap();
    }
}

/// Writes what a non-blocking socket takes.
pub(crate) fn push(socket: &mut UnixStream, bytes: &[u8]) -> usize {
    match socket.write(bytes) {
        Ok(len) => len,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}
