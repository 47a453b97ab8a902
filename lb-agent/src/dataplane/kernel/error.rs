//! What can go wrong between the agent and the kernel, in words that name the mend.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error;

use crate::model::config::Ports;

#[derive(Debug, Error)]
pub enum KernelError {
    #[error("{0} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs(PathBuf),
    #[error("another agent already runs with pin_dir {0}; stop it first, or give this one a pin_dir of its own")]
    Locked(PathBuf),
    #[error("not permitted to {0}; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    NotPermitted(String),
    #[error(
        "{path} holds a data plane for {is} flow entries, the configuration asks for {asked}; either set flow_table to {is}, or remove it first (connections lose their place): lb-agent unload"
    )]
    FlowTableSize { path: PathBuf, is: u32, asked: u32 },
    #[error(
        "{path} holds a data plane for {is} backends, the configuration needs {asked}; remove it first (connections lose their place): lb-agent unload"
    )]
    BackendCapacity { path: PathBuf, is: u32, asked: u32 },
    #[error(
        "{path} holds a data plane that lends the ports {is}, the configuration asks for {asked}; either set snat.ports to {is}, or remove it first (connections lose their place): lb-agent unload"
    )]
    Ports { path: PathBuf, is: Ports, asked: Ports },
    #[error(
        "{0} holds the data plane of another network namespace; use another pin_dir, or remove it there: lb-agent unload"
    )]
    OtherNamespace(PathBuf),
    #[error(
        "{0} holds the data plane of a version that this one cannot follow; remove it first (connections lose their place): lb-agent unload"
    )]
    UnknownLayout(PathBuf),
    #[error("{0} holds an incomplete data plane; remove it: lb-agent unload")]
    Incomplete(PathBuf),
    #[error(
        "interface {interface} already has an XDP program that is not ours (program {program}); remove it: ip link set dev {interface} xdp off, or use hook: tc, which comes after it"
    )]
    ForeignProgram { interface: String, program: u32 },
    #[error(
        "interface {interface} does not take a native XDP program ({reason}); mend that, or let the agent take the tc hook: hook: auto"
    )]
    NoNativeXdp { interface: String, reason: String },
    #[error("interface {interface}: the kernel has no tcx, the hook of `hook: tc` (Linux 6.6); use hook: xdp")]
    NoTcx { interface: String },
    #[error("the kernel refused the program {name}: {reason}\n{log}")]
    Rejected { name: &'static str, reason: String, log: String },
    #[error("no room for backend {id}: the data plane holds {capacity}")]
    NoRoom { id: u16, capacity: u32 },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("map {name}: {source}")]
    Map { name: &'static str, source: MapError },
    #[error("{what}: {}", chain(source))]
    Program { what: &'static str, source: ProgramError },
}

impl KernelError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted(what),
            _ => Self::Io { what, source },
        }
    }

    pub(super) fn map<E: Into<MapError>>(name: &'static str) -> impl FnOnce(E) -> Self {
        move |source| match source.into() {
            MapError::SyscallError(error) if is_denied(&error.io_error) => {
                Self::NotPermitted(format!("use the map {name}"))
            }
            source => Self::Map { name, source },
        }
    }

    pub(super) fn program(what: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| match source {
            ProgramError::SyscallError(error) if is_denied(&error.io_error) => Self::NotPermitted(what.to_owned()),
            source => Self::Program { what, source },
        }
    }

    /// Whether more rights would help: the CLI has an exit code for that.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::NotPermitted(_))
    }
}

pub(super) fn is_denied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// An error with what caused it: aya's own messages leave that to the caller.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
