//! The host itself: kernel version, capabilities of this process, file systems, type information, processors.
//! Everything is read from the kernel at the moment of the call; nothing is cached.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::{FsType, statfs};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: FsType = FsType(0xcafe_4a11);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest kernel that the data plane is made for, Debian 12's: programs that see frames of several buffers need
/// Linux 5.18, and 6.1 is the first long-term kernel after it.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// As `uname -r` says, without what the distribution appended. None if it does not start with two numbers.
pub fn kernel_version() -> Option<KernelVersion> {
    let uname = nix::sys::utsname::uname().ok()?;
    parse_version(uname.release().to_str()?)
}

fn parse_version(release: &str) -> Option<KernelVersion> {
    let (major, rest) = release.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(KernelVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// The capabilities that loading and attaching need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    pub bpf: bool,
    pub net_admin: bool,
    pub perfmon: bool,
}

impl Capabilities {
    /// Names of those that are not there.
    pub fn missing(self) -> Vec<&'static str> {
        [("cap_bpf", self.bpf), ("cap_net_admin", self.net_admin), ("cap_perfmon", self.perfmon)]
            .into_iter()
            .filter_map(|(name, there)| (!there).then_some(name))
            .collect()
    }
}

/// The effective capabilities of this thread.
pub fn capabilities() -> io::Result<Capabilities> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    parse_capabilities(&status)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/thread-self/status has no CapEff line"))
}

fn parse_capabilities(status: &str) -> Option<Capabilities> {
    // Bit numbers of linux/capability.h. Before CAP_BPF and CAP_PERFMON there was CAP_SYS_ADMIN, which still does.
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let set = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |bit: u32| set >> bit & 1 == 1;
    Some(Capabilities {
        bpf: has(BPF) || has(SYS_ADMIN),
        net_admin: has(NET_ADMIN),
        perfmon: has(PERFMON) || has(SYS_ADMIN),
    })
}

/// Whether `path`, or the nearest directory above it that exists, is on a BPF file system.
pub fn on_bpffs(path: &Path) -> io::Result<bool> {
    for ancestor in path.ancestors() {
        match statfs(ancestor) {
            Ok(stat) => return Ok(stat.filesystem_type() == BPF_FS),
            Err(nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Whether the kernel describes its own types.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cpus {
    pub online: u32,
    /// Per-CPU maps have a value for each of these.
    pub possible: u32,
}

pub fn cpus() -> io::Result<Cpus> {
    let count = |name: &str| -> io::Result<u32> {
        let path = format!("/sys/devices/system/cpu/{name}");
        let text = fs::read_to_string(&path)?;
        parse_cpu_list(text.trim())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: `{}`", text.trim())))
    };
    Ok(Cpus { online: count("online")?, possible: count("possible")? })
}

/// `0-3,8` is five processors.
fn parse_cpu_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// CLOCK_MONOTONIC, which programs in the kernel read with `bpf_ktime_get_ns`.
pub fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_of_distributions() {
        let rows = [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("6.18.44-fc-v595", Some((6, 18))),
            ("5.15.0-101-generic", Some((5, 15))),
            ("7.0-rc3", Some((7, 0))),
            ("6", None),
            ("", None),
            ("six.one", None),
        ];
        for (release, expected) in rows {
            assert_eq!(parse_version(release).map(|version| (version.major, version.minor)), expected, "{release}");
        }
        assert!(KernelVersion { major: 6, minor: 1 } > KernelVersion { major: 5, minor: 19 });
        assert!(kernel_version().is_some());
    }

    #[test]
    fn capabilities_of_a_status_file() {
        let rows = [
            ("CapEff:\t000001ffffffffff\n", Vec::new()),
            ("CapEff:\t0000000000000000\n", vec!["cap_bpf", "cap_net_admin", "cap_perfmon"]),
            // CAP_NET_ADMIN alone, then with CAP_SYS_ADMIN, then with CAP_BPF and CAP_PERFMON.
            ("CapEff:\t0000000000001000\n", vec!["cap_bpf", "cap_perfmon"]),
            ("CapEff:\t0000000000201000\n", Vec::new()),
            ("Name:\tx\nCapEff:\t000000c000001000\nCapBnd:\t0\n", Vec::new()),
        ];
        for (status, missing) in rows {
            assert_eq!(parse_capabilities(status).unwrap().missing(), missing, "{status}");
        }
        assert_eq!(parse_capabilities("Name:\tx\n"), None);
        assert!(capabilities().is_ok());
    }

    #[test]
    fn cpu_lists() {
        for (list, count) in
            [("0", Some(1)), ("0-1", Some(2)), ("0-3,8", Some(5)), ("3-0", None), ("", None), ("a", None)]
        {
            assert_eq!(parse_cpu_list(list), count, "{list}");
        }
        let cpus = cpus().unwrap();
        assert!(cpus.online >= 1 && cpus.possible >= cpus.online);
    }

    #[test]
    fn a_path_that_does_not_exist_is_judged_by_what_is_above_it() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!on_bpffs(&directory.path().join("a/b/c")).unwrap());
        assert!(!on_bpffs(Path::new("/proc/absent")).unwrap());
    }
}
