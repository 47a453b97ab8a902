//! Attaching the program to interfaces, and letting go of them.

use std::io;

use aya::programs::links::FdLink;
use aya::programs::{ProgramError, XdpMode};

use super::Kernel;
use super::error::KernelError;

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
}

/// How the driver runs the program.
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
    /// Attaches the program, or finds it attached by an earlier agent. `foreign` is the program that netlink says is on the
    /// interface now, if any.
    ///
    /// # Errors
    /// When the interface has somebody else's program, or its driver does not take ours.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        present: Option<u32>,
    ) -> Result<Attachment, KernelError> {
        if let Some(link) = self.pins.link(ifindex)? {
            let ours = FdLink::from(link).info().map(|info| info.program_id()).ok();
            if present.is_some() && present == ours {
                return Ok(Attachment { ifindex, taken_over: true });
            }
            // The interface was made again, or somebody detached the link: the pin holds nothing.
            self.detach(ifindex)?;
        }
        if let Some(program) = present {
            return Err(KernelError::ForeignProgram { interface: interface.to_owned(), program });
        }
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = self.balance.attach_to_if_index(ifindex, flags).map_err(|error| refused(interface, error))?;
        let link = self.balance.take_link(id).map_err(KernelError::program("taking the attachment"))?;
        let link = FdLink::try_from(link).map_err(|error| KernelError::Io {
            what: format!("attaching to {interface}"),
            source: io::Error::other(error),
        })?;
        link.pin(self.pins.link_path(ifindex)).map_err(super::pins::pin_error)?;
        Ok(Attachment { ifindex, taken_over: false })
    }

    /// Takes the program off an interface. One that has none is no error.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let path = self.pins.link_path(ifindex);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KernelError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Interface numbers that have a pinned attachment, alive or not.
    ///
    /// # Errors
    /// When the pin directory cannot be read.
    pub fn attached(&self) -> Result<Vec<u32>, KernelError> {
        self.pins.links()
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
