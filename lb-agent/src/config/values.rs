//! One function per kind of value: text in, a checked value out, or what is wrong and how to mend it. They know
//! nothing of YAML, so that the command line's flags go through the same rules.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::limits;
use super::report::{Fault, fault, shown};
use crate::model::config::Ports;

pub(super) type Parsed<T> = Result<T, Fault>;

/// A whole number in decimal; other spellings that YAML knows (`0x50`, `8_080`, `0080`) are more often slips than wishes.
pub(super) fn number(text: &str, range: &RangeInclusive<u64>) -> Parsed<u64> {
    let mend = || format!("use {} to {}", range.start(), range.end());
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || (digits.len() > 1 && digits.starts_with('0'))
    {
        return Err(fault(format!("{} is not a whole number", shown(text)), mend()));
    }
    match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(fault(format!("{text:.24} is out of range"), mend())),
    }
}

pub(super) fn port(text: &str) -> Parsed<u16> {
    narrow(number(text, &(1..=u64::from(u16::MAX)))?)
}

/// `16384-32767`, both ends included.
pub(super) fn ports(text: &str) -> Parsed<Ports> {
    let mend = "write a first and a last port, such as `16384-32767`";
    let Some((first, last)) = text.split_once('-') else {
        return Err(fault(format!("{} is not a range of ports", shown(text)), mend));
    };
    let ports = Ports { first: port(first.trim())?, last: port(last.trim())? };
    if ports.last < ports.first {
        return Err(fault(format!("{} ends before it begins", shown(text)), mend));
    }
    if ports.count() < limits::MIN_LENT_PORTS {
        return Err(fault(
            format!("{} are too few ports", shown(text)),
            format!("use {} or more", limits::MIN_LENT_PORTS),
        ));
    }
    Ok(ports)
}

/// For ranges that fit the target by construction.
pub(super) fn narrow<T: TryFrom<u64>>(value: u64) -> Parsed<T> {
    T::try_from(value).map_err(|_| fault(format!("{value} is out of range"), "use a smaller number"))
}

/// `64Ki`, `1Mi`, `65536`.
pub(super) fn flow_table(text: &str) -> Parsed<u32> {
    let range = limits::FLOW_TABLE_ENTRIES;
    let accepted = "a power of two from 1Ki to 64Mi";
    let (digits, unit) = split_number(text);
    let factor: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "k" | "K" | "kB" | "KB" | "KiB" | "ki" if !digits.is_empty() => {
            return Err(fault(format!("{} is not a size", shown(text)), format!("did you mean `{digits}Ki`?")));
        }
        "m" | "M" | "MB" | "MiB" | "mi" if !digits.is_empty() => {
            return Err(fault(format!("{} is not a size", shown(text)), format!("did you mean `{digits}Mi`?")));
        }
        _ => return Err(fault(format!("{} is not a size", shown(text)), format!("use {accepted}"))),
    };
    let Ok(count) = digits.parse::<u64>() else {
        return Err(fault(format!("{} is not a size", shown(text)), format!("use {accepted}")));
    };
    let entries = count.saturating_mul(factor);
    if !range.contains(&entries) {
        return Err(fault(format!("{} is out of range", shown(text)), format!("use {accepted}")));
    }
    if !entries.is_power_of_two() {
        let (below, above) = (size_text(entries.next_power_of_two() / 2), size_text(entries.next_power_of_two()));
        return Err(fault(format!("{} is not a power of two", shown(text)), format!("use {below} or {above}")));
    }
    narrow(entries)
}

fn size_text(entries: u64) -> String {
    match entries {
        n if n >= 1 << 20 => format!("{}Mi", n >> 20),
        n => format!("{}Ki", n >> 10),
    }
}

/// `250ms`, `5s`, `1m`, `1h`.
pub(super) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Parsed<Duration> {
    let bounds = || format!("use {} to {}", duration_text(*range.start()), duration_text(*range.end()));
    let (digits, unit) = split_number(text);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if !digits.is_empty() => {
            let mend = format!("write `{digits:.20}s` or `{digits:.20}ms` (units are ms, s, m and h)");
            return Err(fault(format!("{} has no unit", shown(text)), mend));
        }
        _ => {
            return Err(fault(
                format!("{} is not a duration", shown(text)),
                "use a whole number and ms, s, m or h, such as `250ms` or `5s`",
            ));
        }
    };
    let Ok(count) = digits.parse::<u64>() else {
        return Err(fault(format!("{} is not a duration", shown(text)), bounds()));
    };
    let value = Duration::from_millis(count.saturating_mul(millis));
    if range.contains(&value) { Ok(value) } else { Err(fault(format!("{} is out of range", shown(text)), bounds())) }
}

/// The shortest spelling that [`duration`] reads back.
pub(super) fn duration_text(value: Duration) -> String {
    match value.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// Leading digits and the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// `50%`.
pub(super) fn percent(text: &str) -> Parsed<u8> {
    let Some(number_text) = text.strip_suffix('%') else {
        let mend = match text.parse::<u8>() {
            Ok(value @ 0..=100) => format!("did you mean `{value}%`?"),
            _ => "use 0% to 100%".to_owned(),
        };
        return Err(fault(format!("{} is not a percentage", shown(text)), mend));
    };
    number(number_text, &(0..=100))
        .and_then(narrow)
        .map_err(|_| fault(format!("{} is not a percentage from 0 to 100", shown(text)), "use 0% to 100%"))
}

/// An address to which packets can be sent from another host: a VIP's or a backend's.
pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(fault(format!("{} is not an IP address", shown(text)), address_mend(text)));
    };
    let refuse = |kind: &str, mend: &str| Err(fault(format!("{address} is {kind}"), mend));
    match address {
        a if a.is_unspecified() => refuse("the unspecified address", "use the address of one host"),
        a if a.is_multicast() => refuse("a multicast address", "use a unicast address"),
        a if a.is_loopback() => refuse("a loopback address", "use an address that other hosts can reach"),
        IpAddr::V4(a) if a.is_broadcast() => refuse("the broadcast address", "use a unicast address"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => match a.to_ipv4_mapped() {
            Some(v4) => refuse("an IPv4 address in IPv6 notation", &format!("write `{v4}`")),
            None => Ok(address),
        },
        a => Ok(a),
    }
}

fn address_mend(text: &str) -> String {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = text.parse::<SocketAddr>() {
        return format!("write `{}`, the port has a key of its own", address.ip());
    }
    if bare.len() < text.len() && bare.parse::<IpAddr>().is_ok() {
        return format!("write it without brackets: `{bare}`");
    }
    match text.split_once(['/', '%']) {
        Some((host, _)) if host.parse::<IpAddr>().is_ok() => format!("write a single address: `{host}`"),
        _ => "use an IPv4 or IPv6 address, such as 192.0.2.10 or 2001:db8::10 (names are not looked up)".to_owned(),
    }
}

/// `127.0.0.1:9900`, `[::1]:9900`.
pub(super) fn socket_address(text: &str) -> Parsed<SocketAddr> {
    let mend = || {
        let port = text.rsplit_once(':').map_or("9900", |(_, port)| port);
        let port = if port.parse::<u16>().is_ok_and(|port| port > 0) { port } else { "9900" };
        format!("use an address and a port, such as `127.0.0.1:{port}`")
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(address),
        Ok(_) => Err(fault(format!("{} has port 0", shown(text)), mend())),
        Err(_) => Err(fault(format!("{} is not an address and a port", shown(text)), mend())),
    }
}

/// One of a fixed set of spellings.
pub(super) fn choice<T: FromStr>(text: &str, accepted: &[&str]) -> Parsed<T> {
    text.parse().map_err(|_| unknown_choice(text, accepted))
}

pub(super) fn unknown_choice(text: &str, accepted: &[&str]) -> Fault {
    let list = accepted.join(", ");
    let mend = match nearest(text, accepted) {
        Some(near) if accepted.len() > 1 => format!("did you mean `{near}`? (one of: {list})"),
        Some(near) => format!("did you mean `{near}`?"),
        None if accepted.len() > 1 => format!("use one of: {list}"),
        None => format!("use `{list}`"),
    };
    fault(format!("unknown value {}", shown(text)), mend)
}

/// The candidate that is spelled most alike, if any is near enough to have been meant.
pub(super) fn nearest<'c>(text: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let text: String = text.chars().take(limits::MAX_NAME_CHARS).collect::<String>().to_lowercase();
    let allowed = (text.chars().count() / 3).max(1);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&text, candidate);
    candidates.iter().map(|c| (distance(c), *c)).filter(|(d, _)| *d <= allowed).min().map(|(_, c)| c)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::config::Scheduler;

    /// One row: the text, and the value as debug text or the mend that is expected.
    pub(in super::super) fn check<T: std::fmt::Debug>(
        parse: impl Fn(&str) -> Parsed<T>,
        rows: &[(&str, Result<&str, &str>)],
    ) {
        for (text, expected) in rows {
            match (parse(text), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(&format!("{value:?}"), expected, "{text:?}"),
                (Err(fault), Err(mend)) => assert!(fault.mend.contains(mend), "{text:?}: {fault:?}"),
                (got, _) => panic!("{text:?}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn ports_and_numbers() {
        let range = Err("use 1 to 65535");
        let rows =
            ["0", "65536", "-1", "0x50", "8_080", "0080", "+80", "80.0", "", "-", "99999999999999999999", "eighty"];
        check(port, &[("80", Ok("80")), ("65535", Ok("65535"))]);
        check(port, &rows.map(|text| (text, range)));
        assert_eq!(port("70000").expect_err("range").message, "70000 is out of range");
    }

    #[test]
    fn sizes() {
        check(
            flow_table,
            &[
                ("1Mi", Ok("1048576")),
                ("64Ki", Ok("65536")),
                ("1024", Ok("1024")),
                ("64Mi", Ok("67108864")),
                ("65Ki", Err("use 64Ki or 128Ki")),
                ("3000", Err("use 2Ki or 4Ki")),
                ("1M", Err("did you mean `1Mi`?")),
                ("64kB", Err("did you mean `64Ki`?")),
                ("512", Err("1Ki to 64Mi")),
                ("1Gi", Err("1Ki to 64Mi")),
                ("18446744073709551615Gi", Err("1Ki to 64Mi")),
                ("99999999999999999999999", Err("1Ki to 64Mi")),
                ("Mi", Err("1Ki to 64Mi")),
                ("-1Mi", Err("1Ki to 64Mi")),
                ("", Err("1Ki to 64Mi")),
            ],
        );
    }

    #[test]
    fn durations() {
        check(
            |text| duration(text, &limits::HEALTH_INTERVAL),
            &[
                ("250ms", Ok("250ms")),
                ("5s", Ok("5s")),
                ("1m", Ok("60s")),
                ("1h", Ok("3600s")),
                ("5", Err("write `5s` or `5ms`")),
                ("1.5s", Err("a whole number and ms, s, m or h")),
                ("5 s", Err("a whole number")),
                ("s", Err("use 50ms to 1h")),
                ("49ms", Err("use 50ms to 1h")),
                ("2h", Err("use 50ms to 1h")),
                ("99999999999999999999s", Err("use 50ms to 1h")),
                ("18446744073709551615h", Err("use 50ms to 1h")),
            ],
        );
    }

    #[test]
    fn percentages() {
        let range = Err("0% to 100%");
        check(percent, &[("0%", Ok("0")), ("100%", Ok("100")), ("50", Err("did you mean `50%`?"))]);
        check(percent, &["101%", "-1%", "%", "50 %", "5.5%", "0.5", "300", "half"].map(|text| (text, range)));
    }

    #[test]
    fn addresses() {
        check(
            address,
            &[
                ("192.0.2.10", Ok("192.0.2.10")),
                ("2001:db8::10", Ok("2001:db8::10")),
                ("192.0.2.10:80", Err("write `192.0.2.10`, the port")),
                ("[2001:db8::1]:80", Err("write `2001:db8::1`, the port")),
                ("[2001:db8::1]", Err("without brackets: `2001:db8::1`")),
                ("192.0.2.0/24", Err("a single address: `192.0.2.0`")),
                ("fe80::1%eth0", Err("a single address: `fe80::1`")),
                ("010.0.0.1", Err("names are not looked up")),
                ("example.org", Err("names are not looked up")),
                ("0.0.0.0", Err("address of one host")),
                ("::", Err("address of one host")),
                ("224.0.0.1", Err("unicast")),
                ("ff02::1", Err("unicast")),
                ("255.255.255.255", Err("unicast")),
                ("127.0.0.1", Err("other hosts can reach")),
                ("::1", Err("other hosts can reach")),
                ("::ffff:10.0.0.1", Err("write `10.0.0.1`")),
            ],
        );
    }

    #[test]
    fn socket_addresses() {
        check(
            socket_address,
            &[
                ("127.0.0.1:9900", Ok("127.0.0.1:9900")),
                ("[::1]:9900", Ok("[::1]:9900")),
                ("localhost:8080", Err("such as `127.0.0.1:8080`")),
                ("127.0.0.1", Err("such as `127.0.0.1:9900`")),
                ("127.0.0.1:0", Err("such as `127.0.0.1:9900`")),
            ],
        );
    }

    #[test]
    fn near_misses_of_choices_are_suggested() {
        check(
            |text| choice::<Scheduler>(text, Scheduler::NAMES),
            &[
                ("random", Ok("Random")),
                ("consistant", Err("did you mean `consistent`? (one of: consistent, round-robin")),
                ("roundrobin", Err("did you mean `round-robin`?")),
                ("Random", Err("did you mean `random`?")),
                ("maglev", Err("use one of: consistent, round-robin, random, least-connections")),
            ],
        );
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(ms in 0u64..100_000_000) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration(&duration_text(value), &(Duration::ZERO..=Duration::MAX)), Ok(value));
        }

        #[test]
        fn whatever_is_accepted_as_an_address_is_one_that_packets_can_be_sent_to(text in "[0-9a-f:.%/\\[\\]]{0,24}") {
            if let Ok(address) = address(&text) {
                prop_assert!(!address.is_unspecified() && !address.is_multicast() && !address.is_loopback());
            }
        }

        #[test]
        fn accepted_sizes_are_powers_of_two_in_range(text in "[0-9]{1,12}(Ki|Mi|Gi|K|)") {
            if let Ok(entries) = flow_table(&text) {
                prop_assert!(entries.is_power_of_two() && limits::FLOW_TABLE_ENTRIES.contains(&u64::from(entries)));
            }
        }
    }
}
