//! A driver's name and its offloads, by the ethtool ioctl. Only interfaces of the calling thread's network namespace
//! can be asked about: the other end of a veth that lives in a container has to be asked there.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;

use serde::Serialize;
use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GDRVINFO` of linux/ethtool.h.
const GET_DRIVER_INFO: u32 = 0x03;

#[derive(Debug, thiserror::Error)]
#[error("cannot {what} of {interface}: {error}")]
pub struct Error {
    what: &'static str,
    interface: String,
    error: io::Error,
}

/// The offloads that decide whether XDP forwarding works and how fast it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Offloads {
    /// Checksums of sent packets are left for the device to complete.
    pub tx_checksum: bool,
    pub tso: bool,
    pub gso: bool,
    /// On a veth this also means NAPI, which frames redirected to it need.
    pub gro: bool,
}

/// One offload, with its commands in linux/ethtool.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    TxChecksum,
    Tso,
    Gso,
    Gro,
}

impl Offload {
    const fn get_command(self) -> u32 {
        match self {
            Self::TxChecksum => 0x16,
            Self::Tso => 0x1e,
            Self::Gso => 0x23,
            Self::Gro => 0x2b,
        }
    }

    /// Each set command of these is the number after its get command.
    const fn set_command(self) -> u32 {
        self.get_command() + 1
    }

    /// The name that `ethtool -K` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TxChecksum => "tx",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The driver's name: `veth`, `virtio_net`, `ixgbe`.
pub fn driver(interface: &str) -> Result<String, Error> {
    let mut info = DriverInfo::new();
    request(interface, &mut info).map_err(|error| failed("read the driver", interface, error))?;
    let name = info.driver.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

pub fn offloads(interface: &str) -> Result<Offloads, Error> {
    let get = |offload: Offload| -> Result<bool, Error> {
        let mut value = Value { command: offload.get_command(), data: 0 };
        request(interface, &mut value).map_err(|error| failed("read the offloads", interface, error))?;
        Ok(value.data != 0)
    };
    Ok(Offloads {
        tx_checksum: get(Offload::TxChecksum)?,
        tso: get(Offload::Tso)?,
        gso: get(Offload::Gso)?,
        gro: get(Offload::Gro)?,
    })
}

/// As `ethtool -K INTERFACE OFFLOAD on|off`; needs CAP_NET_ADMIN.
pub fn set_offload(interface: &str, offload: Offload, on: bool) -> Result<(), Error> {
    let mut value = Value { command: offload.set_command(), data: u32::from(on) };
    request(interface, &mut value).map_err(|error| failed("set an offload", interface, error))
}

fn failed(what: &'static str, interface: &str, error: io::Error) -> Error {
    Error { what, interface: interface.to_owned(), error }
}

/// A structure that the kernel takes by the pointer in `ifr_data`.
///
/// # Safety
/// The type must be the whole structure, `repr(C)`, that the kernel reads and writes for the command in its first
/// four bytes, and any bytes must be a valid value of it.
unsafe trait Request {}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

// SAFETY: the kernel's `struct ethtool_value`, which is what the get and set commands above take; plain numbers.
unsafe impl Request for Value {}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    /// Versions, bus address, reserved bytes and counts of strings, none of them used here.
    rest: [u8; 160],
}

impl DriverInfo {
    const fn new() -> Self {
        Self { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] }
    }
}

const _: () = assert!(size_of::<DriverInfo>() == 196, "struct ethtool_drvinfo has 196 bytes");

// SAFETY: as large as the kernel's `struct ethtool_drvinfo`, with the same first two fields; plain numbers.
unsafe impl Request for DriverInfo {}

fn request<R: Request>(interface: &str, request: &mut R) -> io::Result<()> {
    let name = interface.as_bytes();
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte is left for the terminating zero.
    if name.is_empty() || name.len() >= ifreq.ifr_name.len() || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: `ifreq` outlives the call and its data points to a live, exclusively borrowed structure that the
    // `Request` implementation promises to be the one the kernel reads and writes for this command.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::lab;

    #[test]
    fn a_name_that_cannot_be_one_is_refused_without_asking() {
        for name in ["", "sixteen-letters-", "nul\0", "a-name-far-too-long-for-the-kernel"] {
            assert!(offloads(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn offloads_of_a_veth_are_read_and_set() {
        lab::run(|lab| async move {
            lab.veth("lb0", "peer0").await;
            assert_eq!(driver("lb0").unwrap(), "veth");
            assert!(offloads("lb0").unwrap().tx_checksum, "a fresh veth leaves checksums to the device");
            set_offload("lb0", Offload::TxChecksum, false).unwrap();
            assert!(!offloads("lb0").unwrap().tx_checksum);
            for on in [true, false] {
                set_offload("lb0", Offload::Gro, on).unwrap();
                assert_eq!(offloads("lb0").unwrap().gro, on);
            }
            let error = offloads("absent0").unwrap_err().to_string();
            assert!(error.starts_with("cannot read the offloads of absent0: No such device"), "{error}");
        });
    }
}
