//! From facts to findings: a pure function, one small judgement per check. The checks of an interface are in
//! [`interface`]; here are those of the host and of what the configuration wants to reach.

mod interface;
mod ports;

use std::path::Path;

use super::facts::{Backend, Facts, Vip, VipPlace};
use super::{Finding, Severity};
use crate::os::host::OLDEST_KERNEL;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        capabilities(facts),
        kernel(facts),
        btf(facts),
        jit(facts),
        unprivileged_bpf(facts),
        bpffs(facts),
        cpus(facts),
    ];
    if facts.interfaces.is_empty() {
        let message = "no Ethernet interface is up in this network namespace";
        findings.push(problem("interface", "host", message, Some("ip -brief link".into())));
    }
    for (examined, choice) in facts.interfaces.iter().zip(interface::places(facts)) {
        findings.extend(interface::judge(facts, examined, &choice));
    }
    findings.extend(facts.lent.as_ref().map(ports::judge));
    findings.extend(facts.vips.iter().map(vip));
    for examined in &facts.backends {
        findings.extend(backend(facts, examined));
    }
    findings
}

fn finding(check: &'static str, subject: &str, severity: Severity, message: &str, mend: Option<String>) -> Finding {
    Finding { check, subject: subject.to_owned(), severity, message: message.to_owned(), mend }
}

fn ok(check: &'static str, subject: &str, message: &str) -> Finding {
    finding(check, subject, Severity::Ok, message, None)
}

fn warning(check: &'static str, subject: &str, message: &str, mend: Option<String>) -> Finding {
    finding(check, subject, Severity::Warning, message, mend)
}

fn problem(check: &'static str, subject: &str, message: &str, mend: Option<String>) -> Finding {
    finding(check, subject, Severity::Problem, message, mend)
}

/// A fact that could not be seen.
fn unseen(check: &'static str, subject: &str, reason: &str) -> Finding {
    warning(check, subject, &format!("not seen: {reason}"), None)
}

fn capabilities(facts: &Facts) -> Finding {
    const CHECK: &str = "capabilities";
    match &facts.capabilities {
        Err(reason) => unseen(CHECK, "host", reason),
        Ok(capabilities) => match capabilities.missing().as_slice() {
            [] => ok(CHECK, "host", "programs can be loaded and attached"),
            missing => problem(
                CHECK,
                "host",
                &format!("not permitted to load and attach programs: {} missing", missing.join(", ")),
                Some(format!("setcap cap_bpf,cap_net_admin,cap_perfmon+ep {}", facts.executable.display())),
            ),
        },
    }
}

fn kernel(facts: &Facts) -> Finding {
    const CHECK: &str = "kernel";
    match facts.kernel {
        None => unseen(CHECK, "host", "`uname -r` does not start with a version"),
        Some(version) if version < OLDEST_KERNEL => problem(
            CHECK,
            "host",
            &format!(
                "Linux {version} is too old: XDP programs for frames above one page need 5.18, and {OLDEST_KERNEL} is \
                 the first long-term kernel with them"
            ),
            Some("apt-get install linux-image-amd64".into()),
        ),
        Some(version) => ok(CHECK, "host", &format!("Linux {version}")),
    }
}

fn btf(facts: &Facts) -> Finding {
    const CHECK: &str = "btf";
    if facts.btf {
        ok(CHECK, "host", "the kernel describes its types")
    } else {
        let message =
            "the kernel has no type information (CONFIG_DEBUG_INFO_BTF): verifier logs and map dumps are bare";
        warning(CHECK, "host", message, None)
    }
}

fn jit(facts: &Facts) -> Finding {
    const CHECK: &str = "bpf-jit";
    match &facts.jit {
        Ok(0) => problem(
            CHECK,
            "host",
            "the BPF compiler is off: programs are interpreted, several times slower",
            Some("sysctl -w net.core.bpf_jit_enable=1".into()),
        ),
        Ok(_) => ok(CHECK, "host", "programs are compiled"),
        // The switch is shown in the first network namespace, and to root, only.
        Err(reason) => ok(CHECK, "host", &format!("not seen from here: {reason}")),
    }
}

fn unprivileged_bpf(facts: &Facts) -> Finding {
    const CHECK: &str = "unprivileged-bpf";
    match &facts.unprivileged_bpf_disabled {
        Ok(0) => warning(
            CHECK,
            "host",
            "any user may load BPF programs; the balancer does not need that",
            Some("sysctl -w kernel.unprivileged_bpf_disabled=2".into()),
        ),
        Ok(_) => ok(CHECK, "host", "only privileged users load BPF programs"),
        Err(reason) => unseen(CHECK, "host", reason),
    }
}

fn bpffs(facts: &Facts) -> Finding {
    const CHECK: &str = "bpffs";
    let pin_dir = &facts.wanted.pin_dir;
    let shown = pin_dir.display().to_string();
    match facts.on_bpffs {
        Err(ref reason) => unseen(CHECK, &shown, reason),
        Ok(true) => ok(CHECK, &shown, "on a BPF file system: programs outlive the agent"),
        Ok(false) => {
            let standard = Path::new("/sys/fs/bpf");
            // /sys/fs/bpf is made by the kernel; any other place has to be made first.
            let mend = if pin_dir.starts_with(standard) {
                format!("mount -t bpf bpf {}", standard.display())
            } else {
                let place = pin_dir.parent().filter(|parent| parent.parent().is_some()).unwrap_or(pin_dir).display();
                format!("mkdir -p {place} && mount -t bpf bpf {place}")
            };
            problem(CHECK, &shown, "no BPF file system here: programs and maps cannot be pinned", Some(mend))
        }
    }
}

fn cpus(facts: &Facts) -> Finding {
    const CHECK: &str = "cpus";
    match &facts.cpus {
        Err(reason) => unseen(CHECK, "host", reason),
        Ok(cpus) => ok(CHECK, "host", &format!("{} online, {} possible", cpus.online, cpus.possible)),
    }
}

fn vip(vip: &Vip) -> Finding {
    const CHECK: &str = "vip";
    let subject = format!("{} {}", vip.service, vip.address);
    match &vip.place {
        Err(reason) => unseen(CHECK, &subject, reason),
        Ok(VipPlace::Local) => ok(CHECK, &subject, "an address of this host"),
        Ok(VipPlace::Routed) => {
            ok(CHECK, &subject, "no address of this host: whoever sends to it needs a route over this host")
        }
        Ok(VipPlace::OnLink { interface }) => warning(
            CHECK,
            &subject,
            &format!(
                "in the network of {interface}, but no address of this host: nobody answers when a neighbour asks for \
                 its MAC"
            ),
            Some(format!(
                "ip addr add {}/{} dev {interface}",
                vip.address,
                if vip.address.is_ipv4() { 32 } else { 128 }
            )),
        ),
    }
}

fn backend(facts: &Facts, backend: &Backend) -> Vec<Finding> {
    const CHECK: &str = "backend-neighbour";
    let next_hop = match &backend.next_hop {
        Err(reason) => return vec![problem(CHECK, &backend.name, reason, None)],
        Ok(next_hop) => next_hop,
    };
    let interface = backend.interface.as_deref().unwrap_or("an interface that is gone");
    let mac = next_hop.destination_mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut findings = vec![ok(CHECK, &backend.name, &format!("reached at {mac} over {interface}"))];
    if backend.forward.answers_pass() && facts.interfaces.iter().all(|examined| examined.name != interface) {
        // A bridge or bond hands the program's verdict on to its ports, so this may be meant.
        findings.push(warning(
            "backend-interface",
            &backend.name,
            &format!(
                "its answers arrive on {interface}, which is not among `interfaces`: they are not rewritten back to the \
                 VIP unless they pass another interface that is"
            ),
            None,
        ));
    }
    findings
}

#[cfg(test)]
pub(super) mod tests;
