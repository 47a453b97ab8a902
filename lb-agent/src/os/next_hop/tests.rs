use rtnetlink::RouteMessageBuilder;

use super::*;
use crate::os::lab::{self, Lab};

const PEER: [&str; 2] = ["10.0.0.2", "fd00::2"];
/// This end's.
const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn which_states_count_as_resolved() {
    use NeighbourState as S;
    let mac = vec![2, 0, 0, 0, 0, 9];
    let resolved = |stale| Entry::Resolved { mac: [2, 0, 0, 0, 0, 9], stale };
    let rows = [
        (S::Stale, Some(mac.clone()), resolved(true)),
        (S::Delay, Some(mac.clone()), resolved(false)),
        (S::Probe, Some(mac.clone()), resolved(false)),
        (S::Reachable, Some(mac.clone()), resolved(false)),
        (S::Permanent, Some(mac.clone()), resolved(false)),
        (S::Noarp, Some(mac.clone()), resolved(false)),
        (S::Incomplete, None, Entry::Asking),
        // A failed entry may still show the address that no longer answers.
        (S::Failed, Some(mac.clone()), Entry::Failed),
        (S::Failed, None, Entry::Failed),
        (S::None, None, Entry::Absent),
        // No address, or not an Ethernet one: nothing to send to.
        (S::Reachable, None, Entry::Absent),
        (S::Reachable, Some(vec![1, 2, 3, 4]), Entry::Absent),
        (S::Other(0x1000), Some(mac), Entry::Absent),
    ];
    for (state, mac, expected) in rows {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        message.attributes.extend(mac.map(NeighbourAttribute::LinkLayerAddress));
        assert_eq!(entry_of(&message), expected, "{state:?}");
    }
}

#[test]
fn a_route_answer_names_the_hop_or_the_reason_against_it() {
    let unicast = |attributes: Vec<RouteAttribute>| {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    };
    let hop = |address: &str| Hop { destination: ip("192.0.2.1"), address: ip(address), ifindex: 3, source: None };
    let oif = RouteAttribute::Oif(3);
    let rows = [
        (vec![oif.clone()], hop("192.0.2.1")),
        (vec![oif.clone(), RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 9].into()))], hop("10.0.0.9")),
        (vec![RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())), oif], hop("fe80::1")),
    ];
    for (attributes, expected) in rows {
        assert_eq!(hop_of(&unicast(attributes), ip("192.0.2.1")).unwrap(), expected);
    }
    assert!(matches!(hop_of(&unicast(vec![]), ip("192.0.2.1")), Err(Error::NoRoute { .. })));
    for (kind, expected) in [
        (RouteType::Local, "an address of this host"),
        (RouteType::Broadcast, "a broadcast address"),
        (RouteType::Multicast, "a multicast address"),
        (RouteType::BlackHole, "`blackhole`"),
        (RouteType::Unreachable, "`unreachable`"),
        (RouteType::Prohibit, "`prohibit`"),
        (RouteType::Throw, "no route"),
    ] {
        let mut message = unicast(vec![RouteAttribute::Oif(3)]);
        message.header.kind = kind;
        let error = hop_of(&message, ip("192.0.2.1")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_neighbour_is_resolved_across_a_veth() {
    async fn check(lab: Lab) {
        let link = lab.neighbours("lb0", "peer0").await;
        let peer = lab.in_peer(|| async { links::by_name("peer0").await.unwrap() });
        for (address, own) in PEER.map(ip).into_iter().zip(OWN.map(ip)) {
            let expected = NextHop {
                ifindex: link.index,
                source_mac: link.mac,
                destination_mac: peer.mac,
                mtu: link.mtu,
                source: Some(own),
                gateway: None,
            };
            assert_eq!(look(lab.netlink(), address).await.unwrap().entry, Entry::Absent, "looking changes nothing");
            assert_eq!(resolve(address, PATIENCE).await.unwrap(), expected, "{address}");
            // Known now: no patience is needed.
            assert_eq!(resolve(address, Duration::ZERO).await.unwrap(), expected, "{address}");
        }
    }
    lab::run(check);
}

#[test]
fn a_gateway_is_resolved_in_place_of_what_lies_behind_it() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        let peer = lab.in_peer(|| async { links::by_name("peer0").await.unwrap() });
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix([198, 51, 100, 0].into(), 24)
            .gateway([10, 0, 0, 2].into())
            .build();
        lab.netlink().handle().route().add(route).execute().await.unwrap();
        let next_hop = resolve(ip("198.51.100.7"), PATIENCE).await.unwrap();
        assert_eq!(next_hop.destination_mac, peer.mac);
        assert_eq!((next_hop.source, next_hop.gateway), (Some(ip("10.0.0.1")), Some(ip("10.0.0.2"))));
        let hop = route_to(&lab, "198.51.100.7").await.unwrap();
        assert_eq!(hop.to_string(), "gateway 10.0.0.2 of 198.51.100.7");
    }
    lab::run(check);
}

async fn route_to(lab: &Lab, address: &str) -> Result<Hop, Error> {
    route(lab.netlink(), ip(address)).await
}

#[test]
fn routes_that_lead_nowhere_are_named() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        for (destination, kind) in
            [([203, 0, 113, 1], RouteType::BlackHole), ([203, 0, 113, 2], RouteType::Unreachable)]
        {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination.into(), 32);
            lab.netlink().handle().route().add(builder.kind(kind).build()).execute().await.unwrap();
        }
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix("2001:db8::1".parse().unwrap(), 128);
        lab.netlink().handle().route().add(v6.kind(RouteType::BlackHole).build()).execute().await.unwrap();
        for (address, expected) in [
            ("192.0.2.1", "no route to 192.0.2.1"),
            ("2001:db8::9", "no route to 2001:db8::9"),
            ("10.0.0.1", "10.0.0.1 is an address of this host"),
            ("127.0.0.1", "127.0.0.1 is an address of this host"),
            ("fd00::1", "fd00::1 is an address of this host"),
            ("10.0.0.255", "10.0.0.255 is a broadcast address"),
            ("203.0.113.1", "the route to 203.0.113.1 is `blackhole`"),
            ("203.0.113.2", "the route to 203.0.113.2 is `unreachable`"),
            ("2001:db8::1", "the route to 2001:db8::1 is `blackhole`"),
        ] {
            let error = route_to(&lab, address).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{address}: {error}");
        }
    }
    lab::run(check);
}

#[test]
fn a_neighbour_that_does_not_answer_is_named() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        // Short patience: the kernel is still asking. Full patience: the kernel itself has given up.
        for patience in [Duration::from_millis(50), PATIENCE * 2] {
            let error = resolve(ip("10.0.0.77"), patience).await.unwrap_err().to_string();
            assert_eq!(error, "10.0.0.77 on lb0 does not answer ARP");
        }
        assert_eq!(look(lab.netlink(), ip("10.0.0.77")).await.unwrap().entry, Entry::Failed);
        let error = resolve(ip("fd00::77"), Duration::from_millis(50)).await.unwrap_err().to_string();
        assert_eq!(error, "fd00::77 on lb0 does not answer neighbour discovery");
        // It comes to life: the failed entry is asked about again.
        lab.in_peer(|| async {
            let netlink = Netlink::open().unwrap();
            let index = links::by_name_with(&netlink, "peer0").await.unwrap().index;
            netlink.handle().address().add(index, ip("10.0.0.77"), 24).execute().await.unwrap();
        });
        resolve(ip("10.0.0.77"), PATIENCE).await.unwrap();
    }
    lab::run(check);
}

#[test]
fn a_datagram_resolves_a_neighbour_where_netlink_may_not() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        for address in PEER.map(ip) {
            knock(address).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while look(lab.netlink(), address).await.unwrap().next_hop().is_none() {
                assert!(Instant::now() < deadline, "{address}");
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }
    lab::run(check);
}

#[test]
fn a_stale_entry_is_confirmed_when_it_is_solicited() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        for address in PEER.map(ip) {
            let mac = resolve(address, PATIENCE).await.unwrap().destination_mac;
            let hop = route(lab.netlink(), address).await.unwrap();
            let aged = lab.netlink().handle().neighbours().add(hop.ifindex, address);
            aged.state(NeighbourState::Stale).link_layer_address(&mac).replace().execute().await.unwrap();
            let seen = || async { look(lab.netlink(), address).await.unwrap().entry };
            assert_eq!(seen().await, Entry::Resolved { mac, stale: true });
            solicit(lab.netlink(), hop).await.unwrap();
            assert_eq!(seen().await, Entry::Resolved { mac, stale: false });
        }
    }
    lab::run(check);
}
