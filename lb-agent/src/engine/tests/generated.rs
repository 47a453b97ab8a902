//! Whatever events come, in whatever order: the data plane passes through valid states only ([`Maps`] checks each
//! effect), and ends where the facts say.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Configure(Vec<(u8, Vec<(u8, u16)>)>),
    /// Service, backend, whether it succeeds.
    Probe(u8, u8, bool),
    Resolve(u8, bool),
    Admin(u8, u8, AdminAction),
    /// Backends that still have flows; the others have none.
    Count(Vec<u8>),
    Confirm,
    Tick,
    /// The clock jumps forward, stands still, or goes back.
    Time(i64),
    Restart,
}

fn action() -> impl Strategy<Value = AdminAction> {
    let time = || prop::option::of((0_u64..90).prop_map(seconds));
    prop_oneof![
        time().prop_map(|undo_after| AdminAction::Drain { undo_after }),
        Just(AdminAction::Undrain),
        (0_u16..1002, time()).prop_map(|(weight, undo_after)| AdminAction::SetWeight { weight, undo_after }),
        Just(AdminAction::Enable),
        time().prop_map(|undo_after| AdminAction::Disable { undo_after }),
    ]
}

/// Two services of four possible backends each (service 0 has 1–4, service 1 has 11–14), and names that nobody has.
fn step() -> impl Strategy<Value = Step> {
    let pool = prop::collection::btree_map(1_u8..=4, 0_u16..4, 0..=4);
    let services = prop::collection::btree_map(0_u8..2, pool, 0..=2);
    let services = services.prop_map(|s| s.into_iter().map(|(n, b)| (n, b.into_iter().collect())).collect());
    prop_oneof![
        2 => services.prop_map(Step::Configure),
        12 => (0_u8..3, 1_u8..=5, any::<bool>()).prop_map(|(s, b, ok)| Step::Probe(s, b, ok)),
        5 => (0_u8..20, prop::bool::weighted(0.8)).prop_map(|(n, ok)| Step::Resolve(n, ok)),
        4 => (0_u8..3, 1_u8..=5, action()).prop_map(|(s, b, action)| Step::Admin(s, b, action)),
        3 => prop::collection::vec(1_u8..20, 0..4).prop_map(Step::Count),
        3 => Just(Step::Confirm),
        3 => Just(Step::Tick),
        2 => prop_oneof![Just(0), -30_i64..90, Just(i64::from(u32::MAX))].prop_map(Step::Time),
        1 => Just(Step::Restart),
    ]
}

fn configuration(services: &[(u8, Vec<(u8, u16)>)]) -> Config {
    config(services.iter().map(|(n, backends)| {
        let mut service = service(&format!("s{n}"), 10 + n, []);
        service.backends.extend(backends.iter().map(|&(b, weight)| Backend {
            name: format!("b{b}"),
            weight,
            ..backend(n * 10 + b)
        }));
        service
    }))
}

struct Run {
    world: World,
    config: Config,
    log: Vec<Vec<Effect>>,
}

impl Run {
    fn new() -> Self {
        let mut run = Self { world: World::new(Adopted::default()), config: config([]), log: Vec::new() };
        run.tell(Event::Configured(config([])));
        run
    }

    fn tell(&mut self, event: Event) {
        let effects = self.world.tell(event);
        self.log.push(effects);
    }

    fn step(&mut self, step: &Step) {
        let world = &mut self.world;
        match step {
            Step::Configure(services) => {
                self.config = configuration(services);
                self.tell(Event::Configured(self.config.clone()));
            }
            Step::Probe(service, backend, ok) => {
                let outcome = if *ok { success() } else { failure() };
                self.tell(Event::Probe { key: key(&format!("s{service}"), &format!("b{backend}")), outcome });
            }
            Step::Resolve(n, ok) => {
                let resolution = if *ok { Ok(hop(*n)) } else { Err("no answer".to_owned()) };
                self.tell(Event::NextHop { address: ip(*n), resolution });
            }
            Step::Admin(service, backend, action) => {
                let key = key(&format!("s{service}"), &format!("b{backend}"));
                let done = world.engine.admin(world.now, AdminCommand { key, action: action.clone() });
                let effects = done.unwrap_or_default();
                world.maps.apply(&effects);
                self.log.push(effects);
            }
            Step::Count(busy) => {
                let busy: Vec<(u8, u64)> = busy
                    .iter()
                    .filter(|&&n| world.maps.backends.values().any(|entry| entry.address == ip(n)))
                    .map(|&n| (n, 1))
                    .collect();
                let effects = world.count(&busy);
                self.log.push(effects);
            }
            Step::Confirm => {
                let effects = world.confirm();
                self.log.push(effects);
            }
            Step::Tick => self.tell(Event::Tick),
            Step::Time(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                world.now = if *seconds < 0 { world.now.saturating_sub(by) } else { world.now.saturating_add(by) };
            }
            Step::Restart => self.restart(),
        }
    }

    /// The agent dies and comes back; the maps stay, and what was being forgotten is not known any more.
    fn restart(&mut self) {
        let world = &mut self.world;
        let overrides = world.engine.overrides();
        let adopted = super::rows::adopted(world);
        world.engine = Engine::with_slot_count(SEED, adopted, SLOTS);
        world.engine.restore(world.now, overrides);
        world.maps.forgetting.clear();
        let before = world.maps.clone();
        // A service that was draining came back as one that is to drain: its table is put again.
        world.maps.slots.clear();
        let effects = world.engine.handle(world.now, Event::Configured(self.config.clone()));
        world.maps.apply(&effects);
        assert_eq!(before.backends.keys().collect::<Vec<_>>(), world.maps.backends.keys().collect::<Vec<_>>());
        self.log.push(effects);
    }

    /// What the facts say, as the views show them, is what the maps hold.
    fn check(&self) {
        let services = self.world.engine.services(self.world.now);
        let mut seen = BTreeSet::new();
        for status in &services {
            let mut total = 0.0;
            assert_eq!(status.backend_ids.len(), status.view.backends.len());
            for (id, backend) in status.backend_ids.iter().zip(&status.view.backends) {
                assert!(seen.insert(*id), "{id} has two owners");
                let entry = &self.world.maps.backends[id];
                assert_eq!(entry.service, status.id);
                let panicking = status.view.panic && matches!(backend.state.as_str(), "checking" | "down");
                let takes = backend.weight > 0 && (backend.state == "up" || panicking);
                assert_eq!(entry.accepts_new, takes, "{backend:?}");
                assert!(takes || backend.slot_share == 0.0, "{backend:?}");
                total += backend.slot_share;
            }
            assert!(total == 0.0 || (total - 1.0).abs() < 1e-9, "shares add up to {total}");
        }
        assert_eq!(seen, self.world.maps.backends.keys().copied().collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_state_on_the_way_is_valid(steps in prop::collection::vec(step(), 0..80)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        // Nothing is left to say: not by time, and not by the same configuration.
        run.tell(Event::Tick);
        prop_assert_eq!(run.world.tell(Event::Tick), []);
        prop_assert_eq!(run.world.tell(Event::Configured(run.config.clone())), []);
        // Without a configuration, everything goes, and every number is free again.
        run.config = config([]);
        run.tell(Event::Configured(config([])));
        for _ in 0..2 {
            run.world.now = run.world.now.max(run.world.engine.now).saturating_add(seconds(61));
            run.tell(Event::Tick);
            run.step(&Step::Confirm);
        }
        prop_assert_eq!((run.world.maps.services.len(), run.world.maps.backends.len()), (0, 0));
        prop_assert_eq!(run.world.engine.backend_ids.available(), usize::from(BackendId::MAX));
        prop_assert_eq!(run.world.engine.service_ids.available(), usize::from(ServiceId::MAX));
    }

    #[test]
    fn the_same_events_give_the_same_effects(steps in prop::collection::vec(step(), 0..40)) {
        let run = || {
            let mut run = Run::new();
            steps.iter().for_each(|step| run.step(step));
            run.log
        };
        prop_assert_eq!(run(), run());
    }

    /// Successes and failures in any order: out after exactly `fall` failures in a row, in after `rise` successes.
    #[test]
    fn one_backend_of_three_follows_its_probes(outcomes in prop::collection::vec(any::<bool>(), 0..60)) {
        let mut world = World::running(three());
        let (mut up, mut row) = (true, 0);
        for ok in outcomes {
            row = if ok == up { 0 } else { row + 1 };
            let changes = row == if up { 3 } else { 2 };
            let effects = world.probe("web", "b2", if ok { success() } else { failure() });
            prop_assert_eq!(effects.is_empty(), !changes);
            if changes {
                (up, row) = (!up, 0);
            }
            prop_assert_eq!(world.takers(), if up { "b1 b2 b3" } else { "b1 b3" });
        }
    }
}
