//! A service's slots on their way from one table to the next: which of them change hands now, and what that means for flows
//! that nobody recorded (ARCHITECTURE.md, "Just-enough tracking"). Owns the words that the data plane holds.
//!
//! A pure state machine: the wanted table, who takes new flows, the sweep's findings and the time are arguments.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_common::slot::{Slot, SlotState};

/// What is recorded of flows decides what a slot that changes hands has to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Every flow is recorded: slots change hands at once.
    Recorded,
    /// Nobody's flows are kept: slots change hands at once.
    Forgotten,
    /// Flows are recorded where a slot moves. A flow that was silent for this long is taken for ended.
    Remembered { idle: Duration },
}

/// A service's slots by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub stable: u32,
    pub moving: u32,
    pub tracked: u32,
}

/// Moves by choice, not by need, of [`Rule::Remembered`]: one part in this many of the slots in a second.
const PER_SECOND: u32 = 64;
/// And in a minute.
const PER_MINUTE: u32 = 5;
/// Percentage of slots that may be other than stable before stable ones wait.
const UNSTABLE_PERCENT: u32 = 35;

#[derive(Debug, Clone)]
pub struct Moves {
    slots: Vec<Slot>,
    /// When the slot began to move; of no meaning in other states.
    since: Vec<u32>,
    unstable: u32,
    budget: Budget,
}

/// Moves by choice in the second and the minute that are running.
#[derive(Debug, Clone, Default)]
struct Budget {
    second: u32,
    in_second: u32,
    minute: u32,
    in_minute: u32,
}

/// What is left of the budget.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    moves: u32,
    /// Of them, those that stable slots may make.
    unstable: u32,
}

impl Moves {
    /// Slots that nobody has.
    pub fn new(slots: u32) -> Self {
        let slots = slots as usize;
        Self { slots: vec![Slot::default(); slots], since: vec![0; slots], unstable: 0, budget: Budget::default() }
    }

    /// What an earlier agent has left. When its moves began is not known: they begin now.
    pub fn adopted(slots: Vec<Slot>, now: Duration) -> Self {
        let since = vec![whole_seconds(now); slots.len()];
        let unstable = count_unstable(&slots);
        Self { slots, since, unstable, budget: Budget::default() }
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn counts(&self) -> Counts {
        let count = |state| self.slots.iter().filter(|slot| slot.state() == state).count() as u32;
        Counts {
            stable: count(SlotState::Stable),
            moving: count(SlotState::Moving),
            tracked: count(SlotState::Tracked),
        }
    }

    /// Whether [`Moves::advance`] has nothing to do any more with this table and rule.
    pub fn is_settled(&self, wanted: &[u16], rule: Rule) -> bool {
        let there = || self.slots.iter().zip(wanted).all(|(slot, wanted)| slot.current() == *wanted);
        match rule {
            Rule::Recorded | Rule::Forgotten => there(),
            Rule::Remembered { .. } => self.unstable == 0 && there(),
        }
    }

    /// Whether some flow may be this backend's that is not recorded: a slot moves away from it.
    pub fn may_have_unrecorded(&self, backend: u16) -> bool {
        self.slots.iter().any(|slot| slot.state() == SlotState::Moving && slot.previous() == backend)
    }

    /// Brings the slots nearer to the wanted table (by slot a backend, 0 for none). `takes_new` says of a backend whether it may
    /// keep a slot that is wanted elsewhere. Says whether any slot is different now.
    pub fn advance(&mut self, now: Duration, wanted: &[u16], takes_new: impl Fn(u16) -> bool, rule: Rule) -> bool {
        let now = whole_seconds(now);
        let mut allowance = self.allowance(now);
        let mut changed = false;
        for (index, &wanted) in wanted.iter().enumerate() {
            let old = self.slots[index];
            let mut new = match rule {
                Rule::Recorded => Slot::new(wanted, 0, SlotState::Tracked),
                Rule::Forgotten => Slot::new(wanted, 0, SlotState::Stable),
                Rule::Remembered { .. } => self.moved(index, now, wanted, &takes_new, &mut allowance),
            };
            if let Rule::Remembered { idle } = rule
                && new == old
                && old.state() == SlotState::Moving
                && now.saturating_sub(self.since[index]) >= whole_seconds(idle)
            {
                new = Slot::new(old.current(), old.previous(), SlotState::Tracked);
            }
            if new != old {
                self.slots[index] = new;
                changed = true;
            }
        }
        if changed {
            self.unstable = count_unstable(&self.slots);
        }
        changed
    }

    /// After a sweep of the flow table: tracked slots that are not in `foreign` have no flow left on another backend.
    pub fn swept(&mut self, foreign: &BTreeSet<u32>) -> bool {
        if self.unstable == 0 {
            return false;
        }
        let mut changed = false;
        for (slot, index) in self.slots.iter_mut().zip(0_u32..) {
            if slot.state() == SlotState::Tracked && !foreign.contains(&index) {
                *slot = Slot::new(slot.current(), 0, SlotState::Stable);
                self.unstable -= 1;
                changed = true;
            }
        }
        changed
    }

    /// No slot refers to the backend any more: its flows are forgotten, and its number may become another's.
    pub fn forget(&mut self, backend: u16) -> bool {
        let mut changed = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.previous() == backend) {
            // Whoever is not recorded is new, now that those of before are gone.
            let state = if slot.state() == SlotState::Moving { SlotState::Tracked } else { slot.state() };
            *slot = Slot::new(slot.current(), 0, state);
            changed = true;
        }
        changed
    }

    fn moved(
        &mut self,
        index: usize,
        now: u32,
        wanted: u16,
        takes_new: impl Fn(u16) -> bool,
        allowance: &mut Allowance,
    ) -> Slot {
        let old = self.slots[index];
        let (current, previous) = (old.current(), old.previous());
        if current == wanted {
            return old;
        }
        if current == 0 && previous == 0 {
            return Slot::new(wanted, 0, old.state());
        }
        if old.state() == SlotState::Moving && previous == wanted {
            // It returns to the backend whose flows are not recorded; those that opened meanwhile are.
            return Slot::new(wanted, current, SlotState::Tracked);
        }
        if old.state() == SlotState::Moving {
            // Every flow since the first move is recorded, so another one costs nothing: those that are not are still those of before.
            return Slot::new(wanted, previous, SlotState::Moving);
        }
        if current != 0 && takes_new(current) {
            let was_stable = old.state() == SlotState::Stable;
            if allowance.moves == 0 || (was_stable && allowance.unstable == 0) {
                return old;
            }
            allowance.moves -= 1;
            allowance.unstable -= u32::from(was_stable);
            self.budget.in_second += 1;
            self.budget.in_minute += 1;
        }
        self.since[index] = now;
        Slot::new(wanted, current, SlotState::Moving)
    }

    /// Moves by choice that may still be made now.
    fn allowance(&mut self, now: u32) -> Allowance {
        let budget = &mut self.budget;
        if budget.second != now {
            (budget.second, budget.in_second) = (now, 0);
        }
        if budget.minute != now / 60 {
            (budget.minute, budget.in_minute) = (now / 60, 0);
        }
        let slots = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let second = slots.div_ceil(PER_SECOND).saturating_sub(budget.in_second);
        let minute = slots.div_ceil(PER_MINUTE).saturating_sub(budget.in_minute);
        let most_unstable = slots / 100 * UNSTABLE_PERCENT + slots % 100 * UNSTABLE_PERCENT / 100;
        Allowance { moves: second.min(minute), unstable: most_unstable.saturating_sub(self.unstable) }
    }
}

fn count_unstable(slots: &[Slot]) -> u32 {
    slots.iter().filter(|slot| slot.state() != SlotState::Stable).count() as u32
}

fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const RULE: Rule = Rule::Remembered { idle: IDLE };
    const SLOTS: u32 = 100;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The first `share` slots wanted by backend 1, the others by 2.
    fn wanted(share: usize) -> Vec<u16> {
        (0..SLOTS as usize).map(|slot| if slot < share { 1 } else { 2 }).collect()
    }

    fn none() -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn filled(share: usize) -> Moves {
        let mut moves = Moves::new(SLOTS);
        assert!(moves.advance(at(0), &wanted(share), |_| true, RULE));
        assert_eq!(
            moves.counts(),
            Counts { stable: SLOTS, moving: 0, tracked: 0 },
            "nobody had them: nothing to remember"
        );
        moves
    }

    #[test]
    fn moves_by_choice_keep_to_the_budget() {
        let mut moves = filled(100);
        let mut now = 60;
        let mut moved = Vec::new();
        for _ in 0..120 {
            moves.advance(at(now), &wanted(0), |_| true, RULE);
            moves.swept(&none());
            moved.push(moves.counts().moving);
            now += 1;
        }
        // Two in a second, twenty in a minute, then what has moved is stable again after its time.
        assert_eq!(moved[..3], [2, 4, 6]);
        assert_eq!((moved[9], moved[29]), (20, 20));
        assert_eq!(moved[45], 0, "all of them have settled");
        assert_eq!(moves.slots().iter().filter(|slot| slot.current() == 2).count(), 40);
        let settled = (0..600).find(|minutes| {
            moves.advance(at(now + 30 * minutes), &wanted(0), |_| true, RULE);
            moves.swept(&none());
            moves.is_settled(&wanted(0), RULE)
        });
        assert!(settled.is_some(), "{:?}", moves.counts());
    }

    #[test]
    fn moves_by_need_do_not_wait() {
        let mut moves = filled(100);
        assert!(moves.advance(at(60), &wanted(0), |backend| backend != 1, RULE));
        assert_eq!(moves.counts(), Counts { stable: 0, moving: SLOTS, tracked: 0 });
        assert!(moves.slots().iter().all(|slot| (slot.current(), slot.previous()) == (2, 1)));
        assert!(moves.may_have_unrecorded(1) && !moves.may_have_unrecorded(2));
        // It is back: its slots return at once, because its flows are those that are not recorded.
        assert!(moves.advance(at(61), &wanted(100), |_| true, RULE));
        assert_eq!(moves.counts(), Counts { stable: 0, moving: 0, tracked: SLOTS });
        assert!(moves.swept(&BTreeSet::from([3, 4])));
        assert_eq!(moves.counts(), Counts { stable: SLOTS - 2, moving: 0, tracked: 2 });
    }

    #[test]
    fn who_moves_twice_by_need_remembers_the_first() {
        let mut moves = filled(100);
        moves.advance(at(60), &wanted(0), |backend| backend != 1, RULE);
        moves.advance(at(61), &vec![3; SLOTS as usize], |backend| backend == 3, RULE);
        let slot = moves.slots()[0];
        assert_eq!((slot.current(), slot.previous(), slot.state()), (3, 1, SlotState::Moving));
        // Nobody is left: flows that are there stay.
        moves.advance(at(62), &vec![0; SLOTS as usize], |_| false, RULE);
        assert_eq!(moves.slots()[0].owner_of_unrecorded(false), 1);
        assert!(moves.forget(1));
        assert_eq!((moves.slots()[0].previous(), moves.slots()[0].state()), (0, SlotState::Tracked));
        assert!(!moves.forget(1));
    }

    /// Backends that take over from others come up one after the other: the first does not keep what it got for want of the others.
    #[test]
    fn who_moves_may_move_again_at_once() {
        let mut moves = filled(100);
        moves.advance(at(60), &wanted(0), |backend| backend == 2, RULE);
        let three: Vec<u16> = (0..SLOTS as u16).map(|slot| 2 + slot % 2).collect();
        assert!(moves.advance(at(61), &three, |backend| backend != 1, RULE));
        assert!(moves.slots().iter().zip(&three).all(|(slot, wanted)| slot.current() == *wanted));
        assert!(
            moves.slots().iter().all(|slot| slot.owner_of_unrecorded(false) == 1),
            "who is not recorded is as old as ever"
        );
        assert!(moves.advance(at(60 + IDLE.as_secs()), &three, |_| true, RULE), "its time began with the first move");
        assert_eq!(moves.counts().tracked, SLOTS);
    }

    #[test]
    fn where_all_or_nothing_is_recorded_slots_move_at_once() {
        for (rule, state) in [(Rule::Recorded, SlotState::Tracked), (Rule::Forgotten, SlotState::Stable)] {
            let mut moves = Moves::new(SLOTS);
            for share in [100, 0, 50] {
                assert!(moves.advance(at(1), &wanted(share), |_| true, rule));
                assert!(moves.is_settled(&wanted(share), rule));
                assert!(moves.slots().iter().all(|slot| slot.state() == state));
            }
        }
    }

    /// What the programs do with packets of connections, in few words: see `choice` in lb-ebpf.
    #[derive(Debug, Default)]
    struct Connections {
        recorded: BTreeMap<u32, u16>,
        /// By number: the backend that it began on, and when it was heard of.
        open: BTreeMap<u32, (u16, u64)>,
    }

    impl Connections {
        fn packet(&mut self, slot: Slot, id: u32, opens: bool) -> u16 {
            if slot.state() == SlotState::Stable {
                return slot.current();
            }
            if let Some(backend) = self.recorded.get(&id) {
                return *backend;
            }
            let owner = slot.owner_of_unrecorded(opens);
            if slot.state() == SlotState::Moving {
                self.recorded.insert(id, owner);
            }
            owner
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Backends by slot, and which of them take new flows.
        Want(Vec<u16>, [bool; 4]),
        Open(u32),
        Speak(u32),
        Close(u32),
        Wait(u64),
        Sweep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let table = proptest::collection::vec(1_u16..4, SLOTS as usize);
        let step = prop_oneof![
            2 => (table, any::<[bool; 4]>()).prop_map(|(table, takes)| Step::Want(table, takes)),
            6 => (0..400_u32).prop_map(Step::Open),
            6 => (0..400_u32).prop_map(Step::Speak),
            2 => (0..400_u32).prop_map(Step::Close),
            4 => (0..20_u64).prop_map(Step::Wait),
            4 => Just(Step::Sweep),
        ];
        proptest::collection::vec(step, 1..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is wanted and whoever fails, a connection that is heard of in time stays where it began.
        #[test]
        fn no_connection_changes_its_backend(steps in steps()) {
            let mut moves = Moves::new(SLOTS);
            let mut connections = Connections::default();
            let (mut now, mut table, mut takes) = (0, vec![1; SLOTS as usize], [true; 4]);
            moves.advance(at(now), &table, |_| true, RULE);
            for step in steps {
                match step {
                    Step::Want(new, new_takes) => {
                        takes = new_takes;
                        // Slots are wanted only for those who take new flows.
                        let fallback = (1..4).find(|id| takes[usize::from(*id)]).unwrap_or(0);
                        table = new.iter().map(|id| if takes[usize::from(*id)] { *id } else { fallback }).collect();
                    }
                    Step::Open(id) if !connections.open.contains_key(&id) => {
                        let slot = moves.slots()[(id % SLOTS) as usize];
                        // Its port was used before: what was recorded of that is written over.
                        if slot.state() != SlotState::Stable && connections.recorded.remove(&id).is_some() {
                            connections.recorded.insert(id, slot.current());
                        }
                        let backend = connections.packet(slot, id, true);
                        if backend != 0 {
                            connections.open.insert(id, (backend, now));
                        }
                    }
                    Step::Speak(id) => {
                        let Some((backend, _)) = connections.open.get(&id).copied() else { continue };
                        let seen = connections.packet(moves.slots()[(id % SLOTS) as usize], id, false);
                        prop_assert_eq!(seen, backend, "connection {} at {}", id, now);
                        connections.open.insert(id, (backend, now));
                    }
                    Step::Close(id) => {
                        connections.open.remove(&id);
                    }
                    Step::Wait(seconds) => now += seconds,
                    Step::Sweep => {
                        // The idle are gone, from the table as well.
                        connections.open.retain(|_, (_, heard)| now - *heard < IDLE.as_secs());
                        let open = &connections.open;
                        connections.recorded.retain(|id, _| open.contains_key(id));
                        let foreign = connections.recorded.iter().filter(|(id, backend)| {
                            let slot = moves.slots()[(**id % SLOTS) as usize];
                            slot.state() == SlotState::Tracked && slot.current() != **backend
                        });
                        let foreign = foreign.map(|(id, _)| id % SLOTS).collect();
                        moves.swept(&foreign);
                    }
                    Step::Open(_) => {}
                }
                // Those that have been silent for too long have no claim any more.
                connections.open.retain(|_, (_, heard)| now - *heard < IDLE.as_secs());
                moves.advance(at(now), &table, |id| takes[usize::from(id)], RULE);
            }
        }
    }
}
