//! Keys of the maps that are looked up by address: of services and of endpoints, as packets spell them.

use std::net::IpAddr;

use lb_common::maps::{KeyV4, KeyV6};
use lb_common::packet::ip::{TCP, UDP};
use zerocopy::transmute;

use crate::model::config::Protocol;
use crate::model::pool::ServiceAddress;

/// Of a service or an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    V4(KeyV4),
    V6(KeyV6),
}

pub(super) fn key(vip: ServiceAddress) -> Key {
    let (port, protocol) = (vip.port.to_be(), protocol_number(vip.protocol));
    match vip.vip {
        IpAddr::V4(address) => {
            let address = u32::from_ne_bytes(address.octets());
            Key::V4(KeyV4 { address, port, protocol, zero: 0 })
        }
        IpAddr::V6(_) => Key::V6(KeyV6 { address: to_words(vip.vip), port, protocol, zero: 0 }),
    }
}

pub(super) fn vip_of(address: IpAddr, port: u16, protocol: u8) -> Option<ServiceAddress> {
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    Some(ServiceAddress { vip: address, port: u16::from_be(port), protocol })
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

pub(super) fn to_words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => transmute!(address.octets()),
    }
}

pub(super) fn from_words(words: [u32; 4], v6: bool) -> IpAddr {
    let octets: [u8; 16] = transmute!(words);
    if v6 { IpAddr::from(octets) } else { IpAddr::from(words[0].to_ne_bytes()) }
}

pub(super) fn raw_v4(key: KeyV4) -> [u8; 8] {
    transmute!(key)
}

pub(super) fn raw_v6(key: KeyV6) -> [u8; 20] {
    transmute!(key)
}
