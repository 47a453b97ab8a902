use std::time::Duration;

use super::*;
use crate::os::lab::{self, Lab, named, set};

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        carrier: true,
        ethernet: true,
        kind: None,
        peer_index: None,
        xdp: None,
    }
}

#[test]
fn each_difference_is_one_event() {
    let base = link(2, "eth0");
    let rows: Vec<(Link, Vec<LinkEvent>)> = vec![
        (base.clone(), vec![]),
        (Link { up: false, ..base.clone() }, vec![LinkEvent::Down(Link { up: false, ..base.clone() })]),
        (Link { carrier: false, ..base.clone() }, vec![LinkEvent::Down(Link { carrier: false, ..base.clone() })]),
        (Link { mtu: 9000, ..base.clone() }, vec![LinkEvent::MtuChanged(Link { mtu: 9000, ..base.clone() })]),
        (Link { mac: [6; 6], ..base.clone() }, vec![LinkEvent::MacChanged(Link { mac: [6; 6], ..base.clone() })]),
        (
            Link { name: "wan".into(), ..base.clone() },
            vec![LinkEvent::Renamed { link: Link { name: "wan".into(), ..base.clone() }, old_name: "eth0".into() }],
        ),
    ];
    for (new, expected) in rows {
        let mut known = BTreeMap::from([(2, base.clone())]);
        assert_eq!(changed(&mut known, new.clone()), expected);
        assert_eq!(known[&2], new);
    }
}

#[test]
fn a_new_list_reports_deletions_before_creations() {
    let mut known = BTreeMap::from([(2, link(2, "eth0")), (3, link(3, "eth1"))]);
    let events = replaced(&mut known, vec![link(2, "eth0"), link(9, "eth1")]);
    assert_eq!(events, vec![LinkEvent::Deleted { index: 3, name: "eth1".into() }, LinkEvent::Created(link(9, "eth1"))]);
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), vec![2, 9]);
}

#[test]
fn the_program_that_sees_a_frame_first_is_named_first() {
    use LinkXdp::{Attached, DrvProgId, HwProgId, ProgId, SkbProgId};
    let attached = |mode, program_id, also| Some(XdpAttachment { mode, program_id, also });
    let rows = [
        (vec![], None),
        (vec![Attached(XdpAttached::None)], None),
        (vec![Attached(XdpAttached::Driver), ProgId(7), DrvProgId(7)], attached(AttachMode::Native, 7, vec![])),
        (vec![Attached(XdpAttached::SocketBuffer), ProgId(8), SkbProgId(8)], attached(AttachMode::Generic, 8, vec![])),
        (
            vec![Attached(XdpAttached::Multiple), SkbProgId(5), DrvProgId(6), HwProgId(9)],
            attached(AttachMode::Multi, 9, vec![6, 5]),
        ),
    ];
    for (details, expected) in rows {
        assert_eq!(attachment_of(&details), expected, "{details:?}");
    }
}

#[test]
fn a_bridges_message_about_its_port_is_not_about_the_port() {
    let mut message = LinkMessage::default();
    message.header.index = 2;
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(link_of(&message), None);
}

#[test]
fn interfaces_are_listed_and_found() {
    lab::run(|lab| async move {
        let made = lab.veth("lb0", "peer0").await;
        assert_eq!(made.kind.as_deref(), Some("veth"));
        assert!(made.usable() && made.ethernet && made.xdp.is_none());
        assert_eq!(made.peer_index, None, "the other end is in another namespace");
        assert_ne!(made.mac, [0; 6]);
        let all = list().await.unwrap();
        assert_eq!(all.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "lb0"]);
        assert_eq!(all[1], made);
        for absent in ["absent0", "", "much-too-long-for-a-name"] {
            let error = by_name(absent).await.unwrap_err();
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
        assert!(matches!(by_index_with(lab.netlink(), 999_999).await, Err(Error::Gone { index: 999_999 })));
    });
}

async fn next(events: &mut mpsc::Receiver<LinkEvent>) -> LinkEvent {
    tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("an event").expect("the task lives")
}

#[test]
fn changes_are_followed_through_deletion_and_creation() {
    async fn check(lab: Lab) {
        let first = lab.veth("lb0", "peer0").await;
        let mut events = watch().await.unwrap();

        lab.down("lb0").await;
        assert!(matches!(next(&mut events).await, LinkEvent::Down(link) if link.index == first.index));
        set(lab.netlink(), named("lb0").address(vec![2, 0, 0, 0, 0, 7])).await;
        assert!(matches!(next(&mut events).await, LinkEvent::MacChanged(link) if link.mac == [2, 0, 0, 0, 0, 7]));
        set(lab.netlink(), named("lb0").mtu(1400)).await;
        assert!(matches!(next(&mut events).await, LinkEvent::MtuChanged(link) if link.mtu == 1400));
        lab.up("lb0").await;
        assert!(matches!(next(&mut events).await, LinkEvent::Up(link) if link.usable()));

        lab.delete("lb0").await;
        // A veth loses its carrier with its other end before it is gone.
        loop {
            match next(&mut events).await {
                LinkEvent::Deleted { index, name } => {
                    assert_eq!((index, name.as_str()), (first.index, "lb0"));
                    break;
                }
                LinkEvent::Down(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let again = lab.veth("lb0", "peer0").await;
        let created = loop {
            match next(&mut events).await {
                LinkEvent::Created(link) if link.name == "lb0" => break link,
                _ => {}
            }
        };
        assert_eq!(created.index, again.index);
        assert_ne!(created.index, first.index);
    }
    lab::run(check);
}

#[test]
fn an_attached_program_is_seen_with_its_mode() {
    lab::run(|lab| async move {
        lab.veth("lb0", "peer0").await;
        let program = lab::load_pass();
        lab::attach(lab.netlink(), "lb0", &program, lab::NATIVE).await.unwrap();
        let attached = by_name("lb0").await.unwrap().xdp.unwrap();
        assert_eq!((attached.mode, attached.also.as_slice()), (AttachMode::Native, [].as_slice()));
        assert_ne!(attached.program_id, 0);
        lab.in_peer(|| async {
            lab::attach(&Netlink::open().unwrap(), "peer0", &program, lab::GENERIC).await.unwrap();
            let other = by_name("peer0").await.unwrap().xdp.unwrap();
            assert_eq!((other.mode, other.program_id), (AttachMode::Generic, attached.program_id));
        });
    });
}
