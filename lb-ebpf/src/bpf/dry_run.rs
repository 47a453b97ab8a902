//! The maps without writing to them: for questions instead of packets.

use lb_common::allowance::Answer;
use lb_common::client_hop::ClientHop;
use lb_common::counters::BackendCounters;
use lb_common::flow::BUCKET_ENTRIES;
use lb_common::latency::{Kind, Sample};
use lb_common::mapping::{BLOCK, Mapping};
use lb_common::maps::{Backend, EndpointOwners, Load, MissingNeighbour, Service};
use lb_common::reason::Reason;
use lb_ebpf::hook::Hook;
use lb_ebpf::packet::Verdict;
use lb_ebpf::tables::{Stage, Tables};

use super::maps::{Live, SecretKey};

/// The same maps, read only: for questions instead of packets.
pub(super) struct DryRun<H>(pub(super) Live<H, false>);

impl<H: Hook> Tables for DryRun<H> {
    type Key = SecretKey;
    type Hook = H;

    #[inline(always)]
    fn hook(&self) -> &H {
        self.0.hook()
    }

    #[inline(always)]
    fn hash_key(&self) -> &SecretKey {
        self.0.hash_key()
    }

    #[inline(always)]
    fn service_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&Service> {
        self.0.service_v4(address, port, protocol)
    }

    #[inline(always)]
    fn service_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&Service> {
        self.0.service_v6(address, port, protocol)
    }

    #[inline(always)]
    fn endpoint_v4(&self, address: u32, port: u16, protocol: u8) -> u16 {
        self.0.endpoint_v4(address, port, protocol)
    }

    #[inline(always)]
    fn endpoint_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> u16 {
        self.0.endpoint_v6(address, port, protocol)
    }

    #[inline(always)]
    fn owners_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&EndpointOwners> {
        self.0.owners_v4(address, port, protocol)
    }

    #[inline(always)]
    fn owners_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&EndpointOwners> {
        self.0.owners_v6(address, port, protocol)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.0.backend(id)
    }

    #[inline(always)]
    fn slot(&self, service: u32, slot: u32) -> Option<u32> {
        self.0.slot(service, slot)
    }

    #[inline(always)]
    fn turn(&self, _: u32, _: u32) -> u32 {
        0
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn load(&self, backend: u32) -> Option<Load> {
        self.0.load(backend)
    }

    #[inline(always)]
    fn change_load(&self, _: u32, _: i32) {}

    #[inline(always)]
    fn bucket_mask(&self) -> u32 {
        self.0.bucket_mask()
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&[u64; BUCKET_ENTRIES]> {
        self.0.bucket(index)
    }

    #[inline(always)]
    fn opaque(&self, index: usize) -> usize {
        // Nothing depends on it where nothing is stored.
        index
    }

    #[inline(always)]
    fn store(&self, _: &[u64; BUCKET_ENTRIES], _: usize, _: u64) {}

    #[inline(always)]
    fn now(&self) -> u32 {
        self.0.now()
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u32) {
        self.0.ports()
    }

    #[inline(always)]
    fn port_block(&self, backend: u32, block: u32) -> Option<&[Mapping; BLOCK]> {
        self.0.port_block(backend, block)
    }

    #[inline(always)]
    fn claim(&self, _: &Mapping, _: u64, _: u64) -> bool {
        true
    }

    #[inline(always)]
    fn lend(&self, _: &Mapping, _: [u32; 4], _: u16) {}

    #[inline(always)]
    fn processor(&self) -> (u32, u32) {
        self.0.processor()
    }

    #[inline(always)]
    fn hand_over(&self, _: Stage) -> Verdict {
        Verdict::Pass
    }

    #[inline(always)]
    fn sample(&self, _: u32) -> Option<&Sample> {
        None
    }

    #[inline(always)]
    fn set_sample(&self, _: &Sample, _: Sample) {}

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn took(&self, _: u32, _: Kind, _: u64) {}

    #[inline(always)]
    fn count(&self, _: u32, _: impl FnOnce(&mut BackendCounters)) {}

    #[inline(always)]
    fn count_reason(&self, _: Reason) {}

    #[inline(always)]
    fn client_hop(&self, _: u32) -> Option<ClientHop> {
        None
    }

    #[inline(always)]
    fn client_hop_number(&self, _: ClientHop) -> u32 {
        0
    }

    #[inline(always)]
    fn report(&self, _: MissingNeighbour) {}

    #[inline(always)]
    fn may_answer(&self, _: Answer) -> bool {
        false
    }
}
