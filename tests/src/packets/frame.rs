//! Frames as hosts send them, and the same frames as a balancer must send them on. Headers and checksums are
//! etherparse's and computed from nothing each time, so that a frame which the program has rewritten step by step
//! is held against one that never was.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel,
    Ipv6Header, PacketBuilder, TcpHeader, UdpHeader, icmpv4, icmpv6,
};
use lb_agent::dataplane::kernel;
use lb_agent::model::config::Protocol;

use super::plan::Stack;
use crate::lab::address::Family;

/// Bits of the TCP flags byte.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

pub const ETHERNET: usize = 14;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;
pub const TCP: usize = 20;
pub const UDP: usize = 8;
/// Bytes of a packet that an ICMP error of the balancer quotes.
pub const QUOTE: usize = 512;

/// Who talks to whom, from the client's side.
pub type Tuple = kernel::Packet;

/// The addresses of an Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    pub destination: [u8; 6],
    pub source: [u8; 6],
}

/// As frames come in.
pub const ARRIVING: Macs = Macs { destination: [2, 0, 0, 0, 0xaa, 1], source: [2, 0, 0, 0, 0xaa, 2] };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Right,
    /// By so much, in one's complement.
    Off(u16),
    /// None (UDP).
    Zero,
}

/// A TCP segment or UDP datagram in its frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub macs: Macs,
    pub stack: Stack,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub hops: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// TCP only.
    pub flags: u8,
    pub tcp_options: Vec<u8>,
    pub ip_options: Vec<u8>,
    /// Offset in units of eight bytes, and whether more follows; IPv4.
    pub fragment: (u16, bool),
    pub payload: Vec<u8>,
    pub checksum: Checksum,
    /// Ethernet padding behind the packet.
    pub padding: Vec<u8>,
}

impl Frame {
    /// From a client to a VIP, or back; TCP flags are those of a packet with data.
    pub fn new(stack: Stack, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            macs: ARRIVING,
            stack,
            source,
            destination,
            hops: 64,
            class: 0,
            flags: flag::ACK,
            tcp_options: vec![],
            ip_options: vec![],
            fragment: (0, false),
            payload: vec![],
            checksum: Checksum::Right,
            padding: vec![],
        }
    }

    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    #[must_use]
    pub fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    #[must_use]
    pub fn class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    #[must_use]
    pub fn checksum(self, checksum: Checksum) -> Self {
        Self { checksum, ..self }
    }

    /// So many bytes, none like its neighbour.
    #[must_use]
    pub fn payload(self, length: usize) -> Self {
        Self { payload: noise(length, 1), ..self }
    }

    /// IPv4 options of so many 32-bit words, all no-operation.
    #[must_use]
    pub fn ip_options(self, words: usize) -> Self {
        Self { ip_options: vec![1; words * 4], ..self }
    }

    /// TCP options of so many 32-bit words, all no-operation.
    #[must_use]
    pub fn tcp_options(self, words: usize) -> Self {
        Self { tcp_options: vec![1; words * 4], ..self }
    }

    #[must_use]
    pub fn padding(self, length: usize) -> Self {
        Self { padding: noise(length, 7), ..self }
    }

    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: (offset, more), ..self }
    }

    /// As it leaves towards a backend.
    #[must_use]
    pub fn sent_to(&self, backend: SocketAddr, macs: Macs) -> Self {
        Self { destination: backend, macs, hops: self.hops - 1, ..self.clone() }
    }

    /// As it leaves towards the client.
    #[must_use]
    pub fn returned_from(&self, vip: SocketAddr, macs: Macs) -> Self {
        Self { source: vip, macs, hops: self.hops - 1, ..self.clone() }
    }

    /// What its sender gets if no more than `mtu` bytes of it would fit.
    pub fn too_big(&self, mtu: usize) -> Vec<u8> {
        let mtu = u16::try_from(mtu).expect("MTUs are small");
        let v4 = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        self.error(QUOTE, Icmpv4Type::DestinationUnreachable(v4), Icmpv6Type::PacketTooBig { mtu: mtu.into() })
    }

    /// What its sender gets if its hops end here.
    pub fn hops_exceeded(&self) -> Vec<u8> {
        let v4 = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
        self.error(self.headers(), v4, Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded))
    }

    /// What its sender gets if nobody takes it.
    pub fn refusal(&self) -> Vec<u8> {
        if self.stack.is_tcp() {
            return self.reset();
        }
        let v4 = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        self.error(self.headers(), v4, Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
    }

    /// Bytes of an IP header and of the transport's least.
    fn headers(&self) -> usize {
        let ip = if self.stack.family == Family::V4 { IPV4 } else { IPV6 };
        ip + if self.stack.is_tcp() { TCP } else { UDP }
    }

    fn error(&self, quoted: usize, v4: Icmpv4Type, v6: Icmpv6Type) -> Vec<u8> {
        let quote = &self.build()[ETHERNET..ETHERNET + quoted];
        let ethernet = PacketBuilder::ethernet2(self.macs.destination, self.macs.source);
        let mut frame = Vec::new();
        let written = match (self.destination.ip(), self.source.ip()) {
            (IpAddr::V4(vip), IpAddr::V4(client)) => {
                ethernet.ipv4(vip.octets(), client.octets(), 64).icmpv4(v4).write(&mut frame, quote)
            }
            (IpAddr::V6(vip), IpAddr::V6(client)) => {
                ethernet.ipv6(vip.octets(), client.octets(), 64).icmpv6(v6).write(&mut frame, quote)
            }
            _ => unreachable!("both addresses are of the stack's family"),
        };
        written.expect("frames are small");
        frame
    }

    fn reset(&self) -> Vec<u8> {
        let refused = self.tcp_header();
        let ethernet = PacketBuilder::ethernet2(self.macs.destination, self.macs.source);
        let ip = match (self.destination.ip(), self.source.ip()) {
            (IpAddr::V4(vip), IpAddr::V4(client)) => ethernet.ipv4(vip.octets(), client.octets(), 64),
            (IpAddr::V6(vip), IpAddr::V6(client)) => ethernet.ipv6(vip.octets(), client.octets(), 64),
            _ => unreachable!("both addresses are of the stack's family"),
        };
        let sequence = if refused.ack { refused.acknowledgment_number } else { 0 };
        let tcp = ip.tcp(self.destination.port(), self.source.port(), sequence, 0).rst();
        let controls = u32::from(refused.syn) + u32::from(refused.fin);
        let data = u32::try_from(self.payload.len()).expect("frames are small");
        let tcp = if refused.ack { tcp } else { tcp.ack(refused.sequence_number + data + controls) };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[]).expect("frames are small");
        frame
    }

    /// Of a packet from the client.
    pub fn tuple(&self) -> Tuple {
        Tuple { protocol: self.stack.protocol, source: self.source, destination: self.destination }
    }

    pub fn build(&self) -> Vec<u8> {
        let ether_type = if self.stack.family == Family::V4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let ethernet =
            Ethernet2Header { destination: self.macs.destination, source: self.macs.source, ether_type }.to_bytes();
        let content = self.content();
        let header = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), content.len())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), content.len())
            }
            _ => unreachable!("both addresses are of the stack's family"),
        };
        [ethernet.as_slice(), &header, &content, &self.padding].concat()
    }

    /// Where the TCP or UDP header begins.
    pub fn transport_offset(&self) -> usize {
        ETHERNET + if self.stack.family == Family::V4 { IPV4 + self.ip_options.len() } else { IPV6 }
    }

    fn ip_number(&self) -> IpNumber {
        if self.stack.is_tcp() { IpNumber::TCP } else { IpNumber::UDP }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], content: usize) -> Vec<u8> {
        let length = u16::try_from(content).expect("frames are small");
        let mut header =
            Ipv4Header::new(length, self.hops, self.ip_number(), source, destination).expect("frames are small");
        header.identification = 0x1234;
        (header.dscp, header.ecn) = split_class(self.class);
        header.dont_fragment = self.fragment == (0, false);
        header.more_fragments = self.fragment.1;
        header.fragment_offset = IpFragOffset::try_new(self.fragment.0).expect("13 bits");
        header.options = Ipv4Options::try_from(self.ip_options.as_slice()).expect("whole words, ten at most");
        header.set_payload_len(content).expect("frames are small");
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], content: usize) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: self.class,
            flow_label: Ipv6FlowLabel::try_new(0x5_1234).expect("20 bits"),
            payload_length: u16::try_from(content).expect("frames are small"),
            next_header: self.ip_number(),
            hop_limit: self.hops,
            source,
            destination,
        };
        header.to_bytes().to_vec()
    }

    /// The transport header and the payload.
    fn content(&self) -> Vec<u8> {
        match self.stack.protocol {
            Protocol::Tcp => {
                let mut header = self.tcp_header();
                header.checksum = self.adjust(self.tcp_checksum(&header));
                [header.to_bytes().as_slice(), &self.payload].concat()
            }
            Protocol::Udp => {
                let mut header = UdpHeader {
                    source_port: self.source.port(),
                    destination_port: self.destination.port(),
                    length: u16::try_from(UDP + self.payload.len()).expect("frames are small"),
                    checksum: 0,
                };
                header.checksum = self.adjust(self.udp_checksum(&header));
                [header.to_bytes().as_slice(), &self.payload].concat()
            }
        }
    }

    fn tcp_header(&self) -> TcpHeader {
        let has = |bit: u8| self.flags & bit != 0;
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), 0x1020_3040, 0xfff0);
        header.fin = has(flag::FIN);
        header.syn = has(flag::SYN);
        header.rst = has(flag::RST);
        header.psh = has(flag::PSH);
        header.ack = has(flag::ACK);
        header.urg = has(flag::URG);
        header.ece = has(flag::ECE);
        header.cwr = has(flag::CWR);
        header.acknowledgment_number = if has(flag::ACK) { 0x5060_7080 } else { 0 };
        header.set_options_raw(&self.tcp_options).expect("whole words, ten at most");
        header
    }

    fn tcp_checksum(&self, header: &TcpHeader) -> u16 {
        let sum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
            }
            _ => unreachable!("both addresses are of the stack's family"),
        };
        sum.expect("frames are small")
    }

    fn udp_checksum(&self, header: &UdpHeader) -> u16 {
        let sum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &self.payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &self.payload)
            }
            _ => unreachable!("both addresses are of the stack's family"),
        };
        sum.expect("frames are small")
    }

    fn adjust(&self, right: u16) -> u16 {
        match self.checksum {
            Checksum::Right => right,
            Checksum::Off(error) => {
                let (sum, carry) = right.overflowing_add(error);
                sum + u16::from(carry)
            }
            Checksum::Zero => 0,
        }
    }
}

fn split_class(class: u8) -> (etherparse::IpDscp, etherparse::IpEcn) {
    let dscp = etherparse::IpDscp::try_new(class >> 2).expect("six bits");
    let ecn = etherparse::IpEcn::try_new(class & 3).expect("two bits");
    (dscp, ecn)
}

fn noise(length: usize, step: u8) -> Vec<u8> {
    (0..length)
        .scan(step, |byte, _| {
            *byte = byte.wrapping_mul(31).wrapping_add(step);
            Some(*byte)
        })
        .collect()
}

/// Bytes of a frame replaced, whatever they meant.
#[must_use]
pub fn patched(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Bytes put in between.
#[must_use]
pub fn inserted(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame.splice(offset..offset, bytes.iter().copied());
    frame
}
