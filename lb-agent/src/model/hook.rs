//! At which hook an interface gets its program, and why: a pure function of what is known of all interfaces. Owns the rule that
//! `hook: auto` stands for.
//!
//! XDP is the fastest where frames are frames: a network card's driver runs it before the kernel has made anything of a frame. A
//! virtual device hands over buffers of the kernel, often super-packets of 64 KiB with checksums to be completed. For XDP they have
//! to be copied and cut up first, so there the program belongs at tc.

use std::fmt;

use super::config::{Hook, XdpMode};

/// Above this MTU a frame does not fit one page beside the headroom that XDP needs (256 bytes), the kernel's trailer
/// (320) and the Ethernet header (14), and drivers refuse a native program that does not handle several buffers.
pub const NATIVE_MTU_MAX: u32 = 4096 - 256 - 320 - 14;

/// Drivers of virtual machines' and containers' interfaces: their frames come from another kernel on the same machine, whole.
const VIRTUAL_DRIVERS: &[&str] = &["veth", "netkit", "tun", "virtio_net", "vmxnet3", "hv_netvsc", "vif"];

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    NativeXdp,
    GenericXdp,
    Tc,
}

impl Place {
    /// `xdp` or `tc`.
    pub fn hook(self) -> &'static str {
        match self {
            Self::NativeXdp | Self::GenericXdp => "xdp",
            Self::Tc => "tc",
        }
    }

    pub fn mode(self) -> &'static str {
        match self {
            Self::NativeXdp => "native",
            Self::GenericXdp => "generic",
            Self::Tc => "tcx",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hook(), self.mode())
    }
}

/// What is known of an interface. What cannot be seen is taken for missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFacts {
    pub name: String,
    /// Empty: unknown.
    pub driver: String,
    pub mtu: u32,
    /// The driver runs programs, and sends frames on from them.
    pub native_xdp: bool,
    /// Frames can be redirected to it by XDP now.
    pub redirect_target: bool,
}

/// A place, and the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub place: Place,
    pub reason: String,
}

/// One choice for each of the interfaces of an agent. `tcx`: the kernel has that hook.
pub fn choose(wanted: Hook, mode: XdpMode, tcx: bool, links: &[LinkFacts]) -> Vec<Choice> {
    let asked = |link: &LinkFacts| match (wanted, mode) {
        (Hook::Tc, _) => Some(choice(Place::Tc, "hook: tc asks for it")),
        (_, XdpMode::Generic) => Some(choice(Place::GenericXdp, "xdp_mode: generic asks for it")),
        (Hook::Xdp, XdpMode::Native) => Some(choice(Place::NativeXdp, "hook: xdp asks for it")),
        (Hook::Auto, XdpMode::Native) if !tcx => {
            let reason = "the kernel has no tcx (Linux 6.6), and so no other hook";
            Some(choice(Place::NativeXdp, reason))
        }
        (Hook::Auto, XdpMode::Native) => against_xdp(link).map(|reason| choice(Place::Tc, reason)),
    };
    let chosen: Vec<_> = links.iter().map(asked).collect();
    let unreachable = links.iter().zip(&chosen).find(|(link, chosen)| chosen.is_some() && !link.redirect_target);
    let undecided = |link: &LinkFacts| match unreachable {
        Some((other, _)) => {
            choice(Place::Tc, format!("XDP could not send frames on to {}, which has no queue for them", other.name))
        }
        None => {
            choice(Place::NativeXdp, format!("the driver {} runs it, before the kernel touches a frame", link.driver))
        }
    };
    links.iter().zip(&chosen).map(|(link, chosen)| chosen.clone().unwrap_or_else(|| undecided(link))).collect()
}

/// Why an interface is better served at tc, if it is.
fn against_xdp(link: &LinkFacts) -> Option<String> {
    let LinkFacts { driver, mtu, native_xdp, .. } = link;
    if VIRTUAL_DRIVERS.contains(&driver.as_str()) {
        return Some(format!("{driver} hands over super-packets, which XDP would have to copy and cut up"));
    }
    if !native_xdp {
        return Some(format!(
            "the driver {} does not run XDP natively",
            if driver.is_empty() { "here" } else { driver }
        ));
    }
    (*mtu > NATIVE_MTU_MAX).then(|| format!("MTU {mtu} is too large for native XDP, which takes {NATIVE_MTU_MAX}"))
}

fn choice(place: Place, reason: impl Into<String>) -> Choice {
    Choice { place, reason: reason.into() }
}

/// What `hook: auto` does when the driver refuses after all.
pub fn after_refusal(reason: &str) -> Choice {
    choice(Place::Tc, format!("the driver refused a native XDP program: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str) -> LinkFacts {
        let (name, driver) = (name.to_owned(), "ice".to_owned());
        LinkFacts { name, driver, mtu: 1500, native_xdp: true, redirect_target: false }
    }

    fn veth(name: &str, polls: bool) -> LinkFacts {
        LinkFacts { driver: "veth".into(), redirect_target: polls, ..card(name) }
    }

    #[track_caller]
    fn check(wanted: Hook, mode: XdpMode, links: &[LinkFacts], expected: &[(Place, &str)]) {
        let chosen = choose(wanted, mode, true, links);
        let places: Vec<_> = chosen.iter().map(|choice| choice.place).collect();
        assert_eq!(places, expected.iter().map(|(place, _)| *place).collect::<Vec<_>>(), "{chosen:?}");
        for (choice, (_, words)) in chosen.iter().zip(expected) {
            assert!(choice.reason.contains(words), "{}", choice.reason);
        }
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let links = [card("eth0"), veth("veth0", false)];
        check(Hook::Tc, XdpMode::Native, &links, &[(Place::Tc, "hook: tc"), (Place::Tc, "hook: tc")]);
        let native = (Place::NativeXdp, "hook: xdp");
        check(Hook::Xdp, XdpMode::Native, &links, &[native, native]);
        let generic = (Place::GenericXdp, "xdp_mode: generic");
        check(Hook::Xdp, XdpMode::Generic, &links, &[generic, generic]);
        check(Hook::Auto, XdpMode::Generic, &links, &[generic, generic]);
    }

    #[test]
    fn auto_takes_xdp_where_frames_are_frames() {
        let auto = |links: &[LinkFacts], expected: &[(Place, &str)]| {
            check(Hook::Auto, XdpMode::Native, links, expected);
        };
        let (xdp, tc) = ((Place::NativeXdp, "driver ice"), (Place::Tc, "super-packets"));
        // A card becomes a target once it has a program of its own.
        auto(&[card("eth0"), card("eth1")], &[xdp, xdp]);
        auto(&[card("eth0"), veth("veth0", true)], &[xdp, tc]);
        auto(&[card("eth0"), veth("veth0", false)], &[(Place::Tc, "on to veth0"), tc]);
        let virtio = LinkFacts { driver: "virtio_net".into(), ..card("ens3") };
        auto(&[virtio], &[tc]);
        let wide = LinkFacts { mtu: 9000, redirect_target: true, ..card("eth0") };
        auto(std::slice::from_ref(&wide), &[(Place::Tc, "MTU 9000")]);
        auto(&[card("eth1"), wide], &[xdp, (Place::Tc, "MTU 9000")]);
        let widest = LinkFacts { mtu: NATIVE_MTU_MAX, ..card("eth0") };
        auto(&[widest], &[xdp]);
        let old = LinkFacts { native_xdp: false, driver: "e1000e".into(), ..card("eth0") };
        auto(&[old], &[(Place::Tc, "e1000e does not run XDP natively")]);
        let unknown = LinkFacts { name: "eth0".into(), mtu: 1500, ..LinkFacts::default() };
        auto(&[unknown], &[(Place::Tc, "does not run XDP natively")]);
    }

    #[test]
    fn generic_xdp_is_never_chosen() {
        for tcx in [true, false] {
            for driver in ["", "veth", "ice", "bridge"] {
                for native_xdp in [true, false] {
                    let link = LinkFacts { driver: driver.into(), native_xdp, ..card("eth0") };
                    let chosen = choose(Hook::Auto, XdpMode::Native, tcx, &[link]);
                    assert_ne!(chosen[0].place, Place::GenericXdp);
                }
            }
        }
    }

    #[test]
    fn without_tcx_there_is_no_choice() {
        let chosen = choose(Hook::Auto, XdpMode::Native, false, &[veth("veth0", false)]);
        assert_eq!(chosen[0].place, Place::NativeXdp);
        assert!(chosen[0].reason.contains("6.6"), "{}", chosen[0].reason);
    }
}
