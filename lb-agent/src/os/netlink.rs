//! Two ways to the kernel's routing netlink: [`Netlink`] for questions, with a time limit on each answer, and
//! [`Subscription`] for events. They are separate sockets so that a storm of events cannot lose an answer.
//!
//! The subscription reads its socket by hand although rtnetlink has a multicast connection, because that one
//! queues without bound: here a slow reader overruns the kernel's buffer, is told so, and looks at everything again.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::AbortHandle;

/// Longest wait for the answer to one question. The kernel answers in microseconds; a longer silence is a lost answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The kernel writes no netlink message above 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Open(io::Error),
    #[error("cannot {what}: {error}")]
    Refused { what: &'static str, error: io::Error },
    #[error("cannot {what}: the kernel gave no answer within {}s", ANSWER_TIMEOUT.as_secs())]
    Silent { what: &'static str },
    #[error("cannot {what}: the kernel's answer was not understood: {detail}")]
    Unexpected { what: &'static str, detail: String },
}

impl Error {
    /// The kernel's errno, if it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } | Self::Open(error) => error.raw_os_error(),
            Self::Silent { .. } | Self::Unexpected { .. } => None,
        }
    }
}

/// A socket for questions to the kernel, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Netlink {
    /// Needs a tokio runtime: the connection is a task of it, until this value is dropped.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Waits for one answer; `what` completes "cannot ...".
pub(crate) async fn answer<T>(
    what: &'static str,
    question: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_TIMEOUT, question).await {
        Err(_elapsed) => Err(Error::Silent { what }),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => Err(Error::Refused { what, error: message.to_io() }),
        Ok(Err(other)) => Err(Error::Unexpected { what, detail: other.to_string() }),
    }
}

/// What a subscription hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(RouteNetlinkMessage),
    /// Events were lost, or one could not be read: whatever was known may be out of date.
    Lost,
}

/// Events of some multicast groups, buffered by the kernel only.
pub(crate) struct Subscription {
    socket: TokioSocket,
    pending: VecDeque<Heard>,
}

impl Subscription {
    pub(crate) fn open(groups: &[MulticastGroup]) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::Open)?;
        // The groups used here all fit the bind mask (RTNLGRP numbers below 32).
        let mask = groups.iter().fold(0, |mask, group| mask | 1u32 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, mask)).map_err(Error::Open)?;
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// The next event. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Heard, Error> {
        loop {
            if let Some(heard) = self.pending.pop_front() {
                return Ok(heard);
            }
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            match self.socket.recv(&mut datagram).await {
                Ok(()) => decode(&datagram, &mut self.pending),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.drain();
                    self.pending.push_back(Heard::Lost);
                }
                Err(error) => return Err(Error::Refused { what: "read netlink events", error }),
            }
        }
    }

    /// Throws away what is buffered. After an overrun the kernel drops every further event, without another word, until
    /// the buffer has been empty: only what is looked at after that moment is up to date. Reading is cheaper than
    /// what makes the events, so this ends.
    fn drain(&self) {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        loop {
            datagram.clear();
            match self.socket.socket_ref().recv(&mut datagram, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {}
                Err(_empty) => return,
            }
        }
    }
}

/// Splits a datagram into its messages. What cannot be read counts as lost, never as absent.
fn decode(datagram: &[u8], heard: &mut VecDeque<Heard>) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(header) = NetlinkBuffer::new_checked(rest) else {
            return heard.push_back(Heard::Lost);
        };
        let length = header.length() as usize;
        let event = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(inner) => Heard::Message(inner),
                _ => Heard::Lost,
            },
            Err(error) => {
                tracing::debug!(%error, "unreadable netlink event");
                Heard::Lost
            }
        };
        heard.push_back(event);
        // Messages are aligned to four bytes; the last one may come without its padding.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_datagram_is_decoded_without_panic_and_with_something_heard(
            datagram in proptest::collection::vec(any::<u8>(), 1..512)
        ) {
            let mut heard = VecDeque::new();
            decode(&datagram, &mut heard);
            prop_assert!(!heard.is_empty());
            // Each message has a header of 16 bytes, so the number heard is bounded by the datagram.
            prop_assert!(heard.len() <= datagram.len().div_ceil(16));
        }

        #[test]
        fn damaged_link_messages_do_not_panic(at in 16usize..64, byte in any::<u8>()) {
            use rtnetlink::packet_core::Emitable;
            let link = rtnetlink::LinkUnspec::new_with_name("eth0").mtu(1500).build();
            let mut datagram = vec![0; 16 + link.buffer_len()];
            link.emit(&mut datagram[16..]);
            let length = u32::try_from(datagram.len()).unwrap();
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            datagram[4..6].copy_from_slice(&16u16.to_ne_bytes());
            if at < datagram.len() {
                datagram[at] = byte;
            }
            let mut heard = VecDeque::new();
            decode(&datagram, &mut heard);
            prop_assert_eq!(heard.len(), 1);
        }
    }

    #[test]
    fn a_slow_reader_is_told_that_events_were_lost() {
        use crate::os::lab::{self, named, set};
        lab::run(|lab| async move {
            lab.veth("lb0", "peer0").await;
            let mut subscription = Subscription::open(&[MulticastGroup::Link]).unwrap();
            let buffer = subscription.socket.socket_ref().get_rx_buf_sz().unwrap();
            // Each event takes more than 256 bytes of the kernel's buffer.
            for change in 0..=buffer / 256 {
                set(lab.netlink(), named("lb0").mtu(1400 + u32::try_from(change % 2).unwrap())).await;
            }
            assert!(matches!(subscription.next().await.unwrap(), Heard::Lost));
            // What happens from then on is heard, and nothing that happened before.
            set(lab.netlink(), named("lb0").mtu(1300)).await;
            let Heard::Message(RouteNetlinkMessage::NewLink(message)) = subscription.next().await.unwrap() else {
                panic!("not a link");
            };
            assert_eq!(crate::os::links::link_of(&message).unwrap().mtu, 1300);
        });
    }
}
