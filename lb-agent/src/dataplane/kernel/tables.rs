//! Writing what packets read: services, backends, endpoints, slot tables.
//!
//! Each write is safe while packets pass: hash map elements are replaced whole by the kernel, slots are single words, and a
//! backend's next hop is marked unresolved while it changes (packets then ask the routing table).

use std::collections::HashMap as Index;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError};
use lb_common::hint::Of;
use lb_common::latency::{DEFAULT_SHIFT, MAX_SHIFT};
use lb_common::limits::{MAX_SERVICE_ID, SLOTS_PER_BLOCK, slot_blocks};
use lb_common::maps::{self, BPF_F_INNER_MAP, BPF_F_MMAPABLE, Backend, KeyV4, KeyV6, Load, Service, SlotBlock, Vip};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::packet::ip::UDP;
use lb_common::slot::Slot;
use zerocopy::transmute;

use super::endpoints::{Endpoints, Member};
use super::error::KernelError;
use super::hints::Hints;
use super::keys::{Key, from_words, key, protocol_number, raw_v4, raw_v6, to_words, vip_of};
use super::mapped::Mapped;
use super::pins::{Meta, Pins};
use super::ports::Pools;
use crate::model::config::Protocol;
use crate::model::pool::{NextHop, ServiceAddress};

type Block = [u8; size_of::<SlotBlock>()];
type ServiceMapV4 = HashMap<MapData, [u8; 8], [u8; 8]>;
type ServiceMapV6 = HashMap<MapData, [u8; 20], [u8; 8]>;

const VIP_WORDS: usize = size_of::<Vip>() / 8;
/// No service has this number.
const FREE: Vip = Vip {
    address: [0; 4],
    port: 0,
    protocol: 0,
    version: 0,
    zero: 0,
    service: Service { id: 0, mode: ServiceMode(0), slots: 0 },
};
const BACKEND_WORDS: usize = size_of::<Backend>() / 8;
/// Word of a [`Backend`] that holds interface, service and flags.
const FLAGS_WORD: usize = core::mem::offset_of!(Backend, ifindex) / 8;

/// A backend as packets need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub service: u16,
    pub slots: u32,
    pub mode: ServiceMode,
    pub vip: ServiceAddress,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    pub next_hop: Option<NextHop>,
    pub accepts_new: bool,
}

#[expect(missing_debug_implementations, reason = "aya's maps have none, and there is nothing to see")]
pub struct Tables {
    services_v4: ServiceMapV4,
    services_v6: ServiceMapV6,
    endpoints: Endpoints,
    hints: Hints,
    /// By number, as the programs compare them.
    vips: Mapped,
    pools: Pools,
    backends: Mapped,
    loads: Mapped,
    slot_tables: ArrayOfMaps<MapData, Array<MapData, Block>>,
    /// The same map once more: read this way it gives file descriptors, which aya's typed arrays keep to themselves.
    slot_table_maps: ArrayOfMaps<MapData, MapData>,
    /// Slot tables by service, mapped when first written.
    mapped: Index<u16, Mapped>,
    capacity: u32,
    /// By backend, one flow in 2^n that is measured.
    sampling: Vec<u8>,
}

impl Tables {
    pub(super) fn open(pins: &Pins, meta: &Meta) -> Result<Self, KernelError> {
        let backends = pins.map_data(maps::BACKENDS)?;
        let bytes = meta.backend_capacity as usize * size_of::<Backend>();
        let loads = pins.map_data(maps::LOADS)?;
        let loads = Mapped::new(loads.fd().as_fd(), meta.backend_capacity as usize * size_of::<Load>());
        let services_v4: ServiceMapV4 = typed(pins, maps::SERVICES_V4)?;
        let services_v6: ServiceMapV6 = typed(pins, maps::SERVICES_V6)?;
        let endpoints = Endpoints::open(pins)?;
        let services = hints_of(&services_v4, &services_v6).map_err(KernelError::map("services"))?;
        let vips = pins.map_data(maps::SERVICES)?;
        let vips = Mapped::new(vips.fd().as_fd(), (usize::from(MAX_SERVICE_ID) + 1) * size_of::<Vip>());
        Ok(Self {
            hints: Hints::open(pins, &services, &endpoints.hints()?)?,
            vips: vips.map_err(KernelError::io("map the services"))?,
            services_v4,
            services_v6,
            endpoints,
            pools: Pools::open(pins, meta)?,
            backends: Mapped::new(backends.fd().as_fd(), bytes).map_err(KernelError::io("map the backends"))?,
            loads: loads.map_err(KernelError::io("map the loads"))?,
            slot_tables: typed(pins, maps::SLOT_TABLES)?,
            slot_table_maps: typed(pins, maps::SLOT_TABLES)?,
            mapped: Index::new(),
            capacity: meta.backend_capacity,
            sampling: vec![DEFAULT_SHIFT as u8; meta.backend_capacity as usize],
        })
    }

    /// Services that the kernel knows, for an agent that takes over.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn services(&self) -> Result<Vec<(ServiceAddress, Service)>, KernelError> {
        let mut found = Vec::new();
        for item in self.services_v4.iter() {
            let (key, value) = item.map_err(KernelError::map(maps::SERVICES_V4))?;
            let key: KeyV4 = transmute!(key);
            found.extend(
                vip_of(IpAddr::from(key.address.to_ne_bytes()), key.port, key.protocol)
                    .map(|vip| (vip, transmute!(value))),
            );
        }
        for item in self.services_v6.iter() {
            let (key, value) = item.map_err(KernelError::map(maps::SERVICES_V6))?;
            let key: KeyV6 = transmute!(key);
            found.extend(
                vip_of(from_words(key.address, true), key.port, key.protocol).map(|vip| (vip, transmute!(value))),
            );
        }
        Ok(found)
    }

    /// # Errors
    /// When the kernel refuses a map or a write.
    pub fn put_service(
        &mut self,
        vip: ServiceAddress,
        id: u16,
        slots: u32,
        mode: ServiceMode,
    ) -> Result<(), KernelError> {
        self.slot_table(id, slots)?;
        let service = Service { id, mode, slots };
        let value: [u8; 8] = transmute!(service);
        let key = key(vip);
        self.write_vip(id, vip_entry(key, service));
        match key {
            Key::V4(key) => self.services_v4.insert(raw_v4(key), value, 0).map_err(KernelError::map(maps::SERVICES_V4)),
            Key::V6(key) => self.services_v6.insert(raw_v6(key), value, 0).map_err(KernelError::map(maps::SERVICES_V6)),
        }?;
        self.hints.enter(Of::Services, key, id);
        Ok(())
    }

    /// A packet that comes meanwhile finds the old service or the new one: what says which of them it is, its address, is written
    /// only where that number has had no hint.
    fn write_vip(&self, id: u16, vip: Vip) {
        let new: [u64; VIP_WORDS] = transmute!(vip);
        let place = &self.vips.words64()[usize::from(id) * VIP_WORDS..][..VIP_WORDS];
        place.iter().zip(new).for_each(|(word, new)| word.store(new, Ordering::Release));
    }

    /// # Errors
    /// When the kernel refuses it; a service that is not there is no error.
    pub fn remove_service(&mut self, vip: ServiceAddress, id: u16) -> Result<(), KernelError> {
        let key = key(vip);
        self.hints.leave(Of::Services, &key);
        match &key {
            Key::V4(key) => gone(self.services_v4.remove(&raw_v4(*key)), maps::SERVICES_V4)?,
            Key::V6(key) => gone(self.services_v6.remove(&raw_v6(*key)), maps::SERVICES_V6)?,
        }
        self.write_vip(id, FREE);
        self.mapped.remove(&id);
        // The empty inner map takes the place of the table, whose memory goes with its last reader.
        let empty = new_slot_table(1)?;
        self.slot_tables.set(u32::from(id), &empty, 0).map_err(KernelError::map(maps::SLOT_TABLES))
    }

    /// Gives the number of slots that changed hands.
    ///
    /// # Errors
    /// When the kernel refuses a map, or when the table is longer than the service's.
    pub fn put_slots(&mut self, service: u16, table: &[Slot]) -> Result<usize, KernelError> {
        let slots = u32::try_from(table.len()).unwrap_or(u32::MAX);
        let words = self.slot_table(service, slots)?.words32();
        let mut moved = 0;
        for (word, new) in words.iter().zip(table) {
            let old = Slot(word.load(Ordering::Relaxed));
            moved += usize::from(old.current() != new.current());
            if old != *new {
                word.store(new.0, Ordering::Relaxed);
            }
        }
        Ok(moved)
    }

    /// The service's slots as the programs see them; for an agent that takes over.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub fn slots(&mut self, service: u16, slots: u32) -> Result<Vec<Slot>, KernelError> {
        let words = self.slot_table(service, slots)?.words32();
        Ok(words.iter().take(slots as usize).map(|word| Slot(word.load(Ordering::Relaxed))).collect())
    }

    /// The words of a service's table that was written or read before.
    pub(super) fn mapped_slots(&self, service: u16) -> Option<&[AtomicU32]> {
        self.mapped.get(&service).map(Mapped::words32)
    }

    /// The service's table in this process's memory; made anew if there is none of this size.
    fn slot_table(&mut self, service: u16, slots: u32) -> Result<&Mapped, KernelError> {
        let words = (slot_blocks(slots) * SLOTS_PER_BLOCK) as usize;
        if self.mapped.get(&service).is_none_or(|mapped| mapped.words32().len() != words) {
            let index = u32::from(service);
            let map = match self.slot_table_map(index)? {
                Some(map) if map_entries(&map)? == slot_blocks(slots) => map,
                _ => {
                    let table = new_slot_table(slots)?;
                    self.slot_tables.set(index, &table, 0).map_err(KernelError::map(maps::SLOT_TABLES))?;
                    self.slot_table_map(index)?
                        .ok_or(KernelError::Map { name: maps::SLOT_TABLES, source: MapError::KeyNotFound })?
                }
            };
            let mapped = Mapped::new(map.fd().as_fd(), words * 4).map_err(KernelError::io("map a slot table"))?;
            self.mapped.insert(service, mapped);
        }
        Ok(&self.mapped[&service])
    }

    fn slot_table_map(&self, index: u32) -> Result<Option<MapData>, KernelError> {
        match self.slot_table_maps.get(&index, 0) {
            Ok(map) => Ok(Some(map)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map(maps::SLOT_TABLES)(error)),
        }
    }

    /// Backends that the kernel knows, by number.
    pub fn backends(&self) -> Vec<(u16, KnownBackend)> {
        let known = (1..self.capacity).filter_map(|id| {
            let id = u16::try_from(id).ok()?;
            Some((id, KnownBackend(read_backend(&self.backends, id))))
        });
        known.filter(|(_, known)| known.service() != 0).collect()
    }

    /// # Errors
    /// When there is no room for the number, or the kernel refuses the endpoint.
    pub fn put_backend(&mut self, id: u16, endpoint: &Endpoint) -> Result<(), KernelError> {
        if u32::from(id) >= self.capacity {
            return Err(KernelError::NoRoom { id, capacity: self.capacity });
        }
        self.loads.words32()[2 * usize::from(id) + 1].store(u32::from(endpoint.weight), Ordering::Relaxed);
        let own = ServiceAddress { vip: endpoint.address, port: endpoint.port, protocol: endpoint.vip.protocol };
        let has_ports = endpoint.mode.forwarding() == Forwarding::Snat;
        // Ports are there before a packet asks for one.
        match endpoint.next_hop.and_then(|hop| hop.source) {
            _ if !has_ports => self.pools.give_up(id)?,
            Some(source) => self.pools.provide(id, source, self.endpoints.with_ports(own, id))?,
            None => {}
        }
        let mut backend = encode(endpoint);
        backend.flags |= u16::from(self.sampling[usize::from(id)]) << Backend::SAMPLING;
        self.write_backend(id, backend);
        if !endpoint.mode.forwarding().answers_pass() {
            // What the backend sends under its own address is its own. The service may have been of another kind before.
            return self.endpoints.leave(own, id, &mut self.hints);
        }
        let recorded = endpoint.mode.tracking() == Tracking::Full;
        let member = Member { number: id, accepts_new: endpoint.accepts_new, recorded, has_ports };
        let backends = &self.backends;
        let is_recorded = |other| read_backend(backends, other).mode().tracking() == Tracking::Full;
        self.endpoints.join(own, member, is_recorded, &mut self.hints)
    }

    /// Of the backend's flows one in 2^`shift` is measured from here on.
    pub fn set_sampling(&mut self, id: u16, shift: u32) {
        let Some(known) = self.sampling.get_mut(usize::from(id)) else { return };
        let shift = shift.min(MAX_SHIFT) as u8;
        if std::mem::replace(known, shift) != shift {
            let mut backend = read_backend(&self.backends, id);
            backend.flags = backend.flags & ((1 << Backend::SAMPLING) - 1) | u16::from(shift) << Backend::SAMPLING;
            self.write_backend(id, backend);
        }
    }

    /// Active flows as schedulers see them now.
    pub fn active(&self, id: u16) -> u32 {
        self.loads.words32().get(2 * usize::from(id)).map_or(0, |active| active.load(Ordering::Relaxed))
    }

    /// What schedulers count from, after a sweep.
    pub(super) fn set_active(&self, id: u16, flows: u64) {
        if let Some(active) = self.loads.words32().get(2 * usize::from(id)) {
            active.store(u32::try_from(flows).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// # Errors
    /// When the kernel refuses it; a backend that is not there is no error.
    pub fn remove_backend(&mut self, id: u16) -> Result<(), KernelError> {
        let Some((_, known)) = self.backends().into_iter().find(|(known, _)| *known == id) else {
            return Ok(());
        };
        if let Some(own) = vip_of(known.address(), known.0.port, known.0.protocol) {
            self.endpoints.leave(own, id, &mut self.hints)?;
        }
        self.write_backend(id, Backend::default());
        self.pools.give_up(id)
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What packets know of the way to a backend.
    pub fn next_hop(&self, id: u16, known: &KnownBackend) -> Option<NextHop> {
        let mut hop = known.next_hop()?;
        if known.mode().forwarding() == Forwarding::Snat {
            hop.source = self.pools.source(id, known.address().is_ipv6());
        }
        Some(hop)
    }

    fn write_backend(&self, id: u16, backend: Backend) {
        let start = usize::from(id) * BACKEND_WORDS;
        let place = &self.backends.words64()[start..start + BACKEND_WORDS];
        let new: [u64; BACKEND_WORDS] = transmute!(backend);
        let changed = |word: usize| place[word].load(Ordering::Relaxed) != new[word];
        if (0..BACKEND_WORDS).any(|word| word != FLAGS_WORD && changed(word)) {
            let old: [u64; BACKEND_WORDS] = std::array::from_fn(|word| place[word].load(Ordering::Relaxed));
            let mut unresolved: Backend = transmute!(old);
            unresolved.flags &= !Backend::RESOLVED;
            let unresolved: [u64; BACKEND_WORDS] = transmute!(unresolved);
            place[FLAGS_WORD].store(unresolved[FLAGS_WORD], Ordering::Release);
            for word in (0..BACKEND_WORDS).filter(|word| *word != FLAGS_WORD) {
                place[word].store(new[word], Ordering::Release);
            }
        }
        place[FLAGS_WORD].store(new[FLAGS_WORD], Ordering::Release);
    }
}

fn read_backend(backends: &Mapped, id: u16) -> Backend {
    let words = &backends.words64()[usize::from(id) * BACKEND_WORDS..];
    let words: [u64; BACKEND_WORDS] = std::array::from_fn(|word| words[word].load(Ordering::Relaxed));
    transmute!(words)
}

/// A backend as it stands in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBackend(Backend);

impl KnownBackend {
    pub fn service(&self) -> u16 {
        self.0.service
    }

    pub fn address(&self) -> IpAddr {
        from_words(self.0.address, self.0.flags & Backend::IPV6 != 0)
    }

    pub fn port(&self) -> u16 {
        u16::from_be(self.0.port)
    }

    pub fn protocol(&self) -> Protocol {
        if self.0.protocol == UDP { Protocol::Udp } else { Protocol::Tcp }
    }

    pub fn mode(&self) -> ServiceMode {
        self.0.mode()
    }

    /// Slots in its service's table.
    pub fn slots(&self) -> u32 {
        self.0.slots
    }

    pub fn accepts_new(&self) -> bool {
        self.0.flags & Backend::ACCEPTS_NEW != 0
    }

    /// Without what packets do not need to know.
    fn next_hop(&self) -> Option<NextHop> {
        let own = || from_words(self.0.own, self.0.flags & Backend::IPV6 != 0);
        (self.0.flags & Backend::RESOLVED != 0).then(|| NextHop {
            ifindex: self.0.ifindex,
            source_mac: self.0.source_mac,
            destination_mac: self.0.destination_mac,
            mtu: u32::from(self.0.mtu),
            source: encapsulates(self.0.mode().forwarding()).then(own),
            gateway: None,
        })
    }
}

fn encapsulates(forwarding: Forwarding) -> bool {
    matches!(forwarding, Forwarding::Ipip | Forwarding::Gue)
}

fn encode(endpoint: &Endpoint) -> Backend {
    let mut flags = 0;
    if endpoint.accepts_new {
        flags |= Backend::ACCEPTS_NEW;
    }
    if endpoint.address.is_ipv6() {
        flags |= Backend::IPV6;
    }
    let mut backend = Backend {
        address: to_words(endpoint.address),
        own: to_words(endpoint.vip.vip),
        port: endpoint.port.to_be(),
        vip_port: endpoint.vip.port.to_be(),
        service: endpoint.service,
        protocol: protocol_number(endpoint.vip.protocol),
        slots: endpoint.slots,
        // As many bits as are in use.
        mode: endpoint.mode.0 as u8,
        flags,
        ..Backend::default()
    };
    let Some(hop) = endpoint.next_hop else { return backend };
    match (endpoint.mode.forwarding(), hop.source) {
        // Without a source there is no outer header, and no port: as good as unresolved.
        (Forwarding::Ipip | Forwarding::Gue | Forwarding::Snat, None) => return backend,
        (Forwarding::Ipip | Forwarding::Gue, Some(source)) => backend.own = to_words(source),
        _ => {}
    }
    backend.ifindex = hop.ifindex;
    backend.source_mac = hop.source_mac;
    backend.destination_mac = hop.destination_mac;
    // Devices with an MTU above that (`lo` has 65,536) take every packet.
    backend.mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
    backend.flags |= Backend::RESOLVED;
    backend
}

fn vip_entry(key: Key, service: Service) -> Vip {
    match key {
        Key::V4(KeyV4 { address, port, protocol, zero: _ }) => {
            Vip { address: [address, 0, 0, 0], port, protocol, version: 4, zero: 0, service }
        }
        Key::V6(KeyV6 { address, port, protocol, zero: _ }) => {
            Vip { address, port, protocol, version: 6, zero: 0, service }
        }
    }
}

/// Every service's key, with its number for a hint.
fn hints_of(v4: &ServiceMapV4, v6: &ServiceMapV6) -> Result<Vec<(Key, u16)>, MapError> {
    let id = |value: [u8; 8]| {
        let service: Service = transmute!(value);
        service.id
    };
    let v4 = v4.iter().map(|item| item.map(|(key, value)| (Key::V4(transmute!(key)), id(value))));
    let v6 = v6.iter().map(|item| item.map(|(key, value)| (Key::V6(transmute!(key)), id(value))));
    v4.chain(v6).collect()
}

pub(super) fn map_entries(map: &MapData) -> Result<u32, KernelError> {
    Ok(map.info().map_err(KernelError::map(maps::SLOT_TABLES))?.max_entries())
}

fn new_slot_table(slots: u32) -> Result<Array<MapData, Block>, KernelError> {
    Array::create(slot_blocks(slots), BPF_F_MMAPABLE | BPF_F_INNER_MAP).map_err(KernelError::map(maps::SLOT_TABLES))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<T, KernelError> {
    T::try_from(pins.map(name)?).map_err(KernelError::map(name))
}

/// What was not there to be removed is no error.
pub(super) fn gone(result: Result<(), MapError>, name: &'static str) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(KernelError::map(name)(error)),
    }
}
