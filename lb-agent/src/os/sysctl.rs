//! Kernel switches under /proc/sys. Those under `net` are the calling thread's network namespace's: the kernel looks
//! the file up by the reading thread, whatever process mounted /proc (a test here holds it to that).

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The source check of RFC 3704.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReversePathFilter {
    Off,
    Strict,
    Loose,
}

/// Whether packets that arrive on `interface` may be forwarded; `bpf_fib_lookup` asks the same switch.
pub fn forwarding(family: Family, interface: &str) -> io::Result<bool> {
    Ok(read(&per_interface(family, interface, "forwarding")?)? != 0)
}

/// The setting in force for `interface`: the stronger of its own and that for all (IPv4 only, IPv6 has none).
pub fn reverse_path_filter(interface: &str) -> io::Result<ReversePathFilter> {
    let own = read(&per_interface(Family::Ipv4, interface, "rp_filter")?)?;
    let all = read(&per_interface(Family::Ipv4, "all", "rp_filter")?)?;
    Ok(match own.max(all) {
        0 => ReversePathFilter::Off,
        1 => ReversePathFilter::Strict,
        _ => ReversePathFilter::Loose,
    })
}

/// Not there in any network namespace but the first, and not readable without privileges.
pub fn bpf_jit_enable() -> io::Result<u32> {
    read(&PathBuf::from("/proc/sys/net/core/bpf_jit_enable"))
}

/// 0: any user may load BPF programs; 1: not until the next boot; 2: not until the administrator says so.
pub fn unprivileged_bpf_disabled() -> io::Result<u32> {
    read(&PathBuf::from("/proc/sys/kernel/unprivileged_bpf_disabled"))
}

/// Ports that the kernel gives to connections of the host itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPorts {
    pub first: u16,
    pub last: u16,
    /// Those among them that it leaves alone.
    pub reserved: Vec<RangeInclusive<u16>>,
}

/// For both families.
pub fn own_ports() -> io::Result<OwnPorts> {
    let text = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "net.ipv4.ip_local_port_range is not two ports");
    let range = text("ip_local_port_range")?;
    let (first, last) = range.trim().split_once(char::is_whitespace).ok_or_else(invalid)?;
    let port = |text: &str| text.trim().parse().map_err(|_| invalid());
    let reserved = text("ip_local_reserved_ports")?;
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    Ok(OwnPorts { first: port(first)?, last: port(last)?, reserved: reserved.collect() })
}

/// The key that `sysctl -w` takes. An interface name with a dot (`eth0.5`) needs the form with slashes.
pub fn key(family: Family, interface: &str, name: &str) -> String {
    let separator = if interface.contains('.') { '/' } else { '.' };
    ["net", family.as_str(), "conf", interface, name].join(&separator.to_string())
}

fn per_interface(family: Family, interface: &str, name: &str) -> io::Result<PathBuf> {
    // The kernel allows neither in a name; without this check a name could point anywhere under /proc.
    if interface.is_empty() || interface.contains('/') || interface == "." || interface == ".." {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{interface}` cannot be an interface's name"),
        ));
    }
    Ok(["/proc/sys/net", family.as_str(), "conf", interface, name].iter().collect())
}

fn read(path: &PathBuf) -> io::Result<u32> {
    let with_path =
        |kind, detail: &dyn std::fmt::Display| io::Error::new(kind, format!("{}: {detail}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| with_path(error.kind(), &error))?;
    text.trim().parse().map_err(|error| with_path(io::ErrorKind::InvalidData, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::lab;

    #[test]
    fn a_dotted_interface_name_gets_a_key_that_sysctl_understands() {
        assert_eq!(key(Family::Ipv4, "eth0", "forwarding"), "net.ipv4.conf.eth0.forwarding");
        assert_eq!(key(Family::Ipv6, "eth0.5", "forwarding"), "net/ipv6/conf/eth0.5/forwarding");
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../../kernel", "a/b"] {
            assert_eq!(forwarding(Family::Ipv4, name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn the_ports_of_the_host_are_read() {
        lab::run(|_| async move {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 50000").unwrap();
            fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "41000,42000-42009").unwrap();
            let reserved = vec![41_000..=41_000, 42_000..=42_009];
            assert_eq!(own_ports().unwrap(), OwnPorts { first: 40_000, last: 50_000, reserved });
        });
    }

    #[test]
    fn switches_are_those_of_the_reading_threads_namespace() {
        lab::run(|lab| async move {
            lab.veth("lb0", "peer0").await;
            assert!(!forwarding(Family::Ipv4, "lb0").unwrap());
            fs::write("/proc/sys/net/ipv4/conf/lb0/forwarding", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/conf/lb0/rp_filter", "1").unwrap();
            assert!(forwarding(Family::Ipv4, "lb0").unwrap());
            assert_eq!(reverse_path_filter("lb0").unwrap(), ReversePathFilter::Strict);
            // The peer moved to another namespace: its switches are there and not here.
            assert_eq!(forwarding(Family::Ipv4, "peer0").unwrap_err().kind(), io::ErrorKind::NotFound);
            lab.in_peer(|| async { assert!(!forwarding(Family::Ipv4, "peer0").unwrap()) });
        });
    }
}
