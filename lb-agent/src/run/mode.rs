//! A service's settings as the configuration names them and as the programs read them.

use lb_common::mode::{Forwarding, ServiceMode, Tracking};

use crate::model::config;

pub(super) fn mode(tracking: config::Tracking, forward: config::Forward) -> ServiceMode {
    let tracking = match tracking {
        // The engine decides `auto`.
        config::Tracking::Auto | config::Tracking::Full => Tracking::Full,
        config::Tracking::Minimal => Tracking::Minimal,
        config::Tracking::Off => Tracking::Off,
    };
    let forwarding = match forward {
        config::Forward::Nat => Forwarding::Nat,
        config::Forward::Snat => Forwarding::Snat,
        config::Forward::Dsr => Forwarding::Dsr,
        config::Forward::Ipip => Forwarding::Ipip,
        config::Forward::Gue => Forwarding::Gue,
    };
    ServiceMode::new(tracking, forwarding)
}

/// Of a service found in the maps.
pub(super) fn settings(mode: ServiceMode) -> (config::Forward, config::Tracking) {
    let forward = match mode.forwarding() {
        Forwarding::Nat => config::Forward::Nat,
        Forwarding::Snat => config::Forward::Snat,
        Forwarding::Dsr => config::Forward::Dsr,
        Forwarding::Ipip => config::Forward::Ipip,
        Forwarding::Gue => config::Forward::Gue,
    };
    let tracking = match mode.tracking() {
        Tracking::Full => config::Tracking::Full,
        Tracking::Minimal => config::Tracking::Minimal,
        Tracking::Off => config::Tracking::Off,
    };
    (forward, tracking)
}
