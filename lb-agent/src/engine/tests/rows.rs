//! Stories: events and the effects that must follow, as `+b1` (put a backend that accepts), `+b1-` (one that does not),
//! `slots1`, `+s1`, `forget1`, `-b1` and so on.

use super::*;

#[test]
fn a_start_from_nothing_until_it_serves() {
    let mut world = World::new(Adopted::default());
    let effects = world.tell(Event::Configured(three()));
    assert_eq!(kinds(&effects), "slots1 +s1 +b1- +b2- +b3- neighbours*3 probes*3 created>starting");
    assert_eq!(world.states(0), "b1:unresolved b2:unresolved b3:unresolved");
    assert_eq!(kinds(&world.tell(Event::Attached)), "starting>running");
    assert_eq!(kinds(&world.resolve(ip(1))), "+b1- b1:unresolved>checking");
    assert_eq!(kinds(&world.probe("web", "b1", success())), "+b1 slots1 b1:checking>up");
    assert_eq!(kinds(&world.probe("web", "b2", success())), "", "not yet resolved");
    assert_eq!(kinds(&world.resolve(ip(2))), "+b2 slots1 b2:unresolved>up");
    assert_eq!(world.takers(), "b1 b2");
    assert_eq!(world.maps.services[&ServiceId::new(1).unwrap()].tracking, Tracking::Full);
}

#[test]
fn the_same_configuration_again_is_no_change() {
    let mut world = World::running(three());
    world.admin("b2", AdminAction::Drain { undo_after: None });
    assert_eq!(world.tell(Event::Configured(three())), []);
}

#[test]
fn one_of_three_goes_after_exactly_fall_and_returns_after_rise() {
    let mut world = World::running(three());
    let before = world.maps.clone();
    assert_eq!(kinds(&world.probe("web", "b2", failure())), "");
    assert_eq!(kinds(&world.probe("web", "b2", ProbeOutcome::Starved { late_by: seconds(9) })), "");
    assert_eq!(kinds(&world.probe("web", "b2", failure())), "");
    let effects = world.probe("web", "b2", failure());
    assert_eq!(kinds(&effects), "slots1 +b2- b2:up>down");
    let reason = "3 probes in a row failed: connection refused";
    assert!(effects.iter().any(|e| matches!(e, Effect::Transition { reason: r, .. } if r == reason)), "{effects:?}");
    assert_eq!(world.takers(), "b1 b3");
    world.probe("web", "b2", success());
    assert_eq!(kinds(&world.probe("web", "b2", success())), "+b2 slots1 b2:down>up");
    assert_eq!(world.maps, before, "it gets its old slots back");
}

#[test]
fn when_most_fail_all_are_used_and_orders_still_stand() {
    let mut world = World::running(three());
    world.admin("b3", AdminAction::Disable { undo_after: None });
    let fail = |world: &mut World, name: &str| (0..3).map(|_| kinds(&world.probe("web", name, failure()))).collect();
    let effects: Vec<String> = fail(&mut world, "b1");
    assert_eq!(effects[2], "slots1 +b1- b1:up>down", "one of two is not below 50 %");
    let effects: Vec<String> = fail(&mut world, "b2");
    assert_eq!(effects[2], "+b1 slots1 panic=true b2:up>down");
    assert_eq!((world.takers().as_str(), world.engine.services(world.now)[0].view.panic), ("b1 b2", true));
    world.probe("web", "b1", success());
    assert_eq!(kinds(&world.probe("web", "b1", success())), "slots1 +b2- panic=false b1:down>up");
    assert_eq!(world.takers(), "b1");
    world.admin("b1", AdminAction::Drain { undo_after: None });
    assert_eq!(world.takers(), "b2", "the only one left, so panic again");
    world.admin("b2", AdminAction::SetWeight { weight: 0, undo_after: None });
    assert_eq!(world.takers(), "none");
}

#[test]
fn without_a_threshold_there_is_no_panic() {
    let mut web = service("web", 10, 1..=2);
    web.panic_threshold_percent = 0;
    let mut world = World::running(config([web]));
    for name in ["b1", "b2"] {
        (0..3).for_each(|_| drop(world.probe("web", name, failure())));
    }
    assert_eq!((world.takers().as_str(), world.states(0).as_str()), ("none", "b1:down b2:down"));
}

#[test]
fn backends_that_are_added_are_no_panic_and_wait_for_their_probe() {
    let mut world = World::running(config([service("web", 10, 1..=2)]));
    let effects = world.tell(Event::Configured(config([service("web", 10, 1..=6)])));
    assert_eq!(kinds(&effects), "+b3- +b4- +b5- +b6- neighbours*6 probes*6");
    (3..=6).for_each(|n| drop(world.resolve(ip(n))));
    assert_eq!(world.takers(), "b1 b2");
}

#[test]
fn an_admins_drain_lets_flows_go_on_until_the_deadline_and_then_stays() {
    let mut world = World::running(three());
    let effects = world.admin("b2", AdminAction::Drain { undo_after: None });
    assert_eq!(kinds(&effects), "slots1 +b2- b2:up>draining overrides");
    assert_eq!(kinds(&world.count(&[(1, 4), (2, 7)])), "");
    assert_eq!(kinds(&world.tick_after(seconds(59))), "");
    assert_eq!(kinds(&world.tick_after(seconds(1))), "forget2");
    assert_eq!(kinds(&world.confirm()), "");
    assert_eq!(kinds(&world.tick_after(seconds(600))), "");
    assert_eq!(world.states(0), "b1:up b2:draining b3:up");
    let effects = world.admin("b2", AdminAction::Undrain);
    assert_eq!(kinds(&effects), "+b2 slots1 b2:draining>up overrides");
    assert_eq!(kinds(&world.admin("b2", AdminAction::Undrain)), "");
}

#[test]
fn a_clock_that_goes_back_shortens_no_deadline() {
    let mut world = World::running(three());
    world.tick_after(seconds(100));
    world.now -= seconds(100);
    world.admin("b2", AdminAction::Drain { undo_after: None });
    assert_eq!(world.engine.services(world.now)[0].view.backends[1].since_seconds, 0.0);
    assert_eq!(kinds(&world.tick_after(seconds(159))), "");
    assert_eq!(kinds(&world.tick_after(seconds(1))), "forget2");
    world.now = seconds(0);
    world.probe("web", "b1", failure());
    world.tell(Event::Tick);
    assert_eq!(world.engine.services(world.now)[0].view.backends[1].since_seconds, 60.0);
}

#[test]
fn what_has_a_time_undoes_itself() {
    let minute = Some(seconds(60));
    for (action, during, after) in [
        (AdminAction::Drain { undo_after: minute }, "b1 b3", "b2:draining>up"),
        (AdminAction::SetWeight { weight: 0, undo_after: minute }, "b1 b3", ""),
        (AdminAction::SetWeight { weight: 9, undo_after: minute }, "b1 b2 b3", ""),
    ] {
        let mut world = World::running(three());
        let before = world.maps.clone();
        world.admin("b2", action.clone());
        assert_eq!(world.takers(), during, "{action:?}");
        assert_ne!(world.maps.slots, before.slots);
        world.tick_after(seconds(59));
        assert_eq!(world.takers(), during, "{action:?}");
        let effects = kinds(&world.tick_after(seconds(1)));
        assert!(effects.contains(after) && effects.contains("overrides"), "{action:?}: {effects}");
        assert_eq!((world.maps.slots, world.maps.backends), (before.slots, before.backends), "{action:?}");
    }
}

#[test]
fn a_disabled_backend_is_not_probed_keeps_its_flows_and_is_checked_anew() {
    let mut world = World::running(three());
    let effects = world.admin("b2", AdminAction::Disable { undo_after: Some(seconds(300)) });
    assert_eq!(kinds(&effects), "slots1 +b2- probes*2 b2:up>disabled overrides");
    assert_eq!(kinds(&world.probe("web", "b2", success())), "", "one that was on its way");
    assert_eq!(kinds(&world.tick_after(seconds(299))), "", "no flow is forgotten");
    assert_eq!(kinds(&world.tick_after(seconds(1))), "probes*3 b2:disabled>checking overrides");
    assert_eq!(kinds(&world.probe("web", "b2", success())), "+b2 slots1 b2:checking>up");
}

#[test]
fn a_weight_is_a_share_and_the_configured_one_takes_the_order_back() {
    let mut world = World::running(three());
    world.admin("b1", AdminAction::SetWeight { weight: 2, undo_after: None });
    let shares = world.shares();
    assert!((105..=107).contains(&shares["b1"]) && (52..=54).contains(&shares["b2"]), "{shares:?}");
    assert_eq!(world.engine.services(world.now)[0].view.backends[0].weight, 2);
    assert_eq!(world.engine.overrides().backends.len(), 1);
    world.admin("b1", AdminAction::SetWeight { weight: 1, undo_after: None });
    assert_eq!(world.engine.overrides(), Overrides::default());
}

#[test]
fn commands_that_cannot_be_carried_out_change_nothing() {
    let mut world = World::running(three());
    let before = world.engine.services(world.now);
    let drain = AdminAction::Drain { undo_after: None };
    let heavy = AdminAction::SetWeight { weight: 1001, undo_after: None };
    let never = AdminAction::Disable { undo_after: Some(Duration::ZERO) };
    for (key, action, error) in [
        (key("www", "b1"), drain.clone(), "no service is called `www`; `lb-agent service list` shows those that exist"),
        (
            key("web", "b9"),
            drain.clone(),
            "service `web` has no backend `b9`; `lb-agent backend list` shows those that exist",
        ),
        (key("web", "b1"), heavy, "weight 1001 is too large; choose 0 to 1000"),
        (
            key("web", "b1"),
            never,
            "a time of zero would undo the command at once; give a longer one, or none to keep it",
        ),
    ] {
        let got = world.engine.admin(world.now, AdminCommand { key, action });
        assert_eq!(got.unwrap_err().to_string(), error);
    }
    assert_eq!(world.engine.services(world.now), before);
    world.tell(Event::Stop);
    let got = world.engine.admin(world.now, AdminCommand { key: key("web", "b1"), action: drain });
    assert_eq!(got, Err(AdminError::NotServing(Lifecycle::Stopping)));
}

#[test]
fn a_backend_that_leaves_goes_when_its_flows_have_and_its_number_is_free_when_that_is_confirmed() {
    let mut world = World::running(three());
    let effects = world.tell(Event::Configured(config([service("web", 10, [1, 3])])));
    assert_eq!(kinds(&effects), "slots1 +b2- probes*2 b2:up>draining");
    assert_eq!(kinds(&world.count(&[(2, 5)])), "");
    assert_eq!(world.states(0), "b1:up b3:up b2:draining");
    assert_eq!(kinds(&world.count(&[])), "forget2");
    let effects = world.tell(Event::Configured(config([service("web", 10, [1, 3, 4])])));
    assert!(kinds(&effects).starts_with("+b4- "), "2 is not free yet: {effects:?}");
    assert_eq!(kinds(&world.confirm()), "-b2 neighbours*3");
    let effects = world.tell(Event::Configured(config([service("web", 10, [1, 3, 4, 5])])));
    assert!(kinds(&effects).starts_with("+b2- "), "now it is: {effects:?}");
}

#[test]
fn a_backend_that_leaves_with_flows_goes_at_the_deadline() {
    let mut world = World::running(three());
    world.tell(Event::Configured(config([service("web", 10, [1, 3])])));
    world.count(&[(2, 5)]);
    assert_eq!(kinds(&world.tick_after(seconds(59))), "");
    assert_eq!(kinds(&world.tick_after(seconds(1))), "forget2");
    assert_eq!(kinds(&world.tick_after(seconds(1))), "", "asked once");
    assert_eq!(kinds(&world.confirm()), "-b2 neighbours*2");

    let mut web = service("web", 10, [1, 3]);
    web.drain_timeout = Duration::ZERO;
    let mut world = World::running(three());
    let effects = world.tell(Event::Configured(config([web])));
    assert_eq!(kinds(&effects), "slots1 +b2- forget2 probes*2 b2:up>draining");
}

#[test]
fn a_backend_that_comes_back_while_it_leaves_is_the_same_backend() {
    let mut world = World::running(three());
    let before = world.maps.clone();
    world.tell(Event::Configured(config([service("web", 10, [1, 3])])));
    let effects = world.tell(Event::Configured(three()));
    assert_eq!(kinds(&effects), "+b2 slots1 probes*3 b2:draining>up");
    assert_eq!(world.maps, before);
    // Even when its flows were being forgotten already: the answer is then for nobody to act on.
    world.tell(Event::Configured(config([service("web", 10, [1, 3])])));
    world.count(&[]);
    world.tell(Event::Configured(three()));
    assert_eq!(kinds(&world.confirm()), "");
    assert_eq!(world.takers(), "b1 b2 b3");
}

#[test]
fn a_removed_backend_waits_for_every_answer_it_is_owed() {
    let mut world = World::running(three());
    world.admin("b2", AdminAction::Drain { undo_after: None });
    assert_eq!(kinds(&world.tick_after(seconds(60))), "forget2");
    world.tell(Event::Configured(config([service("web", 10, [1, 3])])));
    assert_eq!(kinds(&world.count(&[])), "forget2");
    let id = BackendId::new(2).unwrap();
    assert_eq!(kinds(&world.tell(Event::FlowsForgotten(id))), "", "the answer to the first");
    world.maps.forgetting.pop();
    assert_eq!(kinds(&world.confirm()), "-b2 neighbours*2 overrides");
}

#[test]
fn a_service_that_leaves_keeps_its_flows_and_takes_no_new_ones() {
    let both = config([service("web", 10, 1..=2), service("api", 11, 3..=4)]);
    let mut world = World::running(both.clone());
    let effects = world.tell(Event::Configured(config([service("web", 10, 1..=2)])));
    assert_eq!(kinds(&effects), "slots2 +b3- +b4- probes*2 b3:up>draining b4:up>draining");
    assert_eq!(world.maps.shares(2).into_keys().collect::<Vec<_>>(), ["none"]);
    assert_eq!(world.states(1), "b3:draining b4:draining");
    assert_eq!(kinds(&world.count(&[(4, 1)])), "forget3");
    assert_eq!(kinds(&world.confirm()), "-b3 neighbours*3");
    assert_eq!(kinds(&world.count(&[])), "forget4");
    assert_eq!(kinds(&world.confirm()), "-s2 -b4 neighbours*2");
    let effects = world.tell(Event::Configured(both));
    assert!(kinds(&effects).starts_with("slots2 +s2 +b3- +b4-"), "{effects:?}");
}

#[test]
fn a_reload_undoes_neither_health_nor_orders() {
    let mut world = World::running(three());
    (0..3).for_each(|_| drop(world.probe("web", "b1", failure())));
    world.admin("b2", AdminAction::Drain { undo_after: None });
    let mut web = service("www", 10, 1..=3);
    web.forward = Forward::Dsr;
    web.health.rise = 4;
    for backend in &mut web.backends {
        backend.name = backend.name.to_uppercase();
        backend.weight = 7;
    }
    let effects = world.tell(Event::Configured(config([web])));
    let changed = "+b3 +s1 +b1- +b2- probes*3";
    assert_eq!(kinds(&effects), changed, "told of another way of forwarding, and no slot changes hands");
    assert_eq!(world.states(0), "B1:down B2:draining B3:up");
    (0..3).for_each(|_| assert_eq!(kinds(&world.probe("www", "B1", success())), ""));
    assert_eq!(kinds(&world.probe("www", "B1", success())), "+b1 slots1 B1:down>up");
    assert_eq!(kinds(&world.probe("web", "b1", failure())), "", "the old name is nobody");
}

#[test]
fn health_checks_come_and_go_without_taking_anybody_out() {
    let mut unchecked = service("web", 10, 1..=2);
    unchecked.health.kind = HealthKind::None;
    let mut world = World::new(Adopted::default());
    let effects = world.tell(Event::Configured(config([unchecked.clone()])));
    assert!(!kinds(&effects).contains("probes"), "{effects:?}");
    assert_eq!(kinds(&world.resolve(ip(1))), "+b1 slots1 b1:unresolved>up");
    assert_eq!(kinds(&world.probe("web", "b1", failure())), "");
    let checked = config([service("web", 10, 1..=2)]);
    assert_eq!(kinds(&world.tell(Event::Configured(checked))), "probes*2");
    (0..3).for_each(|_| drop(world.probe("web", "b1", failure())));
    assert_eq!(world.states(0), "b1:down b2:unresolved");
    assert_eq!(kinds(&world.tell(Event::Configured(config([unchecked])))), "+b1 slots1 probes*0 b1:down>up");
}

#[test]
fn a_next_hop_that_changes_or_is_lost_is_followed() {
    let mut world = World::running(three());
    let tell = |world: &mut World, resolution| world.tell(Event::NextHop { address: ip(2), resolution });
    assert_eq!(kinds(&tell(&mut world, Ok(hop(9)))), "+b2");
    assert_eq!(kinds(&tell(&mut world, Ok(hop(9)))), "");
    let lost = Err("no route to 10.0.1.2".to_owned());
    assert_eq!(kinds(&tell(&mut world, lost)), "slots1 +b2- b2:up>unresolved");
    let views = world.engine.services(world.now);
    assert_eq!(views[0].view.backends[1].reason, "no next hop: no route to 10.0.1.2");
    assert_eq!(kinds(&tell(&mut world, Ok(hop(9)))), "+b2 slots1 b2:unresolved>up");
    assert_eq!(kinds(&world.resolve(ip(200))), "", "an address that nobody has");
}

/// What is a way for one kind of service is none for another.
#[test]
fn a_next_hop_is_judged_by_what_the_service_makes_of_it() {
    let behind = NextHop { gateway: Some(ip(254)), ..hop(9) };
    let own = NextHop { source: Some(ip(253)), ..behind };
    let rows = [
        (Forward::Nat, behind, "up"),
        (Forward::Dsr, hop(9), "up"),
        (Forward::Dsr, own, "unresolved"),
        (Forward::Ipip, behind, "unresolved"),
        (Forward::Ipip, own, "up"),
        (Forward::Gue, own, "up"),
    ];
    for (forward, next_hop, state) in rows {
        let mut world = World::running(config([Service { forward, ..service("web", 10, 1..=1) }]));
        world.tell(Event::NextHop { address: ip(1), resolution: Ok(next_hop) });
        assert_eq!(world.states(0), format!("b1:{state}"), "{forward}: {next_hop:?}");
        let entry = world.maps.backends.values().next().unwrap();
        assert_eq!((entry.forward, entry.next_hop.is_some()), (forward, state == "up"));
    }
}

#[test]
fn a_check_with_its_own_port_is_probed_there_in_the_order_of_the_file() {
    let mut web = service("web", 10, [3, 1]);
    web.health.port = Some(9000);
    let world = World::running(config([web]));
    let targets: Vec<String> = world.maps.probes.iter().map(|p| format!("{} {}", p.key, p.target)).collect();
    assert_eq!(targets, ["web/b3 10.0.1.3:9000", "web/b1 10.0.1.1:9000"]);
}

pub(super) fn adopted(world: &World) -> Adopted {
    let services = world.maps.services.values();
    Adopted {
        services: services
            .map(|s| AdoptedService {
                id: s.id,
                address: ServiceAddress { vip: s.vip, port: s.port, protocol: s.protocol },
                forward: s.forward,
                tracking: s.tracking,
                scheduler: s.scheduler,
                affinity: s.affinity,
                slots: if s.tracking == Tracking::Minimal { world.maps.slots[&s.id].clone() } else { Vec::new() },
            })
            .collect(),
        backends: world
            .maps
            .backends
            .values()
            .map(|b| AdoptedBackend {
                id: b.id,
                service: b.service,
                address: b.address,
                port: b.port,
                accepts_new: b.accepts_new,
                next_hop: b.next_hop,
            })
            .collect(),
    }
}

#[test]
fn a_restarted_agent_goes_on_where_the_maps_are() {
    let mut world = World::running(three());
    (0..3).for_each(|_| drop(world.probe("web", "b3", failure())));
    world.admin("b2", AdminAction::Drain { undo_after: Some(seconds(90)) });
    let mut next = World::new(adopted(&world));
    next.engine.restore(next.now, world.engine.overrides().aged(seconds(30)));
    // Another order in the file: the numbers must stay.
    let effects = next.tell(Event::Configured(config([service("web", 10, [3, 2, 1])])));
    assert_eq!(kinds(&effects), "+b1 slots1 +s1 +b2- +b3- neighbours*3 probes*3 created>starting");
    assert_eq!((&next.maps.slots, &next.maps.backends), (&world.maps.slots, &world.maps.backends));
    assert_eq!(next.states(0), "b3:down b2:draining b1:up");
    assert_eq!(kinds(&next.tick_after(seconds(59))), "");
    assert_eq!(
        kinds(&next.tick_after(seconds(1))),
        "b2:draining>checking overrides",
        "an order says nothing about health"
    );
}

#[test]
fn what_the_maps_hold_beyond_the_configuration_drains_first() {
    let old = World::running(config([service("web", 10, 1..=2), service("api", 11, 3..=3)]));
    let mut found = adopted(&old);
    let stray =
        AdoptedBackend { id: BackendId::new(9).unwrap(), service: ServiceId::new(77).unwrap(), ..found.backends[0] };
    found.backends.extend([stray, found.backends[0]]);
    let mut world = World::new(found);
    let effects = world.tell(Event::Configured(config([service("web", 10, [1])])));
    assert_eq!(kinds(&effects), "+b1 slots1 slots2 +s1 +b2- +b3- forget9 neighbours*3 probes*1 created>starting");
    assert_eq!(kinds(&world.confirm()), "-b9");
    assert_eq!(world.takers(), "b1");
    assert_eq!(kinds(&world.tick_after(seconds(60))), "forget2 forget3");
    assert_eq!(kinds(&world.confirm()), "-b2 neighbours*2 -s2 -b3 neighbours*1");
}

#[test]
fn more_than_there_are_numbers_for_is_refused_whole() {
    let many = |services: u16| {
        let numbered = |n: u16| Service { port: n + 1, name: format!("s{n}"), ..service("", 10, [1]) };
        config((0..services).map(numbered))
    };
    let mut world = World::new(Adopted::default());
    assert_eq!(kinds(&world.tell(Event::Configured(many(4096)))), "created>error rejected");
    let mut world = World::running(three());
    let before = world.engine.services(world.now);
    let effects = world.tell(Event::Configured(many(4097)));
    let reason = "4096 new services, but only 4094 of 4095 service numbers are free; configure fewer services, \
                  or wait until removed ones have drained";
    assert_eq!(effects, [Effect::Rejected { reason: reason.to_owned() }]);
    assert_eq!(world.engine.services(world.now), before);
}

#[test]
fn a_stop_leaves_the_data_plane_alone() {
    let mut world = World::running(three());
    assert_eq!(kinds(&world.tell(Event::Stop)), "probes*0 running>stopping");
    (0..9).for_each(|_| assert_eq!(world.probe("web", "b1", failure()), []));
    assert_eq!(world.tell(Event::Configured(config([]))), []);
    assert_eq!(world.tick_after(seconds(600)), []);
    assert_eq!(kinds(&world.tell(Event::Stopped)), "stopping>stopped");
    assert_eq!(world.tell(Event::Failed { reason: "late".to_owned() }), []);
}

#[test]
fn lives_that_end_in_error() {
    for events in [vec![], vec![Event::Configured(three())], vec![Event::Configured(three()), Event::Attached]] {
        let mut world = World::new(Adopted::default());
        events.into_iter().for_each(|event| drop(world.tell(event)));
        let from = world.engine.lifecycle();
        let effects = world.tell(Event::Failed { reason: "eth0 is gone".to_owned() });
        assert_eq!(effects, [Effect::Lifecycle { from, to: Lifecycle::Error, reason: "eth0 is gone".to_owned() }]);
        assert_eq!(world.tell(Event::Attached), []);
        assert_eq!(kinds(&world.tell(Event::Stop)).split(' ').next_back(), Some("error>stopping"));
    }
}
