//! The checks of one interface: is it there, may the program be attached, and do the frames that it sends arrive?

use super::super::facts::{Facts, Interface, Seen};
use super::{Finding, Severity, finding, ok, problem, unseen, warning};
use crate::model::hook::{self, Choice, LinkFacts, NATIVE_MTU_MAX, Place};
use crate::os;
use crate::os::ethtool::Offloads;
use crate::os::links::{AttachMode, Link, XdpAttachment};
use crate::os::sysctl::{ReversePathFilter, key};

/// Kinds of virtual interfaces that never run XDP natively, for kernels that do not tell (before 6.3).
const KINDS_WITHOUT_XDP: &[&str] =
    &["bridge", "vlan", "vxlan", "dummy", "ifb", "macvlan", "ipvlan", "gre", "gretap", "geneve", "wireguard", "vrf"];

/// Where each interface would get its program, as `run` decides it. One that is not there counts as one of which nothing is known.
pub(super) fn places(facts: &Facts) -> Vec<Choice> {
    let known = |interface: &Interface| match &interface.link {
        Ok(link) => {
            let features = interface.xdp.as_ref().ok().copied().flatten();
            os::hook::facts(link, interface.driver.as_deref().ok(), features)
        }
        Err(_) => LinkFacts::default(),
    };
    let known: Vec<_> = facts.interfaces.iter().map(known).collect();
    hook::choose(facts.wanted.hook, facts.wanted.xdp_mode, os::hook::has_tcx(facts.kernel), &known)
}

pub(super) fn judge(facts: &Facts, interface: &Interface, choice: &Choice) -> Vec<Finding> {
    let link = match &interface.link {
        Ok(link) => link,
        Err(reason) => return vec![problem("interface", &interface.name, reason, Some("ip -brief link".into()))],
    };
    let mut findings = vec![
        state(interface, link),
        placed(interface, choice),
        program(facts, interface, link.xdp.as_ref(), choice.place),
    ];
    if choice.place == Place::NativeXdp {
        findings.push(native(interface, link));
    }
    // At tc the kernel completes checksums, and nothing is redirected by XDP.
    if choice.place != Place::Tc && is_veth(link) {
        findings.extend(veth(facts, interface, link, choice.place));
    }
    findings.extend(forwarding(facts, interface));
    findings.push(reverse_path_filter(interface));
    findings
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

fn state(interface: &Interface, link: &Link) -> Finding {
    const CHECK: &str = "interface";
    let name = &interface.name;
    if !link.up {
        return problem(CHECK, name, "it is down", Some(format!("ip link set dev {name} up")));
    }
    if !link.ethernet {
        return problem(CHECK, name, "it has no Ethernet frames, which the program reads and rewrites", None);
    }
    if !link.carrier {
        return problem(CHECK, name, "it has no carrier: the cable, or the other end, is down", None);
    }
    let driver = interface.driver.as_deref().unwrap_or("unknown");
    ok(CHECK, name, &format!("up, driver {driver}, MTU {}", link.mtu))
}

fn placed(interface: &Interface, choice: &Choice) -> Finding {
    ok("hook", &interface.name, &format!("{}: {}", choice.place, choice.reason))
}

fn program(facts: &Facts, interface: &Interface, attached: Option<&XdpAttachment>, place: Place) -> Finding {
    const CHECK: &str = "xdp-program";
    let name = &interface.name;
    let Some(attached) = attached else {
        return ok(CHECK, name, "no XDP program is attached");
    };
    let foreign: Vec<String> = std::iter::once(&attached.program_id)
        .chain(&attached.also)
        .filter(|id| !facts.our_programs.contains(id))
        .map(u32::to_string)
        .collect();
    if foreign.is_empty() {
        return ok(CHECK, name, &format!("our program {} is attached ({})", attached.program_id, attached.mode));
    }
    let flavour = match attached.mode {
        AttachMode::Native | AttachMode::Multi => "xdpdrv",
        AttachMode::Generic => "xdpgeneric",
        AttachMode::Offloaded => "xdpoffload",
    };
    if place == Place::Tc {
        let message =
            format!("another XDP program is attached (id {}); it sees packets before ours does", foreign.join(", "));
        return warning(CHECK, name, &message, None);
    }
    problem(
        CHECK,
        name,
        &format!(
            "another XDP program is attached ({}, id {}); stop its owner, or detach it if it has none",
            attached.mode,
            foreign.join(", ")
        ),
        Some(format!("ip link set dev {name} {flavour} off")),
    )
}

fn native(interface: &Interface, link: &Link) -> Finding {
    const CHECK: &str = "xdp-native";
    let name = &interface.name;
    let driver = interface.driver.as_deref().unwrap_or("of this interface");
    let cannot = || {
        let message = format!("the driver {driver} does not run XDP natively; in the configuration set");
        problem(CHECK, name, &message, Some("hook: auto".into()))
    };
    match &interface.xdp {
        Err(reason) => unseen(CHECK, name, reason),
        Ok(Some(features)) if features.basic && features.redirect => {
            ok(CHECK, name, &format!("the driver {driver} runs XDP natively"))
        }
        Ok(Some(_)) => cannot(),
        Ok(None) => match link.kind.as_deref() {
            Some(kind) if KINDS_WITHOUT_XDP.contains(&kind) => cannot(),
            Some("veth") => ok(CHECK, name, "the driver veth runs XDP natively"),
            _ => warning(
                CHECK,
                name,
                &format!("kernels before 6.3 do not tell whether {driver} runs XDP natively"),
                None,
            ),
        },
    }
}

/// The traps of a veth pair: each loses packets without a trace in any counter.
fn veth(facts: &Facts, interface: &Interface, link: &Link, place: Place) -> Vec<Finding> {
    let mut findings = vec![tx_checksum(place, &interface.name, &interface.offloads, interface.peer.is_some())];
    let examined = |name: &str| facts.interfaces.iter().any(|other| other.name == name);
    if let Some(peer) = interface.peer.as_ref().filter(|peer| !examined(&peer.name)) {
        findings.push(tx_checksum(place, &peer.name, &peer.offloads, true));
    }
    if place == Place::NativeXdp {
        findings.extend(mtu(&interface.name, link));
        findings.extend(redirect_target(facts, interface));
        findings.extend(polling(facts, interface, link));
    }
    findings
}

fn tx_checksum(place: Place, name: &str, offloads: &Seen<Offloads>, both_ends_seen: bool) -> Finding {
    const CHECK: &str = "tx-checksum-offload";
    let other_end = if both_ends_seen {
        ""
    } else {
        "; the other end, in the container or namespace of the clients or backends, needs the same and cannot be seen \
         from here"
    };
    match offloads {
        Err(reason) => unseen(CHECK, name, reason),
        Ok(offloads) if offloads.tx_checksum => {
            let severity = if place == Place::NativeXdp { Severity::Problem } else { Severity::Warning };
            finding(
                CHECK,
                name,
                severity,
                &format!(
                    "it is on: checksums of what {name} sends are left unfinished, and after an XDP redirect nobody \
                     finishes them, so that the receiver drops the packets{other_end}"
                ),
                Some(format!("ethtool -K {name} tx off")),
            )
        }
        Ok(_) => ok(CHECK, name, &format!("off: packets leave with their checksums{other_end}")),
    }
}

fn mtu(name: &str, link: &Link) -> Option<Finding> {
    (link.mtu > NATIVE_MTU_MAX).then(|| {
        problem(
            "xdp-mtu",
            name,
            &format!("MTU {}: veth takes a native program up to {NATIVE_MTU_MAX} (at both ends)", link.mtu),
            Some(format!("ip link set dev {name} mtu 1500")),
        )
    })
}

/// The kernel tells for a veth whether its other end polls, wherever that end is.
fn redirect_target(facts: &Facts, interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "redirect-target";
    let name = &interface.name;
    let features = interface.xdp.as_ref().ok().copied().flatten()?;
    if features.redirect_target {
        return Some(ok(CHECK, name, "the other end polls: frames that are redirected here arrive"));
    }
    let severity = if facts.wanted.configured { Severity::Problem } else { Severity::Warning };
    let (place, peer) = match &interface.peer {
        Some(peer) => ("", peer.name.as_str()),
        None => ("; at the other end, in its namespace (PEER is its name there)", "PEER"),
    };
    Some(finding(
        CHECK,
        name,
        severity,
        &format!("the other end has neither GRO nor an XDP program: frames that are redirected here are lost{place}"),
        Some(format!("ethtool -K {peer} gro on")),
    ))
}

/// For the client's or backend's end, where no program is going to be attached. If the balancer's end is in this
/// namespace too, its `redirect-target` says the same.
fn polling(facts: &Facts, interface: &Interface, link: &Link) -> Option<Finding> {
    let name = &interface.name;
    let gro = interface.offloads.as_ref().ok()?.gro;
    (!facts.wanted.configured && !gro && link.xdp.is_none() && interface.peer.is_none()).then(|| {
        warning(
            "veth-gro",
            name,
            "GRO is off and no XDP program is attached: what a balancer at the other end redirects to this one is lost",
            Some(format!("ethtool -K {name} gro on")),
        )
    })
}

fn forwarding(facts: &Facts, interface: &Interface) -> Vec<Finding> {
    const CHECK: &str = "forwarding";
    let name = &interface.name;
    let judge = |(family, enabled): &(_, Seen<bool>)| match enabled {
        Err(reason) => unseen(CHECK, name, reason),
        Ok(true) => ok(CHECK, name, &format!("{family} packets may be forwarded")),
        Ok(false) => finding(
            CHECK,
            name,
            if facts.wanted.configured { Severity::Problem } else { Severity::Warning },
            &format!("{family} forwarding is off: the route of an answer to its client is not looked up"),
            Some(format!("sysctl -w {}=1", key(*family, name, "forwarding"))),
        ),
    };
    interface.forwarding.iter().map(judge).collect()
}

fn reverse_path_filter(interface: &Interface) -> Finding {
    const CHECK: &str = "rp-filter";
    let name = &interface.name;
    match &interface.reverse_path_filter {
        Err(reason) => unseen(CHECK, name, reason),
        Ok(ReversePathFilter::Strict) => warning(
            CHECK,
            name,
            "strict: packets whose answer would leave by another interface are dropped where the program passes them on",
            Some(format!("sysctl -w {}=2", key(crate::os::sysctl::Family::Ipv4, name, "rp_filter"))),
        ),
        Ok(ReversePathFilter::Off | ReversePathFilter::Loose) => ok(CHECK, name, "not strict"),
    }
}
