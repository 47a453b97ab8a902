//! UDP: one sender that sends small datagrams as fast as it can, and sinks in the backends that count what arrives.
//! Written here because a generator's own cost must stay small against a packet's, and iperf3's does not.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lb_tests::lab::{Backend, Lab};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::interrupt::Interrupt;

/// Bytes of payload.
pub(super) const PAYLOAD: usize = 64;
/// Source ports that take turns: as many flows.
pub(super) const FLOWS: usize = 64;
/// Room for the packets that arrive while a sink does not run.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How soon a sink notices that it is to end.
const PATIENCE: Duration = Duration::from_millis(200);
/// What is on its way when the sender ends arrives within this time.
const SETTLE_STEP: Duration = Duration::from_millis(20);
const SETTLE_STEPS: u32 = 50;

/// A sink in every backend, until dropped.
#[derive(Debug)]
pub(super) struct Sinks {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    pub(super) fn start(backends: &[Backend], port: u16) -> Result<Self> {
        let mut sinks = Self { received: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for backend in backends {
            let socket = backend.namespace.enter(|| sink(port)).with_context(|| format!("in {}", backend.name))?;
            let (received, stop) = (Arc::clone(&sinks.received), Arc::clone(&sinks.stop));
            sinks.threads.push(std::thread::spawn(move || count(&socket, &received, &stop)));
        }
        Ok(sinks)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// What has arrived once nothing arrives any more.
    pub(super) fn settled(&self) -> u64 {
        let mut before = self.received();
        for _ in 0..SETTLE_STEPS {
            std::thread::sleep(SETTLE_STEP);
            let now = self.received();
            if now == before {
                break;
            }
            before = now;
        }
        before
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A sink does nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn sink(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("opening a UDP socket")?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("making room for packets")?;
    socket.set_read_timeout(Some(PATIENCE)).context("setting a time-out")?;
    Ok(socket)
}

fn count(socket: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) {
    let mut payload = [0; PAYLOAD + 1];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv(&mut payload).is_ok_and(|length| length == PAYLOAD) {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) packets: u64,
    pub(super) time: Duration,
}

/// Sends for `duration`, as fast as one thread in the client's namespace can.
pub(super) fn send(lab: &Lab, to: SocketAddr, duration: Duration, interrupt: &Interrupt) -> Result<Sent> {
    lab.client.enter(|| {
        let sockets = (0..FLOWS).map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            Ok(socket)
        });
        let sockets: Vec<_> = sockets.collect::<std::io::Result<_>>().context("opening UDP sockets")?;
        let start = Instant::now();
        let mut packets = 0;
        while start.elapsed() < duration {
            interrupt.check()?;
            for socket in &sockets {
                socket.send(&[0x55; PAYLOAD]).with_context(|| format!("sending to {to}"))?;
            }
            packets += FLOWS as u64;
        }
        Ok(Sent { packets, time: start.elapsed() })
    })
}
