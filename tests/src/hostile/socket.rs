//! Sends frames as they are, past the client's own stack: an AF_PACKET socket. No crate of this workspace wraps
//! one; two system calls do not ask for another.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

/// A queue that stays full for so long is not busy but stuck.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);

/// A raw socket on one device.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    address: libc::sockaddr_ll,
}

impl PacketSocket {
    /// Opens it in the calling thread's namespace; it keeps working from any thread.
    pub fn open(ifindex: u32) -> Result<Self> {
        // Protocol 0: it sends and never receives.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("opening a raw socket")?;
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).context("an address family is a small number")?;
        address.sll_ifindex = i32::try_from(ifindex).context("a device number is a small number")?;
        Ok(Self { socket, address })
    }

    /// Sends one frame. A full queue is waited for, so that what is sent has also left the device.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && start.elapsed() < QUEUE_LIMIT => {
                    std::thread::yield_now();
                }
                Err(error) => bail!("sending a frame of {} bytes: {error}", frame.len()),
            }
        }
    }

    fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        let size = libc::socklen_t::try_from(std::mem::size_of::<libc::sockaddr_ll>()).expect("twenty bytes");
        // SAFETY: frame and address are valid for reads of the lengths that are passed with them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.address).cast(),
                size,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
