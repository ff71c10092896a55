//! A vsock device and the host behind it, made of ordinary memory.
//!
//! The device is as strict as the specification lets it be: it looks at a ring only when it was
//! notified, and never while it has asked for silence. A guest that waits when nothing is planned
//! for it fails the test instead of waiting for ever.

use super::super::packet::{HEADER_LEN, Header, SharedHeader, TYPE_STREAM, WIRE_HEADER_LEN, op};
use super::super::*;
use crate::virtio::mmio::Mmio;
use crate::virtio::ring::tests::DeviceSide;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

pub(super) const CID: u64 = 200;
pub(super) const PORT: u32 = 5252;
/// Where the receive buffers seem to be.
const BUFFERS: u64 = 0x100_0000;

/// A packet with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

/// What happens the next time the guest waits.
type Step = Box<dyn FnOnce(&mut World)>;

/// Everything outside of the driver.
pub(super) struct World {
    pub(super) cid: u64,
    pub(super) rx: DeviceSide,
    pub(super) tx: DeviceSide,
    pub(super) events: DeviceSide,
    shared: &'static Shared,
    buffers: Vec<Vec<u8>>,
    lent: HashMap<u64, Vec<u8>>,
    /// On their way to the guest.
    pub(super) inbox: VecDeque<Packet>,
    /// What the guest sent.
    pub(super) sent: Vec<Packet>,
    /// The device leaves the guest's packets where they are.
    pub(super) holds_tx: bool,
    pub(super) plan: VecDeque<Step>,
    /// Called for each packet of the guest.
    pub(super) react: Option<fn(&mut World, &Packet)>,
    pub(super) waits: usize,
    pub(super) notifications: Vec<u32>,
    pub(super) acknowledged: usize,
    pub(super) uses_interrupts: bool,
    pub(super) fwd_cnt: u32,
}

impl World {
    fn notify(&mut self, queue: u32) {
        self.notifications.push(queue);
        match queue {
            RX => self.rx.look(),
            TX => self.tx.look(),
            _ => self.events.look(),
        }
        self.run();
    }

    /// All that the device can do now.
    pub(super) fn run(&mut self) {
        while !self.holds_tx
            && let Some((head, chain)) = self.tx.take()
        {
            let packet = self.packet_of(&chain);
            self.tx.give_back(head, 0);
            self.sent.push(packet.clone());
            if let Some(react) = self.react {
                react(self, &packet);
            }
        }
        while let Some(packet) = self.inbox.front() {
            let Some((head, chain)) = self.rx.take() else {
                return;
            };
            let [(address, len, true)] = chain[..] else { panic!("bad receive chain {chain:?}") };
            let buffer = usize::try_from((address - BUFFERS) / u64::from(RX_BUFFER_LEN)).unwrap();
            let bytes = [&bytes_of(&packet.header)[..], &packet.payload].concat();
            assert!(bytes.len() <= len as usize);
            self.buffers[buffer][..bytes.len()].copy_from_slice(&bytes);
            self.inbox.pop_front();
            self.rx.give_back(head, u32::try_from(bytes.len()).unwrap());
        }
    }

    fn packet_of(&self, chain: &[(u64, u32, bool)]) -> Packet {
        let (first, rest) = chain.split_first().unwrap();
        assert_eq!(*first, (address_of(&self.shared.header), WIRE_HEADER_LEN, false));
        let header = Header::from_bytes(&self.shared.header.bytes());
        let payload = match rest {
            [] => Vec::new(),
            [(address, len, false)] => {
                let mut bytes = self.lent[address].clone();
                bytes.truncate(*len as usize);
                bytes
            }
            _ => panic!("bad transmit chain {chain:?}"),
        };
        assert_eq!(header.len as usize, payload.len());
        Packet { header, payload }
    }

    /// A packet from the host to the guest.
    pub(super) fn deliver(&mut self, header: Header, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        let fwd_cnt = self.fwd_cnt;
        let header = Header { len, fwd_cnt, ..header };
        self.inbox.push_back(Packet { header, payload: payload.to_vec() });
        self.run();
    }

    /// Tells the guest of a transport reset.
    pub(super) fn transport_reset(&mut self, cid: u64) {
        self.cid = cid;
        let (head, chain) = self.events.take().expect("the guest gave an event buffer");
        assert_eq!(chain, [(address_of(&self.shared.event), 4, true)]);
        self.shared.event.store(0, Ordering::Relaxed);
        self.events.give_back(head, 4);
    }

    /// The operations the guest has sent, with the ports they went to.
    pub(super) fn operations(&self) -> Vec<(u16, u32)> {
        self.sent.iter().map(|packet| (packet.header.op, packet.header.dst_port)).collect()
    }

    /// All data the guest has sent.
    pub(super) fn data(&self) -> Vec<u8> {
        self.sent.iter().flat_map(|packet| packet.payload.iter().copied()).collect()
    }
}

fn bytes_of(header: &Header) -> [u8; HEADER_LEN] {
    let shared = SharedHeader::new();
    shared.store(header);
    shared.bytes()
}

/// A packet from port `port` of the host, with plenty of credit.
pub(super) fn from(port: u32, op: u16) -> Header {
    Header {
        src_cid: HOST_CID,
        dst_cid: CID,
        src_port: port,
        dst_port: PORT,
        kind: TYPE_STREAM,
        op,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}

/// The driver's way to the [`World`].
#[derive(Clone)]
pub(super) struct Handle(pub(super) Rc<RefCell<World>>);

impl Mmio for Handle {
    fn read(&self, offset: u16) -> u32 {
        match offset {
            0x000 => 0x7472_6976,
            0x004 => 2,
            0x008 => DEVICE_ID,
            0x034 => 256,
            0x060 => u32::from(self.0.borrow().uses_interrupts),
            0x070 => 11,
            0x100 => u32::try_from(self.0.borrow().cid).unwrap(),
            _ => 0,
        }
    }

    fn write(&self, offset: u16, value: u32) {
        match offset {
            0x050 => self.0.borrow_mut().notify(value),
            0x064 => self.0.borrow_mut().acknowledged += 1,
            // What was offered before the device runs, it finds when it starts.
            0x070 if value & 4 != 0 => {
                let mut world = self.0.borrow_mut();
                world.tx.look();
                world.events.look();
            }
            _ => {}
        }
    }
}

impl Platform for Handle {
    fn rx_address(&self, buffer: u16) -> u64 {
        BUFFERS + u64::from(buffer) * u64::from(RX_BUFFER_LEN)
    }

    fn rx_copy(&self, buffer: u16, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow().buffers[usize::from(buffer)][at..at + out.len()]);
    }

    fn lend(&self, bytes: &[u8]) -> u64 {
        let address = 0x2000_0000;
        self.0.borrow_mut().lent.insert(address, bytes.to_vec());
        address
    }

    fn uses_interrupts(&self) -> bool {
        self.0.borrow().uses_interrupts
    }

    fn wait(&mut self) {
        let mut world = self.0.borrow_mut();
        world.waits += 1;
        let step = world.plan.pop_front();
        step.expect("the guest waits, and nothing will ever come")(&mut world);
        world.run();
    }
}

/// A driver under test and the world it runs in.
pub(super) struct Bench {
    pub(super) world: Handle,
    pub(super) vsock: Vsock<'static, Handle, Handle>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_interrupts(false)
    }

    pub(super) fn with_interrupts(uses_interrupts: bool) -> Self {
        let shared: &'static Shared = Box::leak(Box::new(Shared::new()));
        let world = Handle(Rc::new(RefCell::new(World {
            cid: CID,
            rx: DeviceSide::new(&shared.rx),
            tx: DeviceSide::new(&shared.tx),
            events: DeviceSide::new(&shared.events),
            shared,
            buffers: vec![vec![0; RX_BUFFER_LEN as usize]; RX_BUFFERS.into()],
            lent: HashMap::new(),
            inbox: VecDeque::new(),
            sent: Vec::new(),
            holds_tx: false,
            plan: VecDeque::new(),
            react: None,
            waits: 0,
            notifications: Vec::new(),
            acknowledged: 0,
            uses_interrupts,
            fwd_cnt: 0,
        })));
        let device = Device::probe(world.clone()).unwrap();
        let vsock = Vsock::new(device, world.clone(), shared, PORT).unwrap();
        Self { world, vsock }
    }

    /// Plans what happens the next time the guest waits.
    pub(super) fn plan(&self, step: impl FnOnce(&mut World) + 'static) -> &Self {
        self.world.0.borrow_mut().plan.push_back(Box::new(step));
        self
    }

    /// Delivers a packet now.
    pub(super) fn deliver(&self, header: Header, payload: &[u8]) -> &Self {
        self.world.0.borrow_mut().deliver(header, payload);
        self
    }

    pub(super) fn operations(&self) -> Vec<(u16, u32)> {
        self.world.0.borrow().operations()
    }

    /// The operations the guest sends from now on.
    pub(super) fn forget(&self) {
        self.world.0.borrow_mut().sent.clear();
    }
}

/// A request for a connection from `port`.
pub(super) fn request(port: u32) -> Header {
    from(port, op::REQUEST)
}
