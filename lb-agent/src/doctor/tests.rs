use std::time::Duration;

use super::*;
use crate::model::config::{
    Affinity, Api, Backend, Forward, Health, HealthKind, Hook, Policy, Protocol, Scheduler, Service, Snat, Tracking,
    XdpMode,
};
use crate::os::ethtool::{Offload, set_offload};
use crate::os::lab::{self, Lab, named, set};
use crate::os::links;
use crate::os::netlink::Netlink;

/// A configuration of one service with one backend.
fn config(vip: &str, backend: &str) -> Config {
    Config {
        interfaces: vec!["lb0".into()],
        hook: Hook::Xdp,
        xdp_mode: XdpMode::Native,
        flow_table: 1024,
        snat: Snat::default(),
        state_dir: "/nonexistent".into(),
        pin_dir: "/nonexistent/pins".into(),
        api: Api { socket: "/nonexistent/socket".into(), listen: None },
        services: vec![Service {
            name: "web".into(),
            vip: vip.parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            forward: Forward::Nat,
            scheduler: Scheduler::Consistent,
            affinity: Affinity::None,
            tracking: Tracking::Auto,
            policy: Policy::Static,
            health: Health {
                kind: HealthKind::None,
                path: "/".into(),
                port: None,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                rise: 1,
                fall: 1,
                send: String::new(),
                expect: None,
            },
            slow_start: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            panic_threshold_percent: 50,
            backends: vec![Backend {
                name: "b1".into(),
                address: backend.parse().unwrap(),
                port: 80,
                weight: 1,
                zone: None,
                labels: std::collections::BTreeMap::new(),
                max_flows: None,
            }],
        }],
    }
}

fn only<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    let found: Vec<&Finding> = findings.iter().filter(|finding| finding.check == check).collect();
    assert_eq!(found.len(), 1, "{check}: {findings:#?}");
    found[0]
}

#[test]
fn checksum_offload_on_a_veth_is_a_problem_until_it_is_mended() {
    async fn check(lab: Lab) {
        lab.veth("lb0", "peer0").await;
        // Without a name, every interface that is up is examined; left to itself, the agent would take a hook that needs nothing.
        let findings = examine(None, &[], &[]).await;
        assert!(only(&findings, "hook").message.starts_with("tc/tcx"));
        let at_xdp = config("10.0.0.1", "10.0.0.2");
        let findings = examine(Some(&at_xdp), &[], &[]).await;
        let found = only(&findings, "tx-checksum-offload");
        assert_eq!((found.subject.as_str(), found.severity), ("lb0", Severity::Problem));
        assert_eq!(found.mend.as_deref(), Some("ethtool -K lb0 tx off"));
        assert!(found.message.contains("the other end"), "{}", found.message);

        // What the mend does.
        set_offload("lb0", Offload::TxChecksum, false).unwrap();
        let findings = examine(Some(&at_xdp), &["lb0".into()], &[]).await;
        assert_eq!(only(&findings, "tx-checksum-offload").severity, Severity::Ok);
        let args = DoctorArgs { interface: vec!["absent0".into()], json: true, ..DoctorArgs::default() };
        assert_eq!(run(args, None, &[]).await.unwrap(), ExitCode::FAILURE);
    }
    lab::run(check);
}

#[test]
fn a_configured_host_is_examined_to_its_backends() {
    async fn check(lab: Lab) {
        lab.neighbours("lb0", "peer0").await;
        let findings = examine(Some(&config("10.0.0.1", "10.0.0.2")), &[], &[]).await;
        let reached = only(&findings, "backend-neighbour");
        assert_eq!((reached.subject.as_str(), reached.severity), ("web/b1", Severity::Ok), "{reached:?}");
        assert!(reached.message.ends_with("over lb0"), "{}", reached.message);
        assert_eq!(only(&findings, "vip").message, "an address of this host");
        assert_eq!(only(&findings, "interface").severity, Severity::Ok);
        assert_eq!(only(&findings, "xdp-native").severity, Severity::Ok);
        let forwarding = only(&findings, "forwarding");
        assert_eq!(forwarding.mend.as_deref(), Some("sysctl -w net.ipv4.conf.lb0.forwarding=1"));
        assert_eq!(only(&findings, "redirect-target").severity, Severity::Problem);

        // What the mends do.
        std::fs::write("/proc/sys/net/ipv4/conf/lb0/forwarding", "1").unwrap();
        lab.in_peer(|| async { set_offload("peer0", Offload::Gro, true).unwrap() });
        let findings = examine(Some(&config("10.0.0.99", "10.0.0.77")), &[], &[]).await;
        assert_eq!(only(&findings, "forwarding").severity, Severity::Ok);
        assert_eq!(only(&findings, "redirect-target").severity, Severity::Ok);
        let lost = only(&findings, "backend-neighbour");
        assert_eq!((lost.severity, lost.message.as_str()), (Severity::Problem, "10.0.0.77 on lb0 does not answer ARP"));
        assert_eq!(only(&findings, "vip").mend.as_deref(), Some("ip addr add 10.0.0.99/32 dev lb0"));
        assert_eq!(only(&findings, "bpffs").severity, Severity::Problem);
    }
    lab::run(check);
}

#[test]
fn a_program_on_the_interface_is_foreign_unless_it_is_ours() {
    async fn check(lab: Lab) {
        lab.veth("lb0", "peer0").await;
        let program = lab::load_pass();
        lab::attach(lab.netlink(), "lb0", &program, lab::NATIVE).await.unwrap();
        let id = links::by_name("lb0").await.unwrap().xdp.unwrap().program_id;

        let at_xdp = config("10.0.0.1", "10.0.0.2");
        let findings = examine(Some(&at_xdp), &[], &[id + 1]).await;
        let foreign = only(&findings, "xdp-program");
        assert_eq!(foreign.severity, Severity::Problem);
        assert!(foreign.message.contains(&format!("(native, id {id})")), "{}", foreign.message);
        assert_eq!(foreign.mend.as_deref(), Some("ip link set dev lb0 xdpdrv off"));
        let findings = examine(None, &["lb0".into()], &[id + 1]).await;
        assert_eq!(only(&findings, "xdp-program").severity, Severity::Warning, "at tc it only comes first");
        let findings = examine(Some(&at_xdp), &[], &[id]).await;
        assert_eq!(only(&findings, "xdp-program").severity, Severity::Ok);
    }
    lab::run(check);
}

#[test]
fn the_mtu_that_is_too_large_is_the_one_that_the_kernel_refuses() {
    async fn check(lab: Lab) {
        lab.veth("lb0", "peer0").await;
        let program = lab::load_pass();
        let mut verdicts = Vec::new();
        for mtu in [3507, 3506] {
            set(lab.netlink(), named("lb0").mtu(mtu)).await;
            lab.in_peer(|| async { set(&Netlink::open().unwrap(), named("peer0").mtu(mtu)).await });
            let findings = examine(Some(&config("10.0.0.1", "10.0.0.2")), &[], &[]).await;
            let accepted = findings.iter().all(|finding| finding.check != "xdp-mtu");
            assert_eq!(lab::attach(lab.netlink(), "lb0", &program, lab::NATIVE).await.is_ok(), accepted, "MTU {mtu}");
            verdicts.push(accepted);
        }
        assert_eq!(verdicts, [false, true]);
    }
    lab::run(check);
}
