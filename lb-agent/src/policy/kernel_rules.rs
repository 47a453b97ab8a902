//! Policies that leave everything to a rule of the kernel: configured weights and what is in flight now.

use rand_pcg::Pcg64;

use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight};

#[derive(Debug)]
pub(super) struct KernelRule {
    chooser: Chooser,
}

impl KernelRule {
    pub(super) fn new(chooser: Chooser) -> Self {
        Self { chooser }
    }
}

impl Policy for KernelRule {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(self.chooser, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        self.start(sight.configured)
    }
}
