//! Whose is a packet that a backend has sent to somebody, or that is about one that was sent to a backend? Of a flow of ours,
//! and of which service: a backend may serve several, and be reached past all of them.

use lb_common::flow::{self, BUCKET_ENTRIES, FlowEntry};
use lb_common::hash::FlowHash;
use lb_common::limits::MAX_MEMBERSHIPS;
use lb_common::maps::{Backend, EndpointOwners};
use lb_common::mode::Tracking;
use lb_common::packet::transport::ports;
use lb_common::slot::{Slot, SlotState};

use crate::snat::Borrower;
use crate::tables::{Family, Tables, flow_hash};

pub(crate) type Bucket = [u64; BUCKET_ENTRIES];

/// A flow of ours: its membership, where it is recorded, and the client behind a port that was lent to it.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) id: u32,
    pub(crate) backend: &'a Backend,
    pub(crate) hash: FlowHash,
    pub(crate) place: Option<(&'a Bucket, usize)>,
    pub(crate) borrower: Option<Borrower<'a>>,
}

/// Whom the backend has sent to, or who has sent to it.
#[derive(Clone, Copy)]
pub(crate) struct Peer<A> {
    pub(crate) address: A,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
}

/// The membership whose flow it is, of an endpoint that several services share; 0 where it is none's. Gives no more than the
/// number, so that the verifier need not tell apart which of them it was.
#[inline(always)]
pub(crate) fn member<H: Family, T: Tables>(tables: &T, owners: &EndpointOwners, peer: Peer<H::Address>) -> u16 {
    let mut found = 0;
    let mut i = 0;
    while i < MAX_MEMBERSHIPS {
        let id = owners.0[i];
        if id == 0 {
            break;
        }
        if id & EndpointOwners::HAS_PORTS == 0
            && let Some(backend) = tables.backend(u32::from(id))
            && is_recorded(tables, hash::<H, T>(tables, backend, peer), id)
        {
            found = tables.opaque(usize::from(id)) as u16;
            break;
        }
        i += 1;
    }
    found
}

/// Of an endpoint that is in one service. Where every flow is recorded, the flow table knows. Where not, the slot says whose the
/// flow is, and what reaches such a backend directly through this host from one of that backend's slots is taken for ours.
/// `recorded`: only what the flow table knows is believed.
#[inline(always)]
pub(crate) fn only<'a, H: Family, T: Tables>(
    tables: &'a T,
    id: u16,
    peer: Peer<H::Address>,
    recorded: bool,
) -> Option<Owner<'a>> {
    let id = u32::from(id);
    let backend = tables.backend(id)?;
    let hash = hash::<H, T>(tables, backend, peer);
    let owner = |place| Owner { id, backend, hash, place, borrower: None };
    let tracking = backend.mode().tracking();
    let mut slot = Slot::default();
    if tracking != Tracking::Full && !recorded {
        slot = Slot(tables.slot(u32::from(backend.service), hash.slot(backend.slots)).unwrap_or(0));
        if tracking == Tracking::Off || slot.state() == SlotState::Stable {
            return (u32::from(slot.current()) == id).then(|| owner(None));
        }
    }
    let bucket = tables.bucket(hash.bucket(tables.bucket_mask()))?;
    if let Some(index) = flow::find(bucket, hash.tag()).map(|index| tables.opaque(index)) {
        let its = u32::from(entry(bucket, index).backend()) == id;
        return its.then(|| owner(Some((bucket, index))));
    }
    let ours = !recorded
        && match tracking {
            Tracking::Full => was_pushed_out(tables, backend, bucket, hash, id),
            _ => [slot.owner_of_unrecorded(false), slot.current()].map(u32::from).contains(&id),
        };
    ours.then(|| owner(None))
}

/// Of the flow as its client sees it.
#[inline(always)]
pub(crate) fn hash<H: Family, T: Tables>(tables: &T, backend: &Backend, peer: Peer<H::Address>) -> FlowHash {
    let vip = H::address_from_words(&backend.own);
    let ports = ports(peer.port, backend.vip_port);
    flow_hash::<H, T>(tables, backend.mode(), (peer.address, vip), ports, peer.protocol)
}

#[inline(always)]
fn is_recorded<T: Tables>(tables: &T, hash: FlowHash, id: u16) -> bool {
    let Some(bucket) = tables.bucket(hash.bucket(tables.bucket_mask())) else { return false };
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let entry = FlowEntry(bucket[i]);
        if entry.matches(hash.tag()) && entry.backend() == id {
            return true;
        }
        i += 1;
    }
    false
}

#[inline(always)]
pub(crate) fn entry(bucket: &Bucket, index: usize) -> FlowEntry {
    FlowEntry(bucket[index & (BUCKET_ENTRIES - 1)])
}

/// Entries are only pushed out of full buckets. So where a bucket has room, a flow without an entry is not ours; where it
/// is full, the slot table has the answer that the client's packets get too.
#[inline(always)]
fn was_pushed_out<T: Tables>(tables: &T, backend: &Backend, bucket: &Bucket, hash: FlowHash, id: u32) -> bool {
    if flow::has_room(bucket) {
        return false;
    }
    let slot = tables.slot(u32::from(backend.service), hash.slot(backend.slots));
    slot.is_some_and(|slot| u32::from(Slot(slot).current()) == id)
}
