//! An array map in this process's memory, by `mmap`: reading or writing a word is then no system call, and one word is
//! written at once as far as packets can see. aya has no such thing.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// The memory of an array map that was created with BPF_F_MMAPABLE. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapped {
    start: NonNull<u8>,
    bytes: usize,
    mapped: usize,
}

// SAFETY: the memory is shared with the kernel anyway and only handed out as atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// `bytes`: entries times the size of a value, which must be a multiple of eight (the kernel rounds up to that).
    pub(super) fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(8), "map values are multiples of eight bytes");
        // SAFETY: no pointers are passed.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let mapped = bytes.next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { start, bytes, mapped })
    }

    pub(super) fn words64(&self) -> &[AtomicU64] {
        // SAFETY: `bytes` bytes are mapped for as long as `self` lives, page-aligned; everyone who shares them uses whole,
        // aligned words; any bit pattern is a value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 8) }
    }

    pub(super) fn words16(&self) -> &[AtomicU16] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 2) }
    }

    pub(super) fn words32(&self) -> &[AtomicU32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 4) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}
