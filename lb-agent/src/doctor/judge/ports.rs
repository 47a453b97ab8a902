//! Source ports that flows are lent (`snat`), against those that the host takes for connections of its own.

use super::super::Finding;
use super::super::facts::Lent;
use super::{ok, unseen, warning};

pub(super) fn judge(lent: &Lent) -> Finding {
    const CHECK: &str = "snat-ports";
    let ports = lent.ports;
    let own = match &lent.own {
        Ok(own) => own,
        Err(reason) => return unseen(CHECK, "host", reason),
    };
    let both = ports.first.max(own.first)..=ports.last.min(own.last);
    let free = both.clone().all(|port| own.reserved.iter().any(|reserved| reserved.contains(&port)));
    if free {
        return ok(CHECK, "host", &format!("{ports} are not used by connections of this host"));
    }
    warning(
        CHECK,
        "host",
        &format!(
            "connections of this host, probes among them, use the ports {}-{} too: answers to those from backends may be \
             taken for others",
            both.start(),
            both.end()
        ),
        Some(format!("sysctl -w net.ipv4.ip_local_reserved_ports={ports}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::model::config::Ports;
    use crate::os::sysctl::OwnPorts;

    fn check(ports: (u16, u16), reserved: &[(u16, u16)], expected: Severity, words: &str) {
        let reserved = reserved.iter().map(|(first, last)| *first..=*last).collect();
        let own = Ok(OwnPorts { first: 32_768, last: 60_999, reserved });
        let found = judge(&Lent { ports: Ports { first: ports.0, last: ports.1 }, own });
        assert!(found.severity == expected && found.message.contains(words), "{found:?}");
    }

    #[test]
    fn ports_that_both_use_are_told() {
        check((16_384, 32_767), &[], Severity::Ok, "16384-32767");
        check((61_000, 65_535), &[], Severity::Ok, "");
        check((30_000, 40_000), &[], Severity::Warning, "32768-40000");
        check((30_000, 40_000), &[(30_000, 39_999)], Severity::Warning, "32768-40000");
        check((30_000, 40_000), &[(32_000, 35_000), (35_001, 50_000)], Severity::Ok, "");
    }
}
