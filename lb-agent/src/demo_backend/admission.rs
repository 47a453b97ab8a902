//! Who is served now and who waits. Pure: it hands back whom to start, and the caller starts them.

use std::collections::BTreeMap;

/// Names one request; later requests have higher ones.
pub(super) type Ticket = u64;

/// A first-come-first-served queue before a number of places. `T` is what the caller needs to start a waiter.
#[derive(Debug)]
pub(super) struct Admission<T> {
    /// Places; 0 means no limit.
    limit: u32,
    active: u32,
    /// In the order of tickets, which is the order of arrival.
    waiting: BTreeMap<Ticket, T>,
    next: Ticket,
}

impl<T> Admission<T> {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, active: 0, waiting: BTreeMap::new(), next: 0 }
    }

    pub(super) fn active(&self) -> u32 {
        self.active
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A request comes. If it can be served at once its `starter` is handed back.
    pub(super) fn arrive(&mut self, starter: T) -> (Ticket, Option<T>) {
        let ticket = self.next;
        self.next += 1;
        if self.has_room() {
            self.active += 1;
            return (ticket, Some(starter));
        }
        self.waiting.insert(ticket, starter);
        (ticket, None)
    }

    /// A request goes, served or given up; each ticket once. Whoever gets its place is to be started.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        if self.waiting.remove(&ticket).is_none() {
            self.active -= 1;
        }
        self.start_one()
    }

    /// Changes the number of places. Requests that are being served stay; those that now fit are to be started.
    pub(super) fn set_limit(&mut self, limit: u32) -> Vec<T> {
        self.limit = limit;
        std::iter::from_fn(|| self.start_one()).collect()
    }

    fn has_room(&self) -> bool {
        self.limit == 0 || self.active < self.limit
    }

    fn start_one(&mut self) -> Option<T> {
        if !self.has_room() {
            return None;
        }
        let (_, starter) = self.waiting.pop_first()?;
        self.active += 1;
        Some(starter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arrive,
        /// The n-th of those being served is done.
        Done(usize),
        /// The n-th of those waiting gives up.
        GiveUp(usize),
        Limit(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Arrive),
            3 => (0_usize..8).prop_map(Step::Done),
            1 => (0_usize..8).prop_map(Step::GiveUp),
            1 => (0_u32..5).prop_map(Step::Limit),
        ]
    }

    proptest! {
        /// Beside the plainest model there is: a list of who is served and a list of who waits.
        #[test]
        fn serves_in_order_and_never_more_than_allowed(limit in 0_u32..4, steps in prop::collection::vec(step(), 0..200)) {
            let mut admission: Admission<Ticket> = Admission::new(limit);
            let (mut limit, mut number) = (limit, 0);
            let (mut served, mut waiting) = (Vec::<Ticket>::new(), VecDeque::<Ticket>::new());
            for step in steps {
                let started: Vec<Ticket> = match step {
                    Step::Arrive => {
                        let (ticket, started) = admission.arrive(number);
                        prop_assert_eq!(ticket, number);
                        waiting.push_back(number);
                        number += 1;
                        started.into_iter().collect()
                    }
                    Step::Done(n) if n < served.len() => admission.leave(served.remove(n)).into_iter().collect(),
                    Step::GiveUp(n) if n < waiting.len() => {
                        admission.leave(waiting.remove(n).expect("in range")).into_iter().collect()
                    }
                    Step::Limit(new) => {
                        limit = new;
                        admission.set_limit(new)
                    }
                    _ => continue,
                };
                let mut expected = Vec::new();
                while (limit == 0 || (served.len() as u32) < limit) && !waiting.is_empty() {
                    let next = waiting.pop_front().expect("not empty");
                    served.push(next);
                    expected.push(next);
                }
                prop_assert_eq!(started, expected);
                prop_assert_eq!(admission.active() as usize, served.len());
                prop_assert_eq!(admission.waiting(), waiting.len());
            }
        }
    }
}
