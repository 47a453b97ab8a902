//! The addresses of this network namespace, on whatever interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::StreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;

use super::netlink::{Error, Netlink, answer};

/// All of them but loopback addresses, which no packet from outside may carry.
///
/// # Errors
/// When the kernel does not say.
pub async fn list(netlink: &Netlink) -> Result<BTreeSet<IpAddr>, Error> {
    let mut stream = Box::pin(netlink.handle().address().get().execute());
    let mut found = BTreeSet::new();
    while let Some(message) = answer("list the addresses", async { stream.next().await.transpose() }).await? {
        // On a point-to-point link `Address` is the other end's, and `Local` ours.
        let own = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        };
        let any = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        let attributes = &message.attributes;
        let address = attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(any));
        found.extend(address.filter(|address| !address.is_loopback()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::lab::{self, Lab};

    #[test]
    fn own_addresses_are_listed_and_neighbours_are_not() {
        async fn check(lab: Lab) {
            lab.neighbours("lb0", "peer0").await;
            let found = list(lab.netlink()).await.unwrap();
            for (address, own) in [("10.0.0.1", true), ("fd00::1", true), ("10.0.0.2", false), ("127.0.0.1", false)] {
                assert_eq!(found.contains(&address.parse().unwrap()), own, "{address}: {found:?}");
            }
        }
        lab::run(check);
    }
}
