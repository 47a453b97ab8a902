use std::time::Duration;

use super::*;
use crate::os::lab::{self, Lab, named, set};
use crate::os::links;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn next(events: &mut mpsc::Receiver<NeighbourEvent>) -> NeighbourEvent {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("an event").expect("the task lives")
}

async fn follow(addresses: &[&str]) -> (Neighbours, mpsc::Receiver<NeighbourEvent>) {
    let (sender, events) = mpsc::channel(16);
    let neighbours = Neighbours::spawn(sender).unwrap();
    neighbours.set_addresses(addresses.iter().map(|text| ip(text)).collect());
    (neighbours, events)
}

#[test]
fn a_changed_mac_is_followed() {
    async fn check(lab: Lab) {
        let link = lab.neighbours("lb0", "peer0").await;
        let (_neighbours, mut events) = follow(&["10.0.0.2"]).await;
        let peer = lab.in_peer(|| async { links::by_name("peer0").await.unwrap() });
        let next_hop = NextHop {
            ifindex: link.index,
            source_mac: link.mac,
            destination_mac: peer.mac,
            mtu: link.mtu,
            source: Some(ip("10.0.0.1")),
            gateway: None,
        };
        assert_eq!(next(&mut events).await, NeighbourEvent { address: ip("10.0.0.2"), resolution: Ok(next_hop) });

        // The neighbour changes its MAC and speaks: the kernel learns it from the request, the task from the kernel.
        let moved = [2, 0, 0, 0, 0, 0x77];
        lab.in_peer(|| async {
            let netlink = Netlink::open().unwrap();
            set(&netlink, named("peer0").down()).await;
            set(&netlink, named("peer0").address(moved.to_vec())).await;
            set(&netlink, named("peer0").up()).await;
            next_hop::resolve(ip("10.0.0.1"), next_hop::PATIENCE).await.unwrap();
        });
        let expected = NextHop { destination_mac: moved, ..next_hop };
        assert_eq!(next(&mut events).await.resolution, Ok(expected));

        // Our own MAC and MTU are part of the way, too.
        set(lab.netlink(), named("lb0").address(vec![2, 0, 0, 0, 0, 0x11])).await;
        let expected = NextHop { source_mac: [2, 0, 0, 0, 0, 0x11], ..expected };
        loop {
            // Changing the MAC empties the neighbour table, which may be seen as a moment of doubt, never as a failure.
            let resolution = next(&mut events).await.resolution.unwrap();
            if resolution == expected {
                break;
            }
        }
        set(lab.netlink(), named("lb0").mtu(1400)).await;
        assert_eq!(next(&mut events).await.resolution, Ok(NextHop { mtu: 1400, ..expected }));
    }
    lab::run(check);
}

#[test]
fn an_interface_that_is_deleted_and_created_again_is_followed() {
    async fn check(lab: Lab) {
        let first = lab.neighbours("lb0", "peer0").await;
        let (_neighbours, mut events) = follow(&["10.0.0.2", "fd00::2"]).await;
        for _ in 0..2 {
            assert_eq!(next(&mut events).await.resolution.unwrap().ifindex, first.index);
        }
        lab.delete("lb0").await;
        for _ in 0..2 {
            let event = next(&mut events).await;
            let reason = event.resolution.unwrap_err();
            assert!(reason.starts_with(&format!("no route to {}", event.address)), "{reason}");
        }
        let again = lab.neighbours("lb0", "peer0").await;
        assert_ne!(again.index, first.index);
        for _ in 0..2 {
            let next_hop = next(&mut events).await.resolution.unwrap();
            assert_eq!((next_hop.ifindex, next_hop.source_mac), (again.index, again.mac));
        }
    }
    lab::run(check);
}

#[test]
fn a_neighbour_that_never_answers_is_reported_with_the_reason_and_again_when_it_does() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        let (neighbours, mut events) = follow(&["10.0.0.77"]).await;
        let event = next(&mut events).await;
        assert_eq!(event.resolution, Err("10.0.0.77 on lb0 does not answer ARP".into()));
        lab.in_peer(|| async {
            let netlink = Netlink::open().unwrap();
            let index = links::by_name_with(&netlink, "peer0").await.unwrap().index;
            netlink.handle().address().add(index, ip("10.0.0.77"), 24).execute().await.unwrap();
        });
        assert!(next(&mut events).await.resolution.is_ok(), "asked for again without anybody's help");
        drop(neighbours);
        assert!(events.recv().await.is_none(), "the task ends with its handle");
    }
    lab::run(check);
}

#[test]
fn a_solicited_client_gets_a_neighbour_entry() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        let (neighbours, _events) = follow(&[]).await;
        for address in ["10.0.0.2", "fd00::2"] {
            neighbours.solicit(ip(address));
            let deadline = Instant::now() + next_hop::PATIENCE;
            while next_hop::look(lab.netlink(), ip(address)).await.unwrap().next_hop().is_none() {
                assert!(Instant::now() < deadline, "{address}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // What cannot be resolved does no harm.
        for address in ["203.0.113.9", "127.0.0.1", "255.255.255.255", "::"] {
            neighbours.solicit(ip(address));
        }
        neighbours.set_addresses(vec![ip("10.0.0.2")]);
    }
    lab::run(check);
}

#[test]
fn a_default_route_touches_its_whole_family() {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    assert_eq!(
        route_touch(&message),
        Some(Touch::Route { destination: Ipv4Addr::UNSPECIFIED.into(), prefix_length: 0 })
    );
    message.header.address_family = AddressFamily::Mpls;
    assert_eq!(route_touch(&message), None);
    assert_eq!(touch_of(&Heard::Lost), Some(Touch::Everything));
}
