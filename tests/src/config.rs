//! Configuration files as a user would write them: YAML text, made from what a test says about its services and
//! the address plan of the lab. Validating is the agent's business; nothing here does it.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lb_agent::model::config::Hook;

use crate::lab::address::Family;
use crate::lab::{Backend, Lab};
use crate::programs::HTTP_PORT;

/// Between two health checks, and until one of them has failed.
const CHECK_PERIOD: Duration = Duration::from_millis(400);

/// One file.
#[derive(Debug, Clone)]
pub struct Config {
    pub interfaces: Vec<String>,
    pub hook: Hook,
    /// Entries, as the format writes them: `64Ki`.
    pub flow_table: &'static str,
    /// Left to the default if none.
    pub snat_ports: Option<&'static str>,
    pub pin_dir: PathBuf,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub services: Vec<Service>,
}

impl Config {
    /// On all devices of the balancer, with directories of the lab's own.
    pub fn for_lab(lab: &Lab, services: Vec<Service>) -> Self {
        Self {
            interfaces: lab.devices(),
            // Left to itself the agent may prefer another hook on veth devices.
            hook: Hook::Xdp,
            flow_table: "64Ki",
            snat_ports: None,
            pin_dir: lab.pin_dir().to_owned(),
            state_dir: lab.dir().join("state"),
            socket: lab.dir().join("agent.sock"),
            services,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    pub scheduler: &'static str,
    pub tracking: &'static str,
    /// Of flows of backends that leave.
    pub drain_timeout: Duration,
    pub forward: &'static str,
    pub health: Health,
    pub backends: Vec<Member>,
}

/// A backend as a member of a service.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
}

/// How a service's backends are checked.
#[derive(Debug, Clone)]
pub struct Health {
    /// `http`, `tcp`, `udp` or `none`.
    pub kind: &'static str,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
}

impl Health {
    /// Quick enough for a test, and patient enough for a machine that does something else too.
    pub fn of_kind(kind: &'static str) -> Self {
        Self { kind, interval: CHECK_PERIOD, timeout: CHECK_PERIOD, rise: 2, fall: 3 }
    }

    /// Within this time after its death a backend is out: the documented bound.
    pub fn detection(&self) -> Duration {
        self.interval * self.fall + self.timeout
    }

    /// Within this time after its return it is in.
    pub fn recovery(&self) -> Duration {
        self.interval * self.rise + self.timeout
    }
}

impl Service {
    /// A service of the lab's VIP whose backends listen on the same port.
    pub fn new<'lab>(
        name: &str,
        family: Family,
        port: u16,
        health: Health,
        backends: impl IntoIterator<Item = &'lab Backend>,
    ) -> Self {
        let protocol = if health.kind == "udp" { "udp" } else { "tcp" };
        let member = |one: &Backend| Member { name: one.name.clone(), address: one.address(family), port, weight: 1 };
        let backends = backends.into_iter().map(member).collect();
        let (name, vip, drain_timeout) = (name.to_owned(), family.vip(), Duration::from_secs(60));
        let scheduler = "consistent";
        Self { name, vip, port, protocol, scheduler, tracking: "auto", drain_timeout, forward: "nat", health, backends }
    }

    /// HTTP on port 80, over IPv4, on all backends, checked on `/health`.
    pub fn web(lab: &Lab) -> Self {
        Self::new("web", Family::V4, HTTP_PORT, Health::of_kind("http"), &lab.backends)
    }

    /// The same over IPv6.
    pub fn web6(lab: &Lab) -> Self {
        Self::new("web6", Family::V6, HTTP_PORT, Health::of_kind("http"), &lab.backends)
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "interfaces: [{}]", self.interfaces.join(", "))?;
        writeln!(f, "hook: {}\nxdp_mode: native\nflow_table: {}", self.hook, self.flow_table)?;
        if let Some(ports) = self.snat_ports {
            writeln!(f, "snat: {{ ports: {ports} }}")?;
        }
        writeln!(f, "state_dir: {}\npin_dir: {}", self.state_dir.display(), self.pin_dir.display())?;
        writeln!(f, "api:\n  socket: {}\nservices:", self.socket.display())?;
        self.services.iter().try_for_each(|service| write!(f, "{service}"))
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  - name: {}", self.name)?;
        writeln!(f, "    vip: \"{}\"\n    port: {}\n    protocol: {}", self.vip, self.port, self.protocol)?;
        writeln!(f, "    forward: {}\n    scheduler: {}", self.forward, self.scheduler)?;
        writeln!(f, "    tracking: {}", self.tracking)?;
        writeln!(f, "    drain_timeout: {}s", self.drain_timeout.as_secs())?;
        writeln!(f, "    slow_start: 0s\n    health:\n      kind: {}", self.health.kind)?;
        if self.health.kind == "http" {
            writeln!(f, "      path: /health")?;
        }
        let Health { interval, timeout, rise, fall, .. } = &self.health;
        writeln!(f, "      interval: {}ms\n      timeout: {}ms", interval.as_millis(), timeout.as_millis())?;
        writeln!(f, "      rise: {rise}\n      fall: {fall}\n    backends:")?;
        for Member { name, address, port, weight } in &self.backends {
            writeln!(f, "      - {{ name: {name}, address: \"{address}\", port: {port}, weight: {weight} }}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Config {
        let member = |i: u16| Member { name: format!("b{i}"), address: Family::V6.backend(i), port: 53, weight: i };
        Config {
            interfaces: vec!["cli0".into(), "be1".into()],
            hook: Hook::Xdp,
            flow_table: "64Ki",
            snat_ports: Some("40000-40099"),
            pin_dir: "/sys/fs/bpf/x".into(),
            state_dir: "/tmp/x".into(),
            socket: "/tmp/x.sock".into(),
            services: vec![Service {
                name: "dns".into(),
                vip: Family::V6.vip(),
                port: 53,
                protocol: "udp",
                scheduler: "random",
                tracking: "auto",
                drain_timeout: Duration::from_secs(60),
                forward: "nat",
                health: Health::of_kind("udp"),
                backends: vec![member(1), member(2)],
            }],
        }
    }

    #[test]
    fn the_text_is_the_documented_format() {
        let expected = "interfaces: [cli0, be1]
hook: xdp
xdp_mode: native
flow_table: 64Ki
snat: { ports: 40000-40099 }
state_dir: /tmp/x
pin_dir: /sys/fs/bpf/x
api:
  socket: /tmp/x.sock
services:
  - name: dns
    vip: \"fd77::100\"
    port: 53
    protocol: udp
    forward: nat
    scheduler: random
    tracking: auto
    drain_timeout: 60s
    slow_start: 0s
    health:
      kind: udp
      interval: 400ms
      timeout: 400ms
      rise: 2
      fall: 3
    backends:
      - { name: b1, address: \"fd77:11::2\", port: 53, weight: 1 }
      - { name: b2, address: \"fd77:12::2\", port: 53, weight: 2 }
";
        assert_eq!(example().to_string(), expected);
    }

    #[test]
    fn the_agent_reads_what_was_meant() {
        for kind in ["http", "tcp", "udp", "none"] {
            let mut wanted = example();
            wanted.services[0].health = Health::of_kind(kind);
            let read = lb_agent::config::parse("lb.yaml", &wanted.to_string()).expect("a valid file");
            assert_eq!((read.interfaces, read.pin_dir), (wanted.interfaces, wanted.pin_dir));
            assert_eq!((read.state_dir, read.api.socket), (wanted.state_dir, wanted.socket));
            let (service, meant) = (&read.services[0], &wanted.services[0]);
            assert_eq!((service.vip, service.port, service.protocol.as_str()), (meant.vip, 53, "udp"));
            assert_eq!((service.health.kind.as_str(), service.health.fall), (kind, meant.health.fall));
            assert_eq!(service.health.interval, meant.health.interval);
            let backends = service.backends.iter().map(|one| (one.address, one.weight));
            assert!(backends.eq(meant.backends.iter().map(|one| (one.address, one.weight))));
        }
    }
}
