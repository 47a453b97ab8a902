//! What the format knows and this version cannot do yet. Each line is a refusal, so that nobody believes a
//! setting to be in force that is not; whoever builds a feature deletes its line here.

use std::net::SocketAddr;
use std::time::Duration;

use super::report::{Fault, fault, shown};
use super::values::duration_text;

/// Key, values refused, what to use instead.
const VALUES: &[(&str, &[&str], &str)] = &[
    (
        "policy",
        &[
            "latency-weighted",
            "least-connections",
            "p2c",
            "peak-ewma",
            "q-learning",
            "q-learning-classic",
            "predictive",
            "auto",
        ],
        "use `static`",
    ),
    ("kind", &["https", "icmp"], "use `http`, `tcp`, `udp` or `none`"),
];

/// Keys whose mere presence with a value other than `null` is refused.
const SETTINGS: &[(&str, &str)] = &[
    ("tokens_file", "remove it: the admin socket is protected by its file mode"),
    ("allow", "remove it, and filter upstream of this host"),
    ("deny", "remove it, and filter upstream of this host"),
    ("new_flows_per_second", "remove it"),
    ("per_source_per_second", "remove it"),
    ("flows", "remove it"),
    ("max_flows", "remove it"),
];

fn refusal(what: &str, mend: &str) -> Fault {
    fault(format!("{what} is not supported by this version"), mend)
}

/// The refusal of one value of a choice.
pub(super) fn value(key: &str, text: &str) -> Option<Fault> {
    let (_, _, mend) = VALUES.iter().find(|(k, refused, _)| *k == key && refused.contains(&text))?;
    Some(refusal(&shown(text), mend))
}

/// Spellings of a choice that are known but refused, for keys whose type does not name them yet.
pub(super) fn refused_values(key: &str) -> &'static [&'static str] {
    VALUES.iter().find(|(k, ..)| *k == key).map_or(&[], |(_, refused, _)| refused)
}

/// The refusal of a whole setting.
pub(super) fn setting(key: &str) -> Option<Fault> {
    let (_, mend) = SETTINGS.iter().find(|(k, _)| *k == key)?;
    Some(refusal(&format!("`{key}`"), mend))
}

/// `policy: { kind: .., shadow: true }`.
pub(super) fn policy_settings() -> Fault {
    refusal("a policy with settings", "use `policy: static`")
}

pub(super) fn slow_start(value: Duration) -> Option<Fault> {
    (!value.is_zero())
        .then(|| refusal(&format!("slow start (`{}`)", duration_text(value)), "use `0s`, which means off"))
}

/// Reading is open to whoever reaches the socket, and there is neither TLS nor a token yet.
pub(super) fn listen(address: SocketAddr) -> Option<Fault> {
    (!address.ip().is_loopback()).then(|| {
        let mend = format!("use a loopback address, such as `127.0.0.1:{}`", address.port());
        refusal(&format!("listening on `{address}`"), &mend)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Affinity, Forward, HealthKind, Hook, Scheduler, Tracking};

    #[test]
    fn every_refused_value_is_one_that_the_format_knows() {
        for (key, refused, mend) in VALUES {
            let known: &[&str] = match *key {
                "hook" => Hook::NAMES,
                "forward" => Forward::NAMES,
                "scheduler" => Scheduler::NAMES,
                "affinity" => Affinity::NAMES,
                "tracking" => Tracking::NAMES,
                "kind" => HealthKind::NAMES,
                "policy" => continue,
                other => panic!("`{other}` is not a choice"),
            };
            assert!(refused.iter().all(|value| known.contains(value)), "{key}: {refused:?}");
            assert!(
                known.iter().any(|value| mend.contains(&format!("`{value}`")) && !refused.contains(value)),
                "{key}"
            );
        }
    }
}
