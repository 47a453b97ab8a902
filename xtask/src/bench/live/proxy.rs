//! The programs to compare with, each with the configuration that its own manual would give, raised only where a limit
//! would be hit: nobody is tuned.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use lb_tests::lab::Lab;
use lb_tests::lab::address::Family;
use lb_tests::lab::process::{Finished, Running};

use super::services::{HTTP, Pool};

/// Connections that a program must be able to hold.
const CONNECTIONS: u32 = 8000;
/// Where distributions put nginx's modules.
const MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];

pub(super) fn load_nftables(lab: &Lab, pools: &[Pool]) -> Result<()> {
    let file = write(lab, "nftables.conf", &nftables_rules(pools))?;
    let mut command = Command::new("nft");
    command.arg("-f").arg(file);
    lab.balancer.run(command).and_then(Finished::success).context("loading the rules")?;
    Ok(())
}

fn nftables_rules(pools: &[Pool]) -> String {
    let vip = Family::V4.vip();
    let mut text = "table ip balance {\n  chain balance {\n    type nat hook prerouting priority dstnat;\n".to_owned();
    for Pool { service, backends } in pools {
        let protocol = if service.udp { "udp" } else { "tcp" };
        let to = match &backends[..] {
            [only] => only.to_string(),
            several => {
                let entries: Vec<_> = several.iter().enumerate().map(|(key, one)| format!("{key} : {one}")).collect();
                format!("numgen inc mod {} map {{ {} }}", several.len(), entries.join(", "))
            }
        };
        let _ = writeln!(text, "    ip daddr {vip} {protocol} dport {} dnat to {to}", service.port);
    }
    text + "  }\n}\n"
}

pub(super) fn haproxy(lab: &Lab, pools: &[Pool]) -> Result<Running> {
    let file = write(lab, "haproxy.cfg", &haproxy_config(pools))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    lab.balancer.spawn(command)
}

fn haproxy_config(pools: &[Pool]) -> String {
    let vip = Family::V4.vip();
    let mut text = format!(
        "global
  maxconn {CONNECTIONS}
defaults
  mode tcp
  timeout connect 3s
  timeout client 60s
  timeout server 60s
"
    );
    for Pool { service, backends } in pools.iter().filter(|pool| !pool.service.udp) {
        let check = if *service == HTTP { " check inter 1s" } else { "" };
        let _ = writeln!(text, "listen {}\n  bind {vip}:{}\n  balance roundrobin", service.name, service.port);
        for (number, address) in backends.iter().enumerate() {
            let _ = writeln!(text, "  server b{} {address}:{}{check}", number + 1, service.port);
        }
    }
    text
}

pub(super) fn stream_module() -> Option<PathBuf> {
    MODULES.iter().map(|place| Path::new(place).join("ngx_stream_module.so")).find(|path| path.is_file())
}

pub(super) fn nginx_stream(lab: &Lab, pools: &[Pool]) -> Result<Running> {
    let module = stream_module().context("nginx has no stream module here")?;
    let file = write(lab, "nginx-stream.conf", &nginx_config(&module, lab.dir(), pools))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(lab.dir()).arg("-c").arg(file).arg("-e").arg("stderr");
    lab.balancer.spawn(command)
}

fn nginx_config(module: &Path, dir: &Path, pools: &[Pool]) -> String {
    let vip = Family::V4.vip();
    let mut text = format!(
        "load_module {};
daemon off;
worker_processes auto;
worker_rlimit_nofile {};
user root;
pid {}/nginx-stream.pid;
error_log stderr error;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
",
        module.display(),
        2 * CONNECTIONS,
        dir.display()
    );
    for Pool { service, backends } in pools {
        let servers: Vec<_> = backends.iter().map(|address| format!("server {address}:{};", service.port)).collect();
        let udp = if service.udp { " udp reuseport" } else { "" };
        let _ = writeln!(
            text,
            "  upstream {name} {{ {} }}\n  server {{ listen {vip}:{}{udp}; proxy_pass {name}; }}",
            servers.join(" "),
            service.port,
            name = service.name,
        );
    }
    text + "}\n"
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::services::{BULK, DATAGRAMS};
    use super::*;

    fn pools() -> Vec<Pool> {
        let backends = |count: u16| (1..=count).map(|number| Family::V4.backend(number)).collect();
        vec![
            Pool { service: HTTP, backends: backends(2) },
            Pool { service: BULK, backends: backends(1) },
            Pool { service: DATAGRAMS, backends: backends(2) },
        ]
    }

    #[test]
    fn rules_of_nftables() {
        let expected = "table ip balance {
  chain balance {
    type nat hook prerouting priority dstnat;
    ip daddr 10.77.0.100 tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.77.11.2, 1 : 10.77.12.2 }
    ip daddr 10.77.0.100 tcp dport 5201 dnat to 10.77.11.2
    ip daddr 10.77.0.100 udp dport 9000 dnat to numgen inc mod 2 map { 0 : 10.77.11.2, 1 : 10.77.12.2 }
  }
}
";
        assert_eq!(nftables_rules(&pools()), expected);
    }

    #[test]
    fn haproxy_takes_tcp_and_checks_what_is_balanced() {
        let text = haproxy_config(&pools());
        let expected = "listen web
  bind 10.77.0.100:80
  balance roundrobin
  server b1 10.77.11.2:80 check inter 1s
  server b2 10.77.12.2:80 check inter 1s
listen bulk
  bind 10.77.0.100:5201
  balance roundrobin
  server b1 10.77.11.2:5201
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn nginx_takes_both_protocols() {
        let text = nginx_config(Path::new("/m.so"), Path::new("/d"), &pools());
        assert!(text.starts_with("load_module /m.so;\n"), "{text}");
        let datagrams = "  upstream datagrams { server 10.77.11.2:9000; server 10.77.12.2:9000; }
  server { listen 10.77.0.100:9000 udp reuseport; proxy_pass datagrams; }
}
";
        assert!(text.ends_with(datagrams), "{text}");
    }
}
