//! What the choice of a hook depends on ([`crate::model::hook`]), as this host tells.

use super::host::{self, KernelVersion};
use super::links::Link;
use super::netdev::XdpFeatures;
use super::{ethtool, netdev};
use crate::model::hook::LinkFacts;

/// The first kernel with tcx.
const TCX_SINCE: KernelVersion = KernelVersion { major: 6, minor: 6 };

/// Of a kernel that does not tell its version it is assumed.
pub fn has_tcx(kernel: Option<KernelVersion>) -> bool {
    kernel.is_none_or(|version| version >= TCX_SINCE)
}

/// As [`has_tcx`], of this kernel.
pub fn is_tcx_here() -> bool {
    has_tcx(host::kernel_version())
}

/// Asks the driver.
pub fn look_at(link: &Link) -> LinkFacts {
    facts(link, ethtool::driver(&link.name).ok().as_deref(), netdev::xdp_features(link.index).ok().flatten())
}

/// What is not known counts as missing.
pub fn facts(link: &Link, driver: Option<&str>, features: Option<XdpFeatures>) -> LinkFacts {
    LinkFacts {
        name: link.name.clone(),
        driver: driver.unwrap_or_default().to_owned(),
        mtu: link.mtu,
        native_xdp: features.is_some_and(|features| features.basic && features.redirect),
        redirect_target: features.is_some_and(|features| features.redirect_target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcx_came_with_6_6() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        let has = [version(6, 1), version(6, 5), version(6, 6), version(7, 0), None].map(has_tcx);
        assert_eq!(has, [false, false, true, true, true]);
    }
}
