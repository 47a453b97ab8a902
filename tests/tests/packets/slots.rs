//! Services that record no more flows than they must: what the state of a slot means for packets of flows that are recorded,
//! and of flows that are not.

use lb_common::flow::{BUCKET_ENTRIES, FlowState};
use lb_common::mode::Tracking;
use lb_common::reason::Reason;
use lb_common::slot::{Slot, SlotState};
use lb_tests::packets::plan::{Host, STACKS};
use lb_tests::packets::{Frame, Given, Role, Row, Stack, World, check_table, flag, with_world};

use crate::requests::to;

const PORT: u16 = 9100;
const SYN_ACK: u8 = flag::SYN | flag::ACK;

/// One stack's service, and a slot between two backends.
struct Case<'a> {
    world: &'a World,
    stack: Stack,
    old: Host,
    new: Host,
}

impl<'a> Case<'a> {
    fn new(world: &'a World, stack: Stack) -> Self {
        let hosts = stack.hosts(Role::Web);
        Self { world, stack, old: hosts[0], new: hosts[1] }
    }

    fn slot(&self, tracking: Tracking, state: SlotState) -> Given {
        Given::Tracking(self.new, tracking, Slot::new(self.new.id, self.old.id, state))
    }

    fn stable(&self) -> Given {
        self.slot(Tracking::Minimal, SlotState::Stable)
    }

    fn moving(&self) -> Given {
        self.slot(Tracking::Minimal, SlotState::Moving)
    }

    fn tracked(&self) -> Given {
        self.slot(Tracking::Minimal, SlotState::Tracked)
    }

    fn packet(&self, flags: u8) -> Frame {
        to(self.stack, Role::Web, PORT).flags(flags)
    }

    fn given(&self, flags: u8) -> Given {
        Given::Packet(self.packet(flags))
    }

    fn request(&self, name: &str, host: Host, flags: u8, given: impl IntoIterator<Item = Given>) -> Row {
        let name = format!("{}: {name}", self.stack.name());
        Row::request(name, self.world, &self.packet(flags), host).given(given)
    }

    fn reply(&self, name: &str, host: Host, flags: u8, given: impl IntoIterator<Item = Given>) -> Row {
        let name = format!("{}: {name}", self.stack.name());
        let frame = Frame::new(self.stack, host.address, self.stack.client(PORT)).flags(flags);
        Row::reply(name, self.world, &frame, host).given(given)
    }

    fn direct(&self, name: &str, host: Host, given: impl IntoIterator<Item = Given>) -> Row {
        let name = format!("{}: {name}", self.stack.name());
        let frame = Frame::new(self.stack, host.address, self.stack.client(PORT)).flags(flag::ACK);
        Row::untouched(name, frame.build()).given(given)
    }
}

fn tcp(case: &Case<'_>) -> Vec<Row> {
    use FlowState::{Answered, Closing, Established, HalfOpen, Heard};
    let (old, new) = (case.old, case.new);
    let (syn, ack, fin) = (flag::SYN, flag::ACK, flag::FIN | flag::ACK);
    let (stable, moving, tracked) = (|| case.stable(), || case.moving(), || case.tracked());
    // Recorded on the old backend while the slot moved.
    let stayed = || [moving(), case.given(ack), tracked()];
    vec![
        case.request("stable: SYN, counted and not recorded", new, syn, [stable()]).new_flow(),
        case.request("stable: data, not recorded", new, ack, [stable()]),
        case.request("stable: FIN", new, fin, [stable()]),
        case.reply("stable: the backend's answer", new, SYN_ACK, [stable()]),
        case.direct("stable: another backend speaks for itself", old, [stable()]),
        case.request("moving: SYN to the new backend, recorded", new, syn, [moving()]).opens(),
        case.request("moving: SYN again", new, syn, [moving(), case.given(syn)]).remembers(HalfOpen),
        case.request("moving: data of what began since", new, ack, [moving(), case.given(syn)]).remembers(HalfOpen),
        case.request("moving: data of an older flow to the old backend, recorded", old, ack, [moving()])
            .remembers(Heard),
        case.request("moving: more of it", old, ack, [moving(), case.given(ack)]).remembers(Heard),
        case.request("moving: the end of an older flow, not recorded", old, fin, [moving()]),
        case.request("moving: the end of a recorded one", old, fin, [moving(), case.given(ack)]).remembers(Closing),
        case.reply("moving: the old backend answers an unrecorded flow", old, ack, [moving()]),
        case.reply("moving: it answers a recorded one", old, ack, [moving(), case.given(ack)]).remembers(Established),
        case.reply("moving: the new one answers a SYN", new, SYN_ACK, [moving(), case.given(syn)]).remembers(Answered),
        case.direct("moving: not the recorded backend", new, [moving(), case.given(ack)]),
        case.request("tracked: SYN, not recorded", new, syn, [tracked()]).new_flow(),
        case.request("tracked: unrecorded data, not recorded", new, ack, [tracked()]),
        case.request("tracked: data of a flow that stayed", old, ack, stayed()).remembers(Heard),
        case.request(
            "tracked: SYN over a flow that ended elsewhere",
            new,
            syn,
            [moving(), case.given(ack), case.given(fin), tracked()],
        )
        .opens(),
        case.reply("tracked: the answer to a flow that stayed", old, ack, stayed()).remembers(Established),
        case.reply("tracked: the answer to any other", new, ack, [tracked()]),
        case.direct("tracked: the old backend speaks for itself", old, [tracked()]),
        case.request(
            "stable again: what is recorded is not looked at",
            new,
            ack,
            [moving(), case.given(ack), stable()],
        ),
        case.request("moving: an older flow of a backend that drains", old, ack, [moving(), Given::Draining(old)])
            .remembers(Heard),
        case.request("moving: data when the old backend is gone", new, ack, [moving(), Given::Removed(old)])
            .remembers(Heard),
        case.request("off: SYN", new, syn, [case.slot(Tracking::Off, SlotState::Stable)]).new_flow(),
        case.request("off: data", new, ack, [case.slot(Tracking::Off, SlotState::Stable)]),
        case.reply("off: the backend's answer", new, ack, [case.slot(Tracking::Off, SlotState::Stable)]),
    ]
}

fn udp(case: &Case<'_>) -> Vec<Row> {
    use FlowState::{Established, Heard};
    let (old, new) = (case.old, case.new);
    vec![
        case.request("stable: not recorded", new, 0, [case.stable()]),
        case.reply("stable: the backend's answer", new, 0, [case.stable()]),
        case.request("moving: taken for an older flow's", old, 0, [case.moving()]).remembers(Heard),
        case.reply("moving: answered", old, 0, [case.moving(), case.given(0)]).remembers(Established),
        case.request("moving: the old backend takes no new flows", new, 0, [case.moving(), Given::Draining(old)])
            .remembers(Heard),
        case.request(
            "moving: a recorded flow of a backend that drains",
            old,
            0,
            [case.moving(), case.given(0), Given::Draining(old)],
        )
        .remembers(Heard),
        case.request("tracked: not recorded", new, 0, [case.tracked()]),
        case.request("tracked: a flow that stayed", old, 0, [case.moving(), case.given(0), case.tracked()])
            .remembers(Heard),
        case.request("off: not recorded", new, 0, [case.slot(Tracking::Off, SlotState::Stable)]),
    ]
}

#[test]
fn slots_decide_what_is_remembered() {
    with_world(|world| {
        let mut rows = Vec::new();
        for stack in STACKS {
            let case = Case::new(world, stack);
            rows.extend(if stack.is_tcp() { tcp(&case) } else { udp(&case) });
        }
        check_table(world, rows)
    });
}

/// Where there is no room to record a new flow of a moving slot, it begins where unrecorded flows are taken to be, so that
/// its next packet finds it.
#[test]
fn a_flow_that_cannot_be_recorded_begins_on_the_old_backend() {
    with_world(|world| {
        let mut rows = Vec::new();
        for stack in STACKS.into_iter().filter(|stack| stack.is_tcp()) {
            let case = Case::new(world, stack);
            let mut inside = world.rivals(stack, Role::Web, BUCKET_ENTRIES + 1);
            let outside = inside.remove(BUCKET_ENTRIES);
            // Established while every flow was recorded.
            let filled = || inside.iter().map(|tuple| Given::Established(*tuple, case.old)).chain([case.moving()]);
            let frame = |flags| Frame::new(stack, outside.source, outside.destination).flags(flags);
            let row = |name: &str, flags| {
                Row::request(format!("{}: {name}", stack.name()), world, &frame(flags), case.old)
                    .given(filled())
                    .counting(Reason::FlowTableFull)
            };
            rows.push(row("SYN", flag::SYN).new_flow());
            rows.push(row("its next packet", flag::ACK));
        }
        check_table(world, rows)
    });
}
