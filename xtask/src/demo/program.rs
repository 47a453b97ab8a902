//! Whether an XDP program still exists: asked of the kernel itself, because "nothing is left" is only shown by
//! somebody who did not load it.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::wait::wait_until;

const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;

/// The beginning of `union bpf_attr` as BPF_PROG_GET_FD_BY_ID reads it.
#[repr(C)]
struct Attributes {
    program_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Waits until none of the programs exists any more.
pub(super) fn wait_until_gone(ids: &[u32], limit: Duration) -> Result<()> {
    wait_until("the programs are gone", limit, || {
        for id in ids {
            ensure!(!exists(*id)?, "program {id} is still loaded");
        }
        Ok(())
    })
}

fn exists(id: u32) -> Result<bool> {
    let attributes = Attributes { program_id: id, next_id: 0, open_flags: 0 };
    let size = std::mem::size_of::<Attributes>();
    // SAFETY: the attributes live until the call returns, and their size is passed along.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, &raw const attributes, size) };
    match i32::try_from(fd).context("a descriptor is a small number")? {
        0.. => {
            // SAFETY: the call has just returned this descriptor, and nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) });
            Ok(true)
        }
        _ => {
            let error = std::io::Error::last_os_error();
            ensure!(error.kind() == std::io::ErrorKind::NotFound, "asking for program {id}: {error}");
            Ok(false)
        }
    }
}
