//! Whose replies come from an endpoint: the list of its memberships in services, as the programs read it.

use aya::maps::{HashMap, MapData};
use lb_common::hint::{Of, SHARED};
use lb_common::limits::MAX_MEMBERSHIPS;
use lb_common::maps::{self, EndpointOwners};
use zerocopy::transmute;

use super::error::KernelError;
use super::hints::Hints;
use super::keys::{Key, key, raw_v4, raw_v6};
use super::pins::Pins;
use super::tables::{gone, typed};
use crate::model::pool::ServiceAddress;

type Value = [u8; size_of::<EndpointOwners>()];

pub(super) struct Endpoints {
    v4: HashMap<MapData, [u8; 8], Value>,
    v6: HashMap<MapData, [u8; 20], Value>,
}

/// A backend that joins the owners of its endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) number: u16,
    pub(super) accepts_new: bool,
    /// Every flow of its service is: otherwise its replies are told by their slot, and it can share with nobody.
    pub(super) recorded: bool,
    pub(super) has_ports: bool,
}

impl Endpoints {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self { v4: typed(pins, maps::ENDPOINTS_V4)?, v6: typed(pins, maps::ENDPOINTS_V6)? })
    }

    /// `recorded` says it of another member.
    pub(super) fn join(
        &mut self,
        endpoint: ServiceAddress,
        member: Member,
        recorded: impl Fn(u16) -> bool,
        hints: &mut Hints,
    ) -> Result<(), KernelError> {
        let old = self.numbers(endpoint);
        let new = joined(&old, member, recorded);
        if new == old { Ok(()) } else { self.write(endpoint, &new, hints) }
    }

    pub(super) fn leave(
        &mut self,
        endpoint: ServiceAddress,
        number: u16,
        hints: &mut Hints,
    ) -> Result<(), KernelError> {
        let old = self.numbers(endpoint);
        let new: Vec<u16> = old.iter().copied().filter(|other| plain(*other) != number).collect();
        if new == old { Ok(()) } else { self.write(endpoint, &new, hints) }
    }

    /// Another member that has a pool of ports.
    pub(super) fn with_ports(&self, endpoint: ServiceAddress, but: u16) -> Option<u16> {
        let numbers = self.numbers(endpoint).into_iter();
        numbers.filter(|number| number & EndpointOwners::HAS_PORTS != 0).map(plain).find(|number| *number != but)
    }

    /// Every endpoint, with its hint.
    pub(super) fn hints(&self) -> Result<Vec<(Key, u16)>, KernelError> {
        let owners = |value: Value| -> EndpointOwners { transmute!(value) };
        let v4 = self.v4.iter().map(|item| item.map(|(key, value)| (Key::V4(transmute!(key)), hint(owners(value)))));
        let v6 = self.v6.iter().map(|item| item.map(|(key, value)| (Key::V6(transmute!(key)), hint(owners(value)))));
        v4.chain(v6).collect::<Result<_, _>>().map_err(KernelError::map("endpoints"))
    }

    fn numbers(&self, endpoint: ServiceAddress) -> Vec<u16> {
        let value = match key(endpoint) {
            Key::V4(key) => self.v4.get(&raw_v4(key), 0),
            Key::V6(key) => self.v6.get(&raw_v6(key), 0),
        };
        let owners: EndpointOwners = value.map_or_else(|_| EndpointOwners::default(), |value| transmute!(value));
        owners.0.into_iter().take_while(|number| *number != 0).collect()
    }

    fn write(&mut self, endpoint: ServiceAddress, new: &[u16], hints: &mut Hints) -> Result<(), KernelError> {
        let mut owners = EndpointOwners::default();
        owners.0.iter_mut().zip(new).for_each(|(place, number)| *place = *number);
        let value: Value = transmute!(owners);
        let key = key(endpoint);
        if new.is_empty() {
            hints.leave(Of::Endpoints, &key);
            return match &key {
                Key::V4(key) => gone(self.v4.remove(&raw_v4(*key)), maps::ENDPOINTS_V4),
                Key::V6(key) => gone(self.v6.remove(&raw_v6(*key)), maps::ENDPOINTS_V6),
            };
        }
        match &key {
            Key::V4(key) => self.v4.insert(raw_v4(*key), value, 0).map_err(KernelError::map(maps::ENDPOINTS_V4)),
            Key::V6(key) => self.v6.insert(raw_v6(*key), value, 0).map_err(KernelError::map(maps::ENDPOINTS_V6)),
        }?;
        hints.enter(Of::Endpoints, key, hint(owners));
        Ok(())
    }
}

fn hint(owners: EndpointOwners) -> u16 {
    owners.sole().unwrap_or(SHARED)
}

fn plain(number: u16) -> u16 {
    number & !EndpointOwners::HAS_PORTS
}

/// The list with the member in it; those with ports first. A configuration has no list that is too long and none that mixes
/// what cannot be mixed, but members that drain stay on: the one that takes new flows displaces them.
fn joined(old: &[u16], member: Member, recorded: impl Fn(u16) -> bool) -> Vec<u16> {
    let Member { number, accepts_new, .. } = member;
    let flagged = if member.has_ports { number | EndpointOwners::HAS_PORTS } else { number };
    if old.contains(&flagged) && (member.recorded || old.len() == 1) {
        return old.to_vec();
    }
    let mut others: Vec<u16> = old.iter().copied().filter(|other| plain(*other) != number).collect();
    let fits = others.iter().all(|other| recorded(plain(*other))) && (member.recorded || others.is_empty());
    if !fits || others.len() == MAX_MEMBERSHIPS {
        if !accepts_new {
            return others;
        }
        others.retain(|other| member.recorded && recorded(plain(*other)));
        others.truncate(MAX_MEMBERSHIPS - 1);
    }
    let (with_ports, without): (Vec<u16>, Vec<u16>) =
        others.into_iter().chain([flagged]).partition(|number| number & EndpointOwners::HAS_PORTS != 0);
    [with_ports, without].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: u16 = EndpointOwners::HAS_PORTS;

    fn member(number: u16) -> Member {
        Member { number, accepts_new: true, recorded: true, has_ports: false }
    }

    /// Numbers from 100 on are of services that do not record every flow.
    fn check(old: &[u16], member: Member, expected: &[u16]) {
        assert_eq!(joined(old, member, |number| number < 100), expected, "{old:?} and {member:?}");
    }

    #[test]
    fn members_share_where_the_flow_table_tells_them_apart() {
        check(&[], member(1), &[1]);
        check(&[1], member(1), &[1]);
        check(&[1], member(2), &[1, 2]);
        check(&[1, 2], Member { has_ports: true, ..member(3) }, &[3 | PORTS, 1, 2]);
        check(&[3 | PORTS, 1], member(3), &[1, 3]);
        check(&[3 | PORTS, 1], Member { has_ports: true, ..member(4) }, &[3 | PORTS, 4 | PORTS, 1]);
    }

    #[test]
    fn who_takes_new_flows_displaces_who_drains() {
        let slots = Member { recorded: false, ..member(100) };
        check(&[1, 2], slots, &[100]);
        check(&[1], Member { accepts_new: false, ..slots }, &[1]);
        check(&[], Member { accepts_new: false, ..slots }, &[100]);
        check(&[100], slots, &[100]);
        check(&[100], member(1), &[1]);
        check(&[100], Member { accepts_new: false, ..member(1) }, &[100]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], member(9), &[1, 2, 3, 4, 5, 6, 7, 9]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], Member { accepts_new: false, ..member(9) }, &[1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
