//! Questions that the loaded program answers itself: it is run on a packet made for the purpose (BPF_PROG_TEST_RUN).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use lb_common::flow::Flags;
use lb_common::hash::{FlowHash, KEY_WORDS};
use lb_common::mode::ServiceMode;
use lb_common::packet::transport::ports;
use lb_common::route::Route;

use super::Kernel;
use super::attach::Hook;
use super::error::KernelError;
use super::keys::{protocol_number, to_words};
use crate::model::config::Protocol;

/// A client's packet: the next one of this flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Kernel {
    /// Which backend the next packet of this flow would get. Nothing is changed or counted. None for addresses of two
    /// families.
    ///
    /// # Errors
    /// When the kernel cannot run the program.
    pub fn route(&self, packet: Packet) -> Result<Option<Route>, KernelError> {
        let Some(frame) = frame(packet) else { return Ok(None) };
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let result = self.route.test_run(options).map_err(KernelError::program("asking the program"))?;
        Ok(Route::unpack(result.return_value))
    }

    /// Runs a hook's balancing program itself on a frame that came in by the loopback device; for tests and benchmarks. Gives
    /// what the program returned, the frame as it left, and the time for one of `repeat` runs.
    ///
    /// # Errors
    /// When the kernel cannot run the program.
    pub fn run(&self, hook: Hook, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>, Duration), KernelError> {
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::default() };
        let result = match hook {
            Hook::Xdp => self.balance.test_run(options),
            Hook::Tc => self.balance_tc.test_run(options),
        };
        let result = result.map_err(KernelError::program("running the program"))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, result.duration))
    }

    /// The balancing program, for whoever puts another one in front of it; for benchmarks.
    ///
    /// # Errors
    /// When the program is not loaded.
    pub fn balance_fd(&self) -> Result<&ProgramFd, KernelError> {
        self.balance.fd().map_err(KernelError::program("opening the program"))
    }
}

/// The flow's hash, as the program computes it for a service of this mode. None for addresses of two families.
pub fn flow_hash(key: &[u32; KEY_WORDS], mode: ServiceMode, packet: Packet) -> Option<FlowHash> {
    let hash = |ports, protocol| plain_hash(key, packet, ports, protocol);
    let ports = ports(packet.source.port().to_be(), packet.destination.port().to_be());
    let own = hash(ports, protocol_number(packet.protocol))?;
    if mode.has_client_affinity() { Some(own.of_client(hash(0, 0)?)) } else { Some(own) }
}

fn plain_hash(key: &[u32; KEY_WORDS], packet: Packet, ports: u32, protocol: u8) -> Option<FlowHash> {
    let (source, destination) = (to_words(packet.source.ip()), to_words(packet.destination.ip()));
    match (packet.source.is_ipv4(), packet.destination.is_ipv4()) {
        (true, true) => Some(FlowHash::v4(key, source[0], destination[0], ports, protocol)),
        (false, false) => Some(FlowHash::v6(key, source, destination, ports, protocol)),
        _ => None,
    }
}

/// An acknowledgement (TCP) or an empty datagram: a packet that opens nothing, so that a flow that is known is found.
fn frame(packet: Packet) -> Option<Vec<u8>> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let transport = transport(packet);
    let length = u16::try_from(transport.len()).ok()?;
    let protocol = protocol_number(packet.protocol);
    match (packet.source.ip(), packet.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return None,
    }
    frame.extend(transport);
    Some(frame)
}

fn transport(packet: Packet) -> Vec<u8> {
    let mut header = Vec::with_capacity(20);
    header.extend(packet.source.port().to_be_bytes());
    header.extend(packet.destination.port().to_be_bytes());
    match packet.protocol {
        Protocol::Tcp => {
            header.extend([0; 8]);
            header.extend([0x50, Flags::ACK]);
            header.extend([0; 6]);
        }
        Protocol::Udp => header.extend([0, 8, 0, 0]),
    }
    header
}
