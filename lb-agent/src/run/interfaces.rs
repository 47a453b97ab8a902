//! Interfaces: choosing them where nobody named them, and seeing that they are fit before the program is attached.

use std::net::{IpAddr, SocketAddr};

use super::RunError;
use crate::dataplane::kernel::{self, Hook, KernelError};
use crate::model::config::Config;
use crate::model::hook::{self, Choice};
use crate::os;
use crate::os::links::{self, Link};
use crate::os::netlink::Netlink;
use crate::os::next_hop;
use crate::os::sysctl::{self, Family};

/// Addresses whose route is where clients come from, unless a more special one is known: the far side of the default route.
const ANYWHERE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const ANYWHERE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// An interface that may get the program, and where.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    pub(super) link: Link,
    pub(super) choice: Choice,
}

/// The interfaces that lead to the backends, and the one of the default route, where clients are. Says which and why.
pub(super) async fn choose(vip: IpAddr, backends: &[SocketAddr]) -> Result<Vec<String>, RunError> {
    let netlink = Netlink::open()?;
    let mut chosen: Vec<String> = Vec::new();
    for backend in backends {
        add(&netlink, backend.ip(), &format!("it leads to the backend {backend}"), &mut chosen).await?;
    }
    let anywhere = if vip.is_ipv6() { ANYWHERE_V6 } else { ANYWHERE_V4 };
    match add(&netlink, anywhere, "the default route uses it, so clients come from there", &mut chosen).await {
        Ok(()) => {}
        // Without a default route the clients are where the other interfaces are: every Ethernet one that is up.
        Err(_) => {
            for link in links::list_with(&netlink).await?.into_iter().filter(|link| link.ethernet && link.usable()) {
                take(link.name, "there is no default route, so clients may be there", &mut chosen);
            }
        }
    }
    Ok(chosen)
}

async fn add(netlink: &Netlink, address: IpAddr, why: &str, chosen: &mut Vec<String>) -> Result<(), RunError> {
    let hop = next_hop::route(netlink, address).await?;
    take(links::by_index_with(netlink, hop.ifindex).await?.name, why, chosen);
    Ok(())
}

fn take(name: String, why: &str, chosen: &mut Vec<String>) {
    if !chosen.contains(&name) {
        tracing::info!(interface = %name, "chosen: {why}");
        chosen.push(name);
    }
}

/// The configured interfaces as they are, or what makes them unfit and how to mend it.
pub(super) async fn examine(config: &Config) -> Result<Vec<Fit>, RunError> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    let there = links::list().await?;
    let ours = kernel::pinned_programs(&config.pin_dir);
    for name in &config.interfaces {
        let Some(link) = there.iter().find(|link| link.name == *name) else {
            let names: Vec<_> = there.iter().map(|link| link.name.as_str()).collect();
            problems
                .push(format!("interface {name} of `interfaces` does not exist; those that do: {}", names.join(", ")));
            continue;
        };
        problems.extend(unforwarded(config, name));
        found.push(link.clone());
    }
    let fits = with_places(config, found);
    problems.extend(fits.iter().filter_map(|fit| foreign(fit, &ours)));
    if problems.is_empty() { Ok(fits) } else { Err(RunError::Unfit(problems.join("\n"))) }
}

/// Somebody else's program where ours is to be.
fn foreign(Fit { link, choice }: &Fit, ours: &[u32]) -> Option<String> {
    let program = link.xdp.as_ref().map(|xdp| xdp.program_id).filter(|program| !ours.contains(program))?;
    let error = KernelError::ForeignProgram { interface: link.name.clone(), program };
    (Hook::of(choice.place) == Hook::Xdp).then(|| error.to_string())
}

/// One that has been made anew, chosen a place for as one of all.
pub(super) async fn examine_again(config: &Config, name: &str) -> Result<Option<Fit>, RunError> {
    let there = links::list().await?.into_iter().filter(|link| config.interfaces.contains(&link.name)).collect();
    Ok(with_places(config, there).into_iter().find(|fit| fit.link.name == name))
}

fn with_places(config: &Config, links: Vec<Link>) -> Vec<Fit> {
    let facts: Vec<_> = links.iter().map(os::hook::look_at).collect();
    let chosen = hook::choose(config.hook, config.xdp_mode, os::hook::is_tcx_here(), &facts);
    links.into_iter().zip(chosen).map(|(link, choice)| Fit { link, choice }).collect()
}

/// `bpf_fib_lookup`, which finds the way back to clients, obeys the kernel's own switch. Answers that go straight to the
/// clients need none.
fn unforwarded(config: &Config, interface: &str) -> Vec<String> {
    let answers_pass = config.services.iter().filter(|service| service.forward.answers_pass());
    let families = [(Family::Ipv4, false), (Family::Ipv6, true)];
    families
        .into_iter()
        .filter(|(_, v6)| answers_pass.clone().any(|service| service.vip.is_ipv6() == *v6))
        .filter(|(family, _)| !sysctl::forwarding(*family, interface).unwrap_or(true))
        .map(|(family, _)| {
            let key = sysctl::key(family, interface, "forwarding");
            format!("interface {interface} does not forward {family}, so replies would not leave; allow it: sysctl -w {key}=1")
        })
        .collect()
}
