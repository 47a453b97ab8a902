//! The address plan of the lab: who has which address. The lab assigns these, tests and configurations refer to
//! them, and no other place writes an address down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Subnet number of the link between client and balancer.
const CLIENT_NET: u16 = 1;
/// Backend `i` (from 1) is in subnet `BACKEND_NET + i`.
const BACKEND_NET: u16 = 10;
/// So many subnets fit into the third byte of the IPv4 plan.
pub const MAX_BACKENDS: u16 = 200;

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `10.77.<net>.<host>` or `fd77:<net>::<host>`, the net in decimal digits in both (like `fd77:11::2`).
    fn host(self, net: u16, host: u16) -> IpAddr {
        match self {
            Self::V4 => {
                let [net, host] = [net, host].map(|n| u8::try_from(n).expect("the plan stays below 256"));
                Ipv4Addr::new(10, 77, net, host).into()
            }
            Self::V6 => Ipv6Addr::new(0xfd77, decimal_as_hex(net), 0, 0, 0, 0, 0, host).into(),
        }
    }

    pub fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Prefix length of a single address.
    pub fn host_prefix_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, 0, 100).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100).into(),
        }
    }

    pub fn client(self) -> IpAddr {
        self.host(CLIENT_NET, 2)
    }

    /// The balancer's address on the client's link.
    pub fn balancer(self) -> IpAddr {
        self.host(CLIENT_NET, 1)
    }

    /// The address of backend `i`, counted from 1.
    pub fn backend(self, i: u16) -> IpAddr {
        self.host(BACKEND_NET + i, 2)
    }

    /// Another host on the link of backend `i`: the balancer is 1, the backend 2.
    pub fn beside_backend(self, i: u16, host: u16) -> IpAddr {
        self.host(BACKEND_NET + i, host)
    }

    /// Client `i` of the world behind the default route, from a range that is set aside for documentation.
    pub fn far_client(self, i: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, i).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, u16::from(i)).into(),
        }
    }

    /// Host `i` of a network of its own ([`Self::prefix_length`]), to which no lab has a better route than the default
    /// one.
    pub fn apart(self, i: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, i).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, u16::from(i)).into(),
        }
    }

    /// The balancer's address on the link of backend `i`.
    pub fn balancer_at(self, i: u16) -> IpAddr {
        self.host(BACKEND_NET + i, 1)
    }
}

/// 11 -> 0x11: what people read in both families is the same number.
fn decimal_as_hex(number: u16) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).expect("decimal digits are hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_documented_ones() {
        let cases = [
            (Family::V4.vip(), "10.77.0.100"),
            (Family::V4.client(), "10.77.1.2"),
            (Family::V4.balancer(), "10.77.1.1"),
            (Family::V4.backend(3), "10.77.13.2"),
            (Family::V4.balancer_at(1), "10.77.11.1"),
            (Family::V4.backend(MAX_BACKENDS), "10.77.210.2"),
            (Family::V6.vip(), "fd77::100"),
            (Family::V6.client(), "fd77:1::2"),
            (Family::V6.backend(3), "fd77:13::2"),
            (Family::V6.balancer_at(1), "fd77:11::1"),
        ];
        for (address, text) in cases {
            assert_eq!(address.to_string(), text);
        }
    }
}
