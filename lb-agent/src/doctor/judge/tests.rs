use std::path::PathBuf;

use super::*;
use crate::doctor::facts::{Interface, Peer, Wanted};
use crate::model::config::{Forward, Hook, XdpMode};
use crate::model::pool::NextHop;
use crate::os::ethtool::Offloads;
use crate::os::host::{Capabilities, Cpus, KernelVersion};
use crate::os::links::{AttachMode, Link, XdpAttachment};
use crate::os::netdev::XdpFeatures;
use crate::os::sysctl::{Family, ReversePathFilter};

const OFFLOADS: Offloads = Offloads { tx_checksum: false, tso: false, gso: false, gro: true };
const FEATURES: XdpFeatures = XdpFeatures { basic: true, redirect: true, redirect_target: true, multi_buffer: true };

const NEXT_HOP: NextHop =
    NextHop { ifindex: 3, source_mac: [1; 6], destination_mac: [2; 6], mtu: 1500, source: None, gateway: None };

/// A host without a fault, with one veth and a configuration.
fn healthy() -> Facts {
    Facts {
        wanted: Wanted {
            configured: true,
            hook: Hook::Xdp,
            xdp_mode: XdpMode::Native,
            pin_dir: "/sys/fs/bpf/lb".into(),
            families: vec![Family::Ipv4],
        },
        executable: PathBuf::from("/usr/bin/lb-agent"),
        our_programs: vec![41],
        kernel: Some(KernelVersion { major: 6, minor: 1 }),
        capabilities: Ok(Capabilities { bpf: true, net_admin: true, perfmon: true }),
        btf: true,
        jit: Ok(1),
        unprivileged_bpf_disabled: Ok(2),
        on_bpffs: Ok(true),
        lent: None,
        cpus: Ok(Cpus { online: 2, possible: 2 }),
        interfaces: vec![Interface {
            name: "lb0".into(),
            link: Ok(Link {
                index: 3,
                name: "lb0".into(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
                up: true,
                carrier: true,
                ethernet: true,
                kind: Some("veth".into()),
                peer_index: None,
                xdp: None,
            }),
            driver: Ok("veth".into()),
            offloads: Ok(OFFLOADS),
            xdp: Ok(Some(FEATURES)),
            forwarding: vec![(Family::Ipv4, Ok(true))],
            reverse_path_filter: Ok(ReversePathFilter::Loose),
            peer: None,
        }],
        vips: vec![Vip { service: "web".into(), address: "192.0.2.10".parse().unwrap(), place: Ok(VipPlace::Local) }],
        backends: vec![Backend {
            name: "web/b1".into(),
            forward: Forward::Nat,
            next_hop: Ok(NEXT_HOP),
            interface: Some("lb0".into()),
        }],
    }
}

fn link(facts: &mut Facts) -> &mut Link {
    facts.interfaces[0].link.as_mut().unwrap()
}

fn attach(facts: &mut Facts, mode: AttachMode, program_id: u32, also: &[u32]) {
    link(facts).xdp = Some(XdpAttachment { mode, program_id, also: also.to_vec() });
}

#[test]
fn a_healthy_host_has_nothing_to_mend() {
    let findings = judge(&healthy());
    for finding in &findings {
        assert_eq!((finding.severity, &finding.mend), (Severity::Ok, &None), "{finding:?}");
    }
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(
        checks,
        [
            "capabilities",
            "kernel",
            "btf",
            "bpf-jit",
            "unprivileged-bpf",
            "bpffs",
            "cpus",
            "interface",
            "hook",
            "xdp-program",
            "xdp-native",
            "tx-checksum-offload",
            "redirect-target",
            "forwarding",
            "rp-filter",
            "vip",
            "backend-neighbour",
        ]
    );
}

/// A fault, and the one finding that it must give: check, subject, severity, part of the message, mend.
type Row = (fn(&mut Facts), &'static str, &'static str, Severity, &'static str, Option<&'static str>);

/// Applies one fault to a healthy host: exactly one finding may be other than ok.
fn check(row: &Row) {
    let (fault, check, subject, severity, message, mend) = row;
    let mut facts = healthy();
    fault(&mut facts);
    let faults: Vec<Finding> = judge(&facts).into_iter().filter(|finding| finding.severity > Severity::Ok).collect();
    let [found] = faults.as_slice() else {
        panic!("{check}: not one finding but {faults:#?}");
    };
    assert_eq!((found.check, found.subject.as_str(), found.severity), (*check, *subject, *severity), "{found:?}");
    assert!(found.message.contains(message), "{found:?}");
    assert_eq!(found.mend.as_deref(), *mend, "{found:?}");
}

#[test]
fn faults_of_the_host() {
    use Severity::{Problem, Warning};
    let rows: &[Row] = &[
        (
            |facts| facts.capabilities = Ok(Capabilities { bpf: false, net_admin: true, perfmon: false }),
            "capabilities",
            "host",
            Problem,
            "cap_bpf, cap_perfmon missing",
            Some("setcap cap_bpf,cap_net_admin,cap_perfmon+ep /usr/bin/lb-agent"),
        ),
        (
            |facts| facts.capabilities = Err("no /proc".into()),
            "capabilities",
            "host",
            Warning,
            "not seen: no /proc",
            None,
        ),
        (
            |facts| facts.kernel = Some(KernelVersion { major: 5, minor: 15 }),
            "kernel",
            "host",
            Problem,
            "Linux 5.15 is too old",
            Some("apt-get install linux-image-amd64"),
        ),
        (|facts| facts.kernel = None, "kernel", "host", Warning, "not seen", None),
        (|facts| facts.cpus = Err("gone".into()), "cpus", "host", Warning, "not seen", None),
        (|facts| facts.btf = false, "btf", "host", Warning, "CONFIG_DEBUG_INFO_BTF", None),
        (
            |facts| facts.jit = Ok(0),
            "bpf-jit",
            "host",
            Problem,
            "interpreted",
            Some("sysctl -w net.core.bpf_jit_enable=1"),
        ),
        (
            |facts| facts.unprivileged_bpf_disabled = Ok(0),
            "unprivileged-bpf",
            "host",
            Warning,
            "any user",
            Some("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn faults_of_the_pin_directory() {
    use Severity::Problem;
    let rows: &[Row] = &[
        (
            |facts| facts.on_bpffs = Ok(false),
            "bpffs",
            "/sys/fs/bpf/lb",
            Problem,
            "no BPF file system",
            Some("mount -t bpf bpf /sys/fs/bpf"),
        ),
        (
            |facts| (facts.on_bpffs, facts.wanted.pin_dir) = (Ok(false), "/run/lb/bpf/pins".into()),
            "bpffs",
            "/run/lb/bpf/pins",
            Problem,
            "cannot be pinned",
            Some("mkdir -p /run/lb/bpf && mount -t bpf bpf /run/lb/bpf"),
        ),
        (
            |facts| (facts.on_bpffs, facts.wanted.pin_dir) = (Ok(false), "/pins".into()),
            "bpffs",
            "/pins",
            Problem,
            "cannot be pinned",
            Some("mkdir -p /pins && mount -t bpf bpf /pins"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn faults_of_an_interface() {
    use Severity::Problem;
    let rows: &[Row] = &[
        (|facts| link(facts).up = false, "interface", "lb0", Problem, "down", Some("ip link set dev lb0 up")),
        (|facts| link(facts).carrier = false, "interface", "lb0", Problem, "no carrier", None),
        (|facts| link(facts).ethernet = false, "interface", "lb0", Problem, "no Ethernet frames", None),
        (
            |facts| facts.interfaces[0].link = Err("no interface `lb0`".into()),
            "interface",
            "lb0",
            Problem,
            "no interface `lb0`",
            Some("ip -brief link"),
        ),
        (
            |facts| {
                facts.interfaces.clear();
                facts.backends.clear();
            },
            "interface",
            "host",
            Problem,
            "no Ethernet interface is up",
            Some("ip -brief link"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn programs_of_others() {
    use Severity::Problem;
    let rows: &[Row] = &[
        (
            |facts| attach(facts, AttachMode::Native, 99, &[]),
            "xdp-program",
            "lb0",
            Problem,
            "(native, id 99)",
            Some("ip link set dev lb0 xdpdrv off"),
        ),
        (
            |facts| attach(facts, AttachMode::Generic, 99, &[]),
            "xdp-program",
            "lb0",
            Problem,
            "(generic, id 99)",
            Some("ip link set dev lb0 xdpgeneric off"),
        ),
        // Ours in the driver, a stranger behind it.
        (
            |facts| attach(facts, AttachMode::Multi, 41, &[99]),
            "xdp-program",
            "lb0",
            Problem,
            "id 99",
            Some("ip link set dev lb0 xdpdrv off"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn interfaces_that_do_not_take_a_native_program() {
    use Severity::{Problem, Warning};
    let rows: &[Row] = &[
        (
            |facts| facts.interfaces[0].xdp = Ok(Some(XdpFeatures { basic: false, ..FEATURES })),
            "xdp-native",
            "lb0",
            Problem,
            "does not run XDP natively",
            Some("hook: auto"),
        ),
        (
            |facts| {
                facts.interfaces[0].xdp = Ok(None);
                link(facts).kind = Some("bridge".into());
            },
            "xdp-native",
            "lb0",
            Problem,
            "does not run XDP natively",
            Some("hook: auto"),
        ),
        (
            |facts| {
                facts.interfaces[0].xdp = Ok(None);
                link(facts).kind = None;
            },
            "xdp-native",
            "lb0",
            Warning,
            "do not tell",
            None,
        ),
        (|facts| link(facts).mtu = 3507, "xdp-mtu", "lb0", Problem, "up to 3506", Some("ip link set dev lb0 mtu 1500")),
    ];
    rows.iter().for_each(check);
}

#[test]
fn traps_of_a_veth() {
    use Severity::{Problem, Warning};
    let rows: &[Row] = &[
        (
            |facts| facts.interfaces[0].offloads = Ok(Offloads { tx_checksum: true, ..OFFLOADS }),
            "tx-checksum-offload",
            "lb0",
            Problem,
            "the other end",
            Some("ethtool -K lb0 tx off"),
        ),
        (
            |facts| {
                let offloads = Ok(Offloads { tx_checksum: true, ..OFFLOADS });
                facts.interfaces[0].peer = Some(Peer { name: "peer0".into(), offloads });
            },
            "tx-checksum-offload",
            "peer0",
            Problem,
            "peer0 sends",
            Some("ethtool -K peer0 tx off"),
        ),
        (
            |facts| {
                facts.wanted.xdp_mode = XdpMode::Generic;
                facts.interfaces[0].offloads = Ok(Offloads { tx_checksum: true, ..OFFLOADS });
            },
            "tx-checksum-offload",
            "lb0",
            Warning,
            "unfinished",
            Some("ethtool -K lb0 tx off"),
        ),
        (
            |facts| facts.interfaces[0].xdp = Ok(Some(XdpFeatures { redirect_target: false, ..FEATURES })),
            "redirect-target",
            "lb0",
            Problem,
            "are lost; at the other end",
            Some("ethtool -K PEER gro on"),
        ),
        (
            |facts| {
                facts.wanted.configured = false;
                facts.interfaces[0].offloads = Ok(Offloads { gro: false, ..OFFLOADS });
            },
            "veth-gro",
            "lb0",
            Warning,
            "is lost",
            Some("ethtool -K lb0 gro on"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn switches_of_an_interface() {
    use Severity::{Problem, Warning};
    let rows: &[Row] = &[
        (
            |facts| facts.interfaces[0].forwarding = vec![(Family::Ipv6, Ok(false))],
            "forwarding",
            "lb0",
            Problem,
            "IPv6 forwarding is off",
            Some("sysctl -w net.ipv6.conf.lb0.forwarding=1"),
        ),
        (
            |facts| {
                facts.wanted.configured = false;
                facts.interfaces[0].forwarding = vec![(Family::Ipv4, Ok(false))];
            },
            "forwarding",
            "lb0",
            Warning,
            "IPv4 forwarding is off",
            Some("sysctl -w net.ipv4.conf.lb0.forwarding=1"),
        ),
        (
            |facts| facts.interfaces[0].reverse_path_filter = Ok(ReversePathFilter::Strict),
            "rp-filter",
            "lb0",
            Warning,
            "strict",
            Some("sysctl -w net.ipv4.conf.lb0.rp_filter=2"),
        ),
    ];
    rows.iter().for_each(check);
}

#[test]
fn faults_of_what_is_to_be_reached() {
    use Severity::{Problem, Warning};
    let rows: &[Row] = &[
        (
            |facts| facts.backends[0].next_hop = Err("10.0.0.2 on lb0 does not answer ARP".into()),
            "backend-neighbour",
            "web/b1",
            Problem,
            "10.0.0.2 on lb0 does not answer ARP",
            None,
        ),
        (
            |facts| facts.backends[0].interface = Some("eth9".into()),
            "backend-interface",
            "web/b1",
            Warning,
            "its answers arrive on eth9",
            None,
        ),
        (
            |facts| facts.vips[0].place = Ok(VipPlace::OnLink { interface: "lb0".into() }),
            "vip",
            "web 192.0.2.10",
            Warning,
            "nobody answers",
            Some("ip addr add 192.0.2.10/32 dev lb0"),
        ),
    ];
    rows.iter().for_each(check);
}

fn unfit_for_xdp(facts: &mut Facts, hook: Hook) {
    (facts.wanted.hook, facts.kernel) = (hook, Some(KernelVersion { major: 6, minor: 6 }));
    facts.interfaces[0].offloads = Ok(Offloads { tx_checksum: true, gro: false, ..OFFLOADS });
    facts.interfaces[0].xdp = Ok(Some(XdpFeatures { basic: false, redirect_target: false, ..FEATURES }));
    link(facts).mtu = 9000;
}

#[test]
fn what_is_not_wanted_is_no_fault() {
    let harmless: &[fn(&mut Facts)] = &[
        |facts| attach(facts, AttachMode::Native, 41, &[]),
        |facts| facts.vips[0].place = Ok(VipPlace::Routed),
        // The switch cannot be seen from any namespace but the first.
        |facts| facts.jit = Err("No such file or directory".into()),
        |facts| unfit_for_xdp(facts, Hook::Tc),
        |facts| unfit_for_xdp(facts, Hook::Auto),
        // Hardware completes checksums itself.
        |facts| {
            link(facts).kind = None;
            facts.interfaces[0].offloads = Ok(Offloads { tx_checksum: true, ..OFFLOADS });
            facts.interfaces[0].xdp = Ok(Some(XdpFeatures { redirect_target: false, ..FEATURES }));
        },
        // The answers go straight to the client.
        |facts| (facts.backends[0].forward, facts.backends[0].interface) = (Forward::Dsr, Some("eth9".into())),
        |facts| link(facts).mtu = 3506,
    ];
    for (number, change) in harmless.iter().enumerate() {
        let mut facts = healthy();
        change(&mut facts);
        for finding in judge(&facts) {
            assert_eq!(finding.severity, Severity::Ok, "case {number}: {finding:?}");
        }
    }
}

#[test]
fn both_ends_of_a_pair_are_judged_once_each() {
    let mut facts = healthy();
    facts.wanted.configured = false;
    let offloads = Ok(Offloads { tx_checksum: true, gro: false, ..OFFLOADS });
    facts.interfaces[0].offloads = offloads.clone();
    let mut other = facts.interfaces[0].clone();
    other.name = "peer0".into();
    other.peer = Some(Peer { name: "lb0".into(), offloads: offloads.clone() });
    facts.interfaces[0].peer = Some(Peer { name: "peer0".into(), offloads });
    facts.interfaces.push(other);
    let faults = judge(&facts).into_iter().filter(|finding| finding.severity > Severity::Ok);
    let mends: Vec<String> = faults.filter_map(|finding| finding.mend).collect();
    assert_eq!(mends, ["ethtool -K lb0 tx off", "ethtool -K peer0 tx off"]);
}

#[test]
fn a_host_that_shows_nothing_is_judged_without_a_panic() {
    let unseen = || "not permitted".to_owned();
    let mut facts = healthy();
    facts.capabilities = Err(unseen());
    facts.on_bpffs = Err(unseen());
    facts.vips[0].place = Err(unseen());
    let interface = &mut facts.interfaces[0];
    interface.offloads = Err(unseen());
    interface.xdp = Err(unseen());
    interface.forwarding = vec![(Family::Ipv4, Err(unseen()))];
    interface.reverse_path_filter = Err(unseen());
    let not_seen = judge(&facts).iter().filter(|finding| finding.message == "not seen: not permitted").count();
    assert_eq!(not_seen, 7);
}
