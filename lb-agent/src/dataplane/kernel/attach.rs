//! Attaching the program to interfaces, and letting go of them.

use std::io;

use aya::programs::links::{FdLink, LinkError, LinkOrder};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::Kernel;
use super::error::KernelError;
use crate::model::hook::Place;

/// Where in the kernel packets meet a program: each has its own, over the same maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    Xdp,
    /// tcx, ingress.
    Tc,
}

impl Hook {
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    pub const fn of(place: Place) -> Self {
        match place {
            Place::NativeXdp | Place::GenericXdp => Self::Xdp,
            Place::Tc => Self::Tc,
        }
    }
}

/// How the driver runs an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Native,
    Generic,
}

/// An interface that has our program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub ifindex: u32,
    /// It was there already and went on.
    pub taken_over: bool,
}

impl Kernel {
    /// Attaches the program of the place's hook, or finds it attached by an earlier agent. `xdp` is the XDP program that netlink
    /// says is on the interface now, if any. At tc it is put before all others, and what it passes they get to see.
    ///
    /// # Errors
    /// When the interface has somebody else's XDP program, or its driver or the kernel does not take ours.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        place: Place,
        xdp: Option<u32>,
    ) -> Result<Attachment, KernelError> {
        let hook = Hook::of(place);
        if self.inherit(hook, ifindex)? {
            return Ok(Attachment { ifindex, taken_over: true });
        }
        if let Some(link) = self.pins.link(hook, ifindex)? {
            let ours = FdLink::from(link).info().map(|info| info.program_id()).ok();
            let there = match hook {
                Hook::Xdp => xdp.is_some() && xdp == ours,
                Hook::Tc => ours.is_some_and(|ours| tc_programs(interface).contains(&ours)),
            };
            if there {
                return Ok(Attachment { ifindex, taken_over: true });
            }
            // The interface was made again, or somebody detached the link: the pin holds nothing.
            self.detach(hook, ifindex)?;
        }
        let link = match place {
            Place::Tc => self.link_tc(interface)?,
            Place::NativeXdp => self.link_xdp(interface, ifindex, XdpMode::Driver, xdp)?,
            Place::GenericXdp => self.link_xdp(interface, ifindex, XdpMode::Skb, xdp)?,
        };
        link.pin(self.pins.link_path(hook, ifindex)).map_err(super::pins::pin_error)?;
        Ok(Attachment { ifindex, taken_over: false })
    }

    fn link_xdp(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
        present: Option<u32>,
    ) -> Result<FdLink, KernelError> {
        if let Some(program) = present {
            return Err(KernelError::ForeignProgram { interface: interface.to_owned(), program });
        }
        let id = self.balance.attach_to_if_index(ifindex, mode).map_err(|error| refused(interface, error))?;
        let link = self.balance.take_link(id).map_err(KernelError::program("taking the attachment"))?;
        link.try_into().map_err(no_link(interface))
    }

    fn link_tc(&mut self, interface: &str) -> Result<FdLink, KernelError> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = self.balance_tc.attach_with_options(interface, TcAttachType::Ingress, order);
        let id = id.map_err(|error| refused_at_tc(interface, error))?;
        let link = self.balance_tc.take_link(id).map_err(KernelError::program("taking the attachment"))?;
        link.try_into().map_err(no_link(interface))
    }

    /// Takes a hook's program off an interface. One that has none is no error.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), KernelError> {
        let path = self.pins.link_path(hook, ifindex);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// At both hooks.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach_everywhere(&mut self, ifindex: u32) -> Result<(), KernelError> {
        Hook::ALL.into_iter().try_for_each(|hook| self.detach(hook, ifindex))
    }

    /// Hooks and interface numbers that have a pinned attachment, alive or not.
    ///
    /// # Errors
    /// When the pin directory cannot be read.
    pub fn attached(&self) -> Result<Vec<(Hook, u32)>, KernelError> {
        self.pins.links()
    }
}

/// Kernel's numbers of the programs at tc (tcx, ingress), in the order in which packets meet them. None where it cannot be seen.
pub fn tc_programs(interface: &str) -> Vec<u32> {
    let programs = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).map(|(_, programs)| programs);
    programs.unwrap_or_default().iter().map(ProgramInfo::id).collect()
}

/// Puts the program in the place of the one that a link holds, in one step. False: the link's interface has gone, which is no
/// error; if that is back, it will be attached to anew.
pub(super) fn relink_xdp(balance: &mut Xdp, link: FdLink) -> Result<bool, KernelError> {
    match balance.attach_to_link(XdpLink::try_from(link).map_err(unusable)?) {
        // Given back, so that it is not detached when the program's handle goes; the pin holds the attachment.
        Ok(id) => balance.take_link(id).map(|_| true).map_err(not_replaced),
        Err(error) => gone(error),
    }
}

/// As [`relink_xdp`].
pub(super) fn relink_tc(balance: &mut SchedClassifier, link: FdLink) -> Result<bool, KernelError> {
    match balance.attach_to_link(SchedClassifierLink::try_from(link).map_err(unusable)?) {
        Ok(id) => balance.take_link(id).map(|_| true).map_err(not_replaced),
        Err(error) => gone(error),
    }
}

fn gone(error: ProgramError) -> Result<bool, KernelError> {
    match error {
        ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        error => Err(not_replaced(error)),
    }
}

fn not_replaced(error: ProgramError) -> KernelError {
    KernelError::program("replacing the program")(error)
}

fn unusable(error: LinkError) -> KernelError {
    KernelError::Io { what: "open the pinned attachment".into(), source: io::Error::other(error) }
}

fn no_link(interface: &str) -> impl FnOnce(LinkError) -> KernelError {
    let what = format!("attaching to {interface}");
    |error| KernelError::Io { what, source: io::Error::other(error) }
}

fn refused_at_tc(interface: &str, error: ProgramError) -> KernelError {
    match &error {
        // Kernels before 6.6 do not know this kind of attachment.
        ProgramError::SyscallError(failed) if failed.io_error.raw_os_error() == Some(libc::EINVAL) => {
            KernelError::NoTcx { interface: interface.to_owned() }
        }
        _ => KernelError::program("attaching the program")(error),
    }
}

pub(super) fn refused(interface: &str, error: ProgramError) -> KernelError {
    let native = |reason: &str| KernelError::NoNativeXdp { interface: interface.to_owned(), reason: reason.to_owned() };
    if let ProgramError::SyscallError(failed) = &error {
        match failed.io_error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => return native("its driver has no support for it"),
            Some(libc::ERANGE) => return native("its MTU is too large for it; lower it (a veth takes 3506)"),
            Some(libc::EBUSY | libc::EEXIST) => {
                return KernelError::ForeignProgram { interface: interface.to_owned(), program: 0 };
            }
            _ => {}
        }
    }
    KernelError::program("attaching the program")(error)
}
