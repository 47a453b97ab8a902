//! What is balanced: the services on the VIP, and the programs in the backends that serve them.

use std::net::IpAddr;

use anyhow::Result;
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Running;
use lb_tests::lab::{Backend, Lab};
use lb_tests::programs;

use super::udp::Sinks;

pub(super) const HTTP: Service = Service { name: "web", port: programs::HTTP_PORT, udp: false, one_backend: false };
/// iperf3 opens two connections that must meet the same server.
pub(super) const BULK: Service = Service { name: "bulk", port: programs::IPERF_PORT, udp: false, one_backend: true };
pub(super) const DATAGRAMS: Service = Service { name: "datagrams", port: 9000, udp: true, one_backend: false };
pub(super) const ALL: [Service; 3] = [HTTP, BULK, DATAGRAMS];

/// A service on the VIP; its backends listen on the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) udp: bool,
    one_backend: bool,
}

impl Service {
    pub(super) fn backends<'lab>(&self, lab: &'lab Lab) -> &'lab [Backend] {
        if self.one_backend { &lab.backends[..1] } else { &lab.backends }
    }

    /// What a program's configuration needs to know.
    pub(super) fn pool(&self, lab: &Lab) -> Pool {
        Pool { service: *self, backends: self.backends(lab).iter().map(|one| one.address(Family::V4)).collect() }
    }
}

/// A service and the addresses of its backends.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) service: Service,
    pub(super) backends: Vec<IpAddr>,
}

/// The servers, until dropped.
#[derive(Debug)]
pub(super) struct Servers {
    _programs: Vec<Running>,
    pub(super) sinks: Sinks,
}

impl Servers {
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let mut running =
            lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<Vec<_>>>()?;
        for backend in BULK.backends(lab) {
            running.push(programs::iperf3(backend)?);
        }
        Ok(Self { _programs: running, sinks: Sinks::start(DATAGRAMS.backends(lab), DATAGRAMS.port)? })
    }
}
