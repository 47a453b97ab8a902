//! Pools that record no more flows than they must: how their slots change hands while the pool comes up, under weights and
//! failures, and across agents.

use super::rows::adopted;
use super::*;

/// Slots by what they remember, of the first service.
fn slot_states(world: &World) -> (u32, u32, u32) {
    let slots = world.engine.services(world.now)[0].view.slots;
    (slots.stable, slots.moving, slots.tracked)
}

fn minimal(backends: impl IntoIterator<Item = u8>) -> Config {
    let mut web = service("web", 10, backends);
    web.tracking = Tracking::Minimal;
    config([web])
}

/// While backends come up one by one, slots change hands at once and every flow is recorded; then no more than must be.
#[test]
fn a_pool_that_comes_up_records_everything_until_it_has() {
    let mut world = World::new(Adopted::default());
    world.tell(Event::Configured(minimal(1..=3)));
    world.tell(Event::Attached);
    let tracking = |world: &World| world.maps.services.values().next().unwrap().tracking;
    for n in 1..=3 {
        assert_eq!((tracking(&world), slot_states(&world)), (Tracking::Full, (0, 0, SLOTS)), "before b{n}");
        world.resolve(ip(n));
        world.probe("web", &format!("b{n}"), success());
        assert_eq!(world.maps.shares(1).len(), usize::from(n));
    }
    world.tick_after(seconds(1));
    assert_eq!(tracking(&world), Tracking::Minimal);
    // Whose flows were recorded elsewhere meanwhile: the sweep knows.
    world.tell(Event::ForeignFlows(BTreeMap::from([(ServiceId::new(1).unwrap(), BTreeSet::from([7]))])));
    assert_eq!(slot_states(&world), (SLOTS - 1, 0, 1));
    world.tell(Event::ForeignFlows(BTreeMap::new()));
    assert_eq!(slot_states(&world), (SLOTS, 0, 0));
    // A weight moves slots bit by bit, a backend that fails loses all at once, and has them back at once.
    world.admin("b1", AdminAction::SetWeight { weight: 9, undo_after: None });
    assert_eq!(slot_states(&world).1, SLOTS.div_ceil(64));
    (0..3).for_each(|_| drop(world.probe("web", "b3", failure())));
    assert_eq!(world.takers(), "b1 b2");
    let (_, moving, _) = slot_states(&world);
    assert!(moving > SLOTS / 4, "{moving}");
    (0..2).for_each(|_| drop(world.probe("web", "b3", success())));
    let (_, moving_still, tracked) = slot_states(&world);
    assert_eq!((world.takers().as_str(), tracked), ("b1 b2 b3", moving - moving_still));
    assert!(tracked > 0);
}

#[test]
fn a_pool_that_does_not_come_up_goes_on_without_those_that_are_missing() {
    let mut world = World::new(Adopted::default());
    world.tell(Event::Configured(minimal(1..=2)));
    world.tell(Event::Attached);
    world.resolve(ip(1));
    world.probe("web", "b1", success());
    let tracking = |world: &World| world.maps.services.values().next().unwrap().tracking;
    world.tick_after(seconds(29));
    assert_eq!(tracking(&world), Tracking::Full);
    world.tick_after(seconds(1));
    world.tick_after(seconds(1));
    assert_eq!(tracking(&world), Tracking::Minimal);
}

/// An agent that comes back finds in the slots what they remember, and goes on with that.
#[test]
fn slots_that_remember_are_taken_over() {
    let mut world = World::running(minimal(1..=3));
    world.tick_after(seconds(1));
    world.tell(Event::ForeignFlows(BTreeMap::new()));
    (0..3).for_each(|_| drop(world.probe("web", "b3", failure())));
    let slots = world.maps.slots.clone();
    let mut next = World::new(adopted(&world));
    // Time begins with the agent.
    next.now = Duration::ZERO;
    next.tell(Event::Configured(minimal(1..=3)));
    next.tell(Event::Attached);
    assert_eq!(next.maps.slots, slots);
    assert!(slot_states(&next).1 > 0);
    next.tick_after(seconds(900));
    assert_eq!(slot_states(&next).1, 0, "their time has passed");
}
