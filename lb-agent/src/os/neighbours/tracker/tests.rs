use proptest::prelude::*;

use super::*;
use crate::os::links::Link;

const MS: Duration = Duration::from_millis(1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend() -> IpAddr {
    ip("10.0.0.2")
}

/// What a look at `address` shows if its entry on interface 3 is `entry`.
fn look(address: IpAddr, entry: Entry) -> Result<Look, Error> {
    let link = Link {
        index: 3,
        name: "lb0".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        carrier: true,
        ethernet: true,
        kind: None,
        peer_index: None,
        xdp: None,
    };
    Ok(Look { hop: Hop { destination: address, address, ifindex: 3, source: None }, link, entry })
}

fn good(mac: [u8; 6]) -> Entry {
    Entry::Resolved { mac, stale: false }
}

fn stale(mac: [u8; 6]) -> Entry {
    Entry::Resolved { mac, stale: true }
}

/// A tracker of one backend that has been looked at once, and the outcome of that look.
fn looked_once(entry: Entry, now: Instant) -> (Tracker, Outcome) {
    let mut tracker = Tracker::new(now);
    tracker.set_addresses(&[backend()], now);
    assert_eq!(tracker.due(now), vec![backend()]);
    let outcome = tracker.looked(backend(), &look(backend(), entry), now);
    (tracker, outcome)
}

fn resolved_to(outcome: &Outcome) -> Option<[u8; 6]> {
    outcome.event.as_ref()?.resolution.as_ref().ok().map(|next_hop| next_hop.destination_mac)
}

fn failure(outcome: &Outcome) -> Option<&str> {
    outcome.event.as_ref()?.resolution.as_ref().err().map(String::as_str)
}

const NEIGHBOUR: Touch = Touch::Neighbour { ifindex: 3, address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)) };

#[test]
fn a_known_neighbour_is_reported_once() {
    let now = Instant::now();
    let (mut tracker, outcome) = looked_once(good(MAC), now);
    assert_eq!(resolved_to(&outcome), Some(MAC));
    assert_eq!(outcome.solicit, None);
    assert!(tracker.due(now).is_empty());

    let later = now + 100 * MS;
    tracker.touch(NEIGHBOUR, later);
    assert_eq!(tracker.due(later), vec![backend()]);
    assert_eq!(tracker.looked(backend(), &look(backend(), stale(MAC)), later), Outcome::default());

    tracker.set_addresses(&[backend()], later);
    assert!(tracker.due(later).is_empty(), "what was followed already starts nothing");
}

#[test]
fn a_moved_mac_is_reported() {
    let now = Instant::now();
    let (mut tracker, _) = looked_once(good(MAC), now);
    let later = now + 100 * MS;
    tracker.touch(NEIGHBOUR, later);
    let outcome = tracker.looked(backend(), &look(backend(), good([6; 6])), later);
    assert_eq!(resolved_to(&outcome), Some([6; 6]));
}

#[test]
fn an_unknown_neighbour_is_asked_for_once_and_reported_when_it_has_failed() {
    let start = Instant::now();
    let (mut tracker, outcome) = looked_once(Entry::Absent, start);
    assert!(outcome.solicit.is_some() && outcome.event.is_none());
    // The kernel asks: nothing more to do, however often its state is looked at.
    for step in 1..=3 {
        let now = start + step * ASKING_INTERVAL;
        assert_eq!(tracker.due(now), vec![backend()], "looked at even without an event");
        assert_eq!(tracker.looked(backend(), &look(backend(), Entry::Asking), now), Outcome::default());
    }
    let now = start + Duration::from_millis(3100);
    tracker.touch(NEIGHBOUR, now);
    assert_eq!(tracker.due(now), vec![backend()]);
    let outcome = tracker.looked(backend(), &look(backend(), Entry::Failed), now);
    assert_eq!(failure(&outcome), Some("10.0.0.2 on lb0 does not answer ARP"));
    assert_eq!(outcome.solicit, None);

    // Asked for again after a second, then after two, four, ... at most every thirty.
    let mut now = now;
    for wait_s in [1, 2, 4, 8, 16, 30, 30] {
        let early = now + Duration::from_secs(wait_s) - LOOK_SPACING;
        assert_eq!(tracker.looked(backend(), &look(backend(), Entry::Failed), early), Outcome::default());
        now = early + LOOK_SPACING;
        assert!(tracker.due(now).contains(&backend()));
        let outcome = tracker.looked(backend(), &look(backend(), Entry::Failed), now);
        assert!(outcome.solicit.is_some() && outcome.event.is_none(), "after {wait_s} s");
        assert_eq!(tracker.looked(backend(), &look(backend(), Entry::Failed), now + MS), Outcome::default());
        now += MS;
    }
    // It answers: reported at once, and the next failure starts with short waits again.
    let outcome = tracker.looked(backend(), &look(backend(), good(MAC)), now);
    assert_eq!(resolved_to(&outcome), Some(MAC));
}

#[test]
fn a_good_neighbour_gets_a_second_chance_before_it_is_lost() {
    let now = Instant::now();
    let (mut tracker, _) = looked_once(good(MAC), now);
    // The kernel's confirmation, sent to the known MAC, was not answered.
    let outcome = tracker.looked(backend(), &look(backend(), Entry::Failed), now + 100 * MS);
    assert!(outcome.solicit.is_some() && outcome.event.is_none());
    // It had moved: the broadcast finds it, and nobody saw a failure.
    let outcome = tracker.looked(backend(), &look(backend(), good([6; 6])), now + 200 * MS);
    assert_eq!(resolved_to(&outcome), Some([6; 6]));
    // It is gone: the broadcast is not answered either.
    tracker.looked(backend(), &look(backend(), Entry::Failed), now + 300 * MS);
    let outcome = tracker.looked(backend(), &look(backend(), Entry::Failed), now + 400 * MS);
    assert!(failure(&outcome).is_some());
}

#[test]
fn an_entry_that_stays_in_doubt_is_given_up_in_time() {
    for entry in [Entry::Asking, Entry::Absent] {
        let now = Instant::now();
        let (mut tracker, first) = looked_once(entry, now);
        assert!(first.event.is_none());
        assert_eq!(tracker.looked(backend(), &look(backend(), entry), now + PATIENCE - MS), Outcome::default());
        let outcome = tracker.looked(backend(), &look(backend(), entry), now + PATIENCE);
        assert!(failure(&outcome).is_some(), "{entry:?}");
    }
}

#[test]
fn stale_entries_are_confirmed_once_each_refresh() {
    let now = Instant::now();
    let (mut tracker, outcome) = looked_once(stale(MAC), now);
    assert_eq!(outcome.solicit, None, "fresh enough: it was not there a moment ago");
    let refresh = tracker.next_due();
    assert_eq!(refresh, now + REFRESH_INTERVAL);
    assert!(tracker.due(refresh - MS).is_empty());
    assert_eq!(tracker.due(refresh), vec![backend()]);
    let outcome = tracker.looked(backend(), &look(backend(), stale(MAC)), refresh);
    assert!(outcome.solicit.is_some() && outcome.event.is_none());
    let outcome = tracker.looked(backend(), &look(backend(), stale(MAC)), refresh + MS);
    assert_eq!(outcome, Outcome::default(), "once is enough");
}

#[test]
fn an_event_touches_what_it_is_about() {
    let now = Instant::now();
    let (mut tracker, _) = looked_once(good(MAC), now);
    let later = now + 100 * MS;
    let rows = [
        (NEIGHBOUR, true),
        (Touch::Neighbour { ifindex: 4, address: backend() }, false),
        (Touch::Neighbour { ifindex: 3, address: ip("10.0.0.3") }, false),
        (Touch::Link { ifindex: 3 }, true),
        (Touch::Link { ifindex: 4 }, false),
        (Touch::Route { destination: ip("10.0.0.0"), prefix_length: 8 }, true),
        (Touch::Route { destination: ip("0.0.0.0"), prefix_length: 0 }, true),
        (Touch::Route { destination: ip("10.0.0.2"), prefix_length: 32 }, true),
        (Touch::Route { destination: ip("10.0.0.3"), prefix_length: 32 }, false),
        (Touch::Route { destination: ip("10.1.0.0"), prefix_length: 16 }, false),
        (Touch::Route { destination: ip("::"), prefix_length: 0 }, false),
        (Touch::Everything, true),
    ];
    for (touch, expected) in rows {
        tracker.touch(touch, later);
        assert_eq!(!tracker.due(later).is_empty(), expected, "{touch:?}");
        tracker.looked(backend(), &look(backend(), good(MAC)), now);
    }
}

#[test]
fn an_address_without_a_way_is_reported_and_tried_when_a_link_or_route_appears() {
    let now = Instant::now();
    let mut tracker = Tracker::new(now);
    tracker.set_addresses(&[backend()], now);
    let outcome = tracker.looked(backend(), &Err(Error::NoRoute { address: backend() }), now);
    assert!(failure(&outcome).unwrap().starts_with("no route to 10.0.0.2"));
    assert!(tracker.due(now + 100 * MS).is_empty());
    tracker.touch(Touch::Link { ifindex: 77 }, now + 100 * MS);
    assert_eq!(tracker.due(now + 100 * MS), vec![backend()]);
    let outcome = tracker.looked(backend(), &look(backend(), good(MAC)), now + 100 * MS);
    assert_eq!(resolved_to(&outcome), Some(MAC));
}

#[test]
fn an_address_that_is_no_longer_followed_is_forgotten() {
    let now = Instant::now();
    let (mut tracker, _) = looked_once(good(MAC), now);
    tracker.set_addresses(&[ip("10.0.0.3")], now);
    assert_eq!(tracker.due(now), vec![ip("10.0.0.3")]);
    assert_eq!(tracker.looked(backend(), &look(backend(), good([6; 6])), now), Outcome::default());
    // Followed again, it is reported again.
    tracker.set_addresses(&[backend(), backend()], now);
    assert_eq!(tracker.due(now), vec![backend()]);
    assert_eq!(resolved_to(&tracker.looked(backend(), &look(backend(), good(MAC)), now)), Some(MAC));
}

/// A step of a hostile or merely busy network: events at any pace, entries in any state.
fn steps() -> impl Strategy<Value = Vec<(u64, bool, Entry)>> {
    let entry = prop_oneof![
        any::<u8>().prop_map(|last| good([2, 0, 0, 0, 0, last % 3])),
        any::<u8>().prop_map(|last| stale([2, 0, 0, 0, 0, last % 3])),
        Just(Entry::Asking),
        Just(Entry::Failed),
        Just(Entry::Absent),
    ];
    proptest::collection::vec((0u64..4000, any::<bool>(), entry), 1..200)
}

proptest! {
    #[test]
    fn work_is_bounded_and_every_report_is_a_change(steps in steps()) {
        let mut now = Instant::now();
        let mut tracker = Tracker::new(now);
        tracker.set_addresses(&[backend()], now);
        let mut last_look = None;
        let mut reported = None;
        // When the kernel was last made to ask, unless the neighbour has answered since.
        let mut asked = None;
        for (pause_ms, touched, entry) in steps {
            now += Duration::from_millis(pause_ms);
            if touched {
                tracker.touch(Touch::Everything, now);
            }
            prop_assert!(tracker.next_due() <= now + REFRESH_INTERVAL, "nothing is left alone for longer");
            if !tracker.due(now).contains(&backend()) {
                continue;
            }
            if let Some(last) = last_look {
                prop_assert!(now - last >= LOOK_SPACING, "looked too often");
            }
            last_look = Some(now);
            let outcome = tracker.looked(backend(), &look(backend(), entry), now);
            if let Some(event) = outcome.event {
                prop_assert_ne!(reported.as_ref(), Some(&event.resolution), "the same reported twice");
                reported = Some(event.resolution);
            }
            if matches!(entry, Entry::Resolved { .. }) {
                asked = None;
            } else if outcome.solicit.is_some()
                && let Some(before) = asked.replace(now)
            {
                prop_assert!(now - before >= RETRY_FIRST, "asked again too soon");
            }
        }
    }
}
