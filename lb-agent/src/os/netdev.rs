//! What an interface can do for XDP, as its driver tells the kernel (generic netlink family `netdev`, Linux 6.3).
//! For a veth the answer includes its other end: frames can be redirected to it only if that end polls (NAPI).
//!
//! Written by hand on a blocking socket: two small messages of fixed shape, and no crate at hand speaks this family.

use std::io;

use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use serde::Serialize;

/// `NLMSG_ERROR` and `GENL_ID_CTRL` of linux/netlink.h and linux/genetlink.h.
const MESSAGE_ERROR: u16 = 2;
const FAMILY_CONTROL: u16 = 16;
/// `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const COMMAND_GET_FAMILY: u8 = 3;
const ATTRIBUTE_FAMILY_ID: u16 = 1;
const ATTRIBUTE_FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES` of linux/netdev.h.
const COMMAND_DEVICE_GET: u8 = 1;
const ATTRIBUTE_IFINDEX: u16 = 1;
const ATTRIBUTE_XDP_FEATURES: u16 = 3;

const NETLINK_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// `enum netdev_xdp_act`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct XdpFeatures {
    /// Runs programs natively, with the verdicts drop, pass, tx and aborted.
    pub basic: bool,
    /// Frames can be redirected from it.
    pub redirect: bool,
    /// Frames can be redirected to it.
    pub redirect_target: bool,
    /// Programs may see frames of several buffers (above about one page).
    pub multi_buffer: bool,
}

impl XdpFeatures {
    fn from_bits(bits: u64) -> Self {
        let has = |bit: u32| bits >> bit & 1 == 1;
        Self { basic: has(0), redirect: has(1), redirect_target: has(2), multi_buffer: has(5) }
    }
}

/// None where the kernel does not tell (before 6.3).
pub fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    let name = attribute(ATTRIBUTE_FAMILY_NAME, b"netdev\0");
    let family = match ask(&socket, FAMILY_CONTROL, COMMAND_GET_FAMILY, &name) {
        Ok(answer) => {
            find(&answer, ATTRIBUTE_FAMILY_ID).and_then(|value| value.try_into().ok().map(u16::from_ne_bytes))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    let Some(family) = family else {
        return Ok(None);
    };
    let answer = ask(&socket, family, COMMAND_DEVICE_GET, &attribute(ATTRIBUTE_IFINDEX, &ifindex.to_ne_bytes()))?;
    let bits = find(&answer, ATTRIBUTE_XDP_FEATURES).and_then(|value| value.try_into().ok().map(u64::from_ne_bytes));
    Ok(bits.map(XdpFeatures::from_bits))
}

/// Sends one question and returns the attributes of the answer.
fn ask(socket: &Socket, message_type: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    const FLAG_REQUEST: u16 = 1;
    let length = u32::try_from(NETLINK_HEADER + GENERIC_HEADER + attributes.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(message_type.to_ne_bytes());
    message.extend(FLAG_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one question at a time on a socket of its own
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    // The kernel answers within the send call, so the answer is there or it never comes.
    socket.set_non_blocking(true)?;
    let (answer, _) = socket.recv_from_full()?;
    read_answer(&answer, message_type)
}

fn read_answer(answer: &[u8], message_type: u16) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "generic netlink answer was not understood");
    let length = answer.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize).ok_or_else(invalid)?;
    let message = answer.get(..length).ok_or_else(invalid)?;
    let answered = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let body = message.get(NETLINK_HEADER..).ok_or_else(invalid)?;
    if answered == Some(MESSAGE_ERROR) {
        let code = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or_else(invalid)?;
        return Err(io::Error::from_raw_os_error(code.checked_neg().ok_or_else(invalid)?));
    }
    if answered != Some(message_type) {
        return Err(invalid());
    }
    body.get(GENERIC_HEADER..).map(<[u8]>::to_vec).ok_or_else(invalid)
}

/// One attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("values here have a few bytes");
    let mut attribute = Vec::from(length.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == kind)?;
    let length = found.value_length();
    found.into_inner().get(4..4 + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::ethtool::{Offload, set_offload};
    use crate::os::{lab, links};

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(answer in proptest::collection::vec(any::<u8>(), 0..128), kind in any::<u16>()) {
            if let Ok(attributes) = read_answer(&answer, kind) {
                find(&attributes, ATTRIBUTE_FAMILY_ID);
            }
        }
    }

    #[test]
    fn an_error_answer_is_the_kernels_errno() {
        let mut answer = Vec::from(20u32.to_ne_bytes());
        answer.extend(MESSAGE_ERROR.to_ne_bytes());
        answer.extend([0; 10]);
        answer.extend((-libc::ENODEV).to_ne_bytes());
        assert_eq!(read_answer(&answer, 30).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_veth_takes_redirected_frames_only_if_its_other_end_polls() {
        lab::run(|lab| async move {
            lab.veth("lb0", "peer0").await;
            let index = links::by_name("lb0").await.unwrap().index;
            let Some(features) = xdp_features(index).unwrap() else {
                eprintln!("skipped: this kernel does not tell XDP features");
                return;
            };
            assert!(features.basic && features.redirect);
            assert!(!features.redirect_target, "neither end polls yet");
            // Its own GRO changes nothing: the receiver of redirected frames is the other end.
            set_offload("lb0", Offload::Gro, true).unwrap();
            assert!(!xdp_features(index).unwrap().unwrap().redirect_target);
            lab.in_peer(|| async { set_offload("peer0", Offload::Gro, true).unwrap() });
            assert!(xdp_features(index).unwrap().unwrap().redirect_target);
            assert_eq!(xdp_features(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        });
    }
}
