//! At a backend: what the balancer's program has put into a tunnel, the backend's program takes out again; and what it leaves
//! alone. The frames that go in are those that the loaded `balance` has made.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_agent::dataplane::kernel::Decap;
use lb_common::decap::Counter;
use lb_common::mode::Forwarding;
use lb_tests::lab::address::Family;
use lb_tests::packets::carrier::Carrier;
use lb_tests::packets::frame::{ETHERNET, patched};
use lb_tests::packets::row::compare;
use lb_tests::packets::{Frame, World, with_world};

const PASS: u32 = 2;
const DROP: u32 = 1;

/// One frame at the backend, and what must become of it.
struct Row {
    name: String,
    frame: Vec<u8>,
    verdict: u32,
    out: Vec<u8>,
    counted: Option<Counter>,
}

impl Row {
    fn untouched(name: &str, frame: Vec<u8>, counted: Option<Counter>) -> Self {
        Self { name: name.to_owned(), out: frame.clone(), frame, verdict: PASS, counted }
    }
}

fn kind(carrier: Carrier) -> Counter {
    if carrier.forwarding == Forwarding::Gue { Counter::Gue } else { Counter::Ipip }
}

fn counts(decap: &Decap) -> Result<Vec<(Counter, u64)>> {
    let all = Counter::ALL.iter().filter(|counter| **counter != Counter::Bytes);
    all.map(|counter| Ok((*counter, decap.counter(*counter)?))).collect()
}

fn check(decap: &mut Decap, row: &Row) -> Result<()> {
    let before = counts(decap)?;
    let (verdict, out) = decap.run(&row.frame)?;
    let after = counts(decap)?;
    let more = before.iter().zip(&after).filter(|((_, old), (_, new))| new > old);
    let counted: Vec<_> = more.map(|((counter, _), _)| *counter).collect();
    ensure!(verdict == row.verdict, "{}: verdict {verdict} instead of {}", row.name, row.verdict);
    ensure!(out == row.out, "{}: {}", row.name, compare(&out, &row.out));
    let expected: Vec<_> = row.counted.into_iter().collect();
    ensure!(counted == expected, "{}: counted {counted:?} instead of {expected:?}", row.name);
    Ok(())
}

/// A backend that has the VIPs and its own addresses, and believes the balancer.
fn backend() -> Result<Decap> {
    let mut decap = Decap::load()?;
    for family in Family::ALL {
        decap.allow(family.balancer_at(1).to_string().parse().expect("an address is a prefix"))?;
    }
    let own = Family::ALL.into_iter().flat_map(|family| [family.vip(), family.backend(1)]);
    decap.set_addresses(own.collect())?;
    Ok(decap)
}

/// What the balancer sends, and the packet inside in a frame with the tunnel's hardware addresses.
fn in_and_out(world: &World, carrier: Carrier, frame: &Frame) -> Result<(Vec<u8>, Vec<u8>)> {
    let (_, tunnelled) = world.run(&frame.build())?;
    let inside = Frame { hops: frame.hops - 1, ..frame.clone() }.build();
    let out = [&tunnelled[..12], &inside[12..]].concat();
    ensure!(tunnelled.len() == inside.len() + carrier.overhead(), "{}: not in a tunnel", carrier.name());
    Ok((tunnelled, out))
}

/// Where the class of an IP header stands: its byte in IPv4, its first in IPv6.
fn with_ecn(mut frame: Vec<u8>, header: usize, ecn: u8) -> Vec<u8> {
    if frame[header] >> 4 == 4 {
        let old = u16::from_be_bytes([frame[header], frame[header + 1]]);
        frame[header + 1] = frame[header + 1] & !3 | ecn;
        let new = u16::from_be_bytes([frame[header], frame[header + 1]]);
        // RFC 1624, equation 3.
        let sum = u16::from_be_bytes([frame[header + 10], frame[header + 11]]);
        let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        let sum = !u16::try_from(total).expect("folded");
        frame[header + 10..header + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[header + 1] = frame[header + 1] & 0xcf | ecn << 4;
    }
    frame
}

fn rows(world: &World, carrier: Carrier) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let inner = ETHERNET + carrier.overhead();
    for (port, length) in [(4000, 0), (4001, 1), (4002, 999)] {
        let frame = carrier.frame(port).payload(length).class(0xb8);
        let (tunnelled, out) = in_and_out(world, carrier, &frame)?;
        let name = format!("{length} bytes");
        rows.push(Row { name, frame: tunnelled, verdict: PASS, out, counted: Some(kind(carrier)) });
    }
    let padded = carrier.frame(4003).padding(11);
    let (frame, out) = in_and_out(world, carrier, &padded)?;
    rows.push(Row { name: "padding".into(), frame, verdict: PASS, out, counted: Some(kind(carrier)) });

    for (outer, inside, left) in [(0, 0, Some(0)), (3, 2, Some(3)), (3, 1, Some(3)), (1, 2, Some(1)), (3, 0, None)] {
        let (frame, out) = in_and_out(world, carrier, &carrier.frame(4004).class(0xb8 | inside))?;
        let frame = with_ecn(frame, ETHERNET, outer);
        let name = format!("outer mark {outer}, inner {inside}");
        rows.push(match left {
            Some(left) => {
                let out = with_ecn(out, ETHERNET, left);
                Row { name, frame, verdict: PASS, out, counted: Some(kind(carrier)) }
            }
            None => Row { name, out: frame.clone(), frame, verdict: DROP, counted: Some(Counter::Congestion) },
        });
    }

    let (frame, _) = in_and_out(world, carrier, &carrier.frame(4005).payload(64))?;
    let v4 = carrier.outer == Family::V4;
    let (source, destination, length) = if v4 { (26, 30, 16) } else { (22, 38, 18) };
    let mut alone = |name: &str, at: usize, bytes: &[u8], counted| {
        rows.push(Row::untouched(name, patched(frame.clone(), at, bytes), counted));
    };
    let (last_source, last_destination) =
        if v4 { (source + 3, destination + 3) } else { (source + 15, destination + 15) };
    alone("an outer source that nobody named", last_source, &[77], Some(Counter::ForeignSource));
    alone("somebody else's tunnel", last_destination, &[77], None);
    alone("longer than the frame", length, &[0x7f, 0xff], Some(Counter::Malformed));
    alone("shorter than what is inside", length, &[0, 80], Some(Counter::Malformed));
    alone("another protocol", if v4 { 23 } else { 20 }, &[47], None);
    let inner_v4 = carrier.stack.family == Family::V4;
    let inner_destination = inner + if inner_v4 { 19 } else { 39 };
    alone("for another host inside", inner_destination, &[0x77], Some(Counter::Elsewhere));
    if v4 {
        alone("a first fragment", 20, &[0x20, 0], None);
        alone("a later fragment", 20, &[0, 9], None);
        alone("options, or what would be some", 14, &[0x46], None);
    }
    if carrier.forwarding == Forwarding::Gue {
        let udp = inner - 8;
        alone("another port", udp + 2, &[0x17, 0xc1], None);
        alone("with a checksum", udp + 6, &[1, 1], None);
        alone("GUE of variant 0", inner, &[0x04], None);
        alone("GUE's control message", inner, &[0x20], None);
    } else {
        let other = if inner_v4 { 0x60 } else { 0x45 };
        alone("another version inside", inner, &[other], Some(Counter::Malformed));
    }
    for row in &mut rows {
        row.name = format!("{}: {}", carrier.name(), row.name);
    }
    Ok(rows)
}

fn tunnels() -> Vec<Carrier> {
    Carrier::all().into_iter().filter(|carrier| carrier.forwarding != Forwarding::Dsr).collect()
}

#[test]
fn what_went_in_comes_out() {
    with_world(|world| {
        let mut decap = backend()?;
        let mut count = 0;
        for carrier in tunnels() {
            carrier.put(world, Some(1500))?;
            for row in rows(world, carrier)? {
                check(&mut decap, &row)?;
                count += 1;
            }
        }
        println!("{count} rows");
        Ok(())
    });
}

#[test]
fn frames_cut_anywhere_pass() {
    with_world(|world| {
        let mut decap = backend()?;
        for carrier in tunnels() {
            carrier.put(world, Some(1500))?;
            let (frame, _) = in_and_out(world, carrier, &carrier.frame(4000).payload(4))?;
            for length in ETHERNET..frame.len() {
                let cut = frame[..length].to_vec();
                let (verdict, out) = decap.run(&cut)?;
                ensure!((verdict, &out) == (PASS, &cut), "{}: {length} bytes", carrier.name());
            }
        }
        Ok(())
    });
}

#[test]
fn others_frames_pass() {
    with_world(|_| {
        let mut decap = backend()?;
        for carrier in tunnels() {
            // What is no tunnel: the client's own packet, straight to the VIP.
            let frame = carrier.frame(4000).payload(100).build();
            check(&mut decap, &Row::untouched("a packet to the VIP", frame, None))?;
        }
        Ok(())
    });
}

/// A name that goes is forgotten.
#[test]
fn addresses_come_and_go() {
    with_world(|world| {
        let carrier = tunnels()[0];
        carrier.put(world, Some(1500))?;
        let (frame, _) = in_and_out(world, carrier, &carrier.frame(4000))?;
        let mut decap = backend()?;
        let own: IpAddr = carrier.address();
        decap.set_addresses([own].into())?;
        check(&mut decap, &Row::untouched("no VIP", frame.clone(), Some(Counter::Elsewhere)))?;
        decap.set_addresses([carrier.vip().ip()].into())?;
        check(&mut decap, &Row::untouched("no address", frame, None))
    });
}
