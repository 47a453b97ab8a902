//! The lab itself, without a balancer: plain kernel forwarding straight to a backend. What fails here is no fault
//! of the balancer, and what the other tests rely on is shown to work.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::model::config::Hook;
use lb_agent::os::ethtool::{self, Offloads as Switches};
use lb_tests::connections::{Arrivals, LongLived};
use lb_tests::hostile::Assault;
use lb_tests::lab::address::Family;
use lb_tests::lab::{FAR_END, Lab, Offloads, Options, netlink, with_lab, xdp};
use lb_tests::programs::HTTP_PORT;
use lb_tests::wait::wait_until;
use lb_tests::{clients, programs, serial};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn offloads(lab: &Lab) -> Result<Switches> {
    Ok(lab.backends[0].namespace.enter(|| ethtool::offloads(FAR_END))?)
}

#[test]
fn bytes_go_to_every_backend_and_back() {
    with_lab(Options::default(), |lab| {
        for family in Family::ALL {
            for backend in &lab.backends {
                let target = SocketAddr::new(backend.address(family), 7);
                let server = backend.namespace.tokio_thread(move || async move {
                    let listener = TcpListener::bind(target).await?;
                    let datagrams = UdpSocket::bind(target).await?;
                    let (mut stream, _) = listener.accept().await?;
                    let mut buffer = [0; 4];
                    stream.read_exact(&mut buffer).await?;
                    stream.write_all(&buffer).await?;
                    let (length, from) = datagrams.recv_from(&mut buffer).await?;
                    datagrams.send_to(&buffer[..length], from).await
                });
                wait_until("the echo server listens", Duration::from_secs(5), || backend.namespace.listens(7))?;
                lab.client.tokio(|| async {
                    tokio::time::timeout(Duration::from_secs(10), echo(target, family)).await.context("no echo")?
                })?;
                server.join().expect("the server does not panic")?;
            }
        }
        Ok(())
    });
}

async fn echo(target: SocketAddr, family: Family) -> Result<()> {
    let mut buffer = [0; 4];
    let mut stream = TcpStream::connect(target).await.context("connecting")?;
    stream.write_all(b"ping").await?;
    stream.read_exact(&mut buffer).await?;
    ensure!(&buffer == b"ping", "TCP brought back {buffer:?}");
    let socket = UdpSocket::bind(SocketAddr::new(family.client(), 0)).await?;
    socket.send_to(b"pong", target).await?;
    let (_, from) = socket.recv_from(&mut buffer).await?;
    ensure!(&buffer == b"pong" && from == target, "UDP brought back {buffer:?} from {from}");
    Ok(())
}

#[test]
fn real_programs_work_without_a_balancer() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let _servers = [
            programs::nginx(lab, backend)?,
            programs::iperf3(backend)?,
            programs::dnsmasq(backend)?,
            programs::redis(lab, backend)?,
        ];
        for family in Family::ALL {
            let target = backend.address(family);
            ensure!(clients::curl(&lab.client, target, 30)? == [("b1".to_owned(), 30)].into());
            clients::curl_bulk(&lab.client, target)?;
            let requests = clients::wrk(&lab.client, target)?;
            let bits = clients::iperf3(&lab.client, target)?;
            ensure!(clients::dig(&lab.client, target, 30)? == [("b1".to_owned(), 30)].into());
            let redis = clients::redis_benchmark(&lab.client, target)?;
            println!("{family:?}: wrk {requests} requests, iperf3 {bits:.3e} bit/s, redis {redis:?}");
        }
        Ok(())
    });
}

#[test]
fn load_sees_a_server_die_and_nothing_else() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let server = programs::nginx(lab, backend)?;
        let target = clients::http(backend.address(Family::V4));
        let long_lived = LongLived::open(&lab.client, target, 50)?;
        let arrivals = Arrivals::start(&lab.client, target, 100);
        long_lived.wait_for_more(200)?;
        arrivals.wait_for_more(100)?;
        long_lived.report().unbroken("requests")?;
        arrivals.report().unbroken("new connections")?;

        server.kill();
        wait_until("every open connection has noticed", Duration::from_secs(20), || {
            let broken = long_lived.report().failures.len();
            if broken < 50 { bail!("{broken} have") } else { Ok(()) }
        })?;
        wait_until("new connections are refused", Duration::from_secs(20), || {
            let report = arrivals.report();
            ensure!(report.failures.iter().any(|failure| failure.reason.contains("refused")), "none is");
            Ok(())
        })?;

        let _server = programs::nginx(lab, backend)?;
        let again = std::time::Instant::now();
        arrivals.wait_for_more(50)?;
        arrivals.stop().unbroken_since("new connections", Some(again))
    });
}

#[test]
fn offloads_are_fit_for_xdp_or_left_alone() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let fit = Switches { tx_checksum: false, tso: false, gso: false, gro: true };
        ensure!(offloads(lab)? == fit, "the lab has not set them");
        Ok(())
    });
    let defaults =
        Options { backends: 1, offloads: Offloads::KernelDefault, far_end_programs: false, ..Options::default() };
    with_lab(defaults, |lab| {
        let found = offloads(lab)?;
        ensure!(found.tx_checksum && found.tso && found.gso, "a veth starts with its offloads on");
        Ok(())
    });
}

#[test]
fn far_ends_have_a_program_and_the_balancer_has_none() {
    with_lab(Options::default(), |lab| {
        let id = lab.client.tokio(|| async { xdp::program_id(&netlink::connect()?, FAR_END).await })?;
        ensure!(id.is_some(), "the client's device has no program");
        let watch = xdp::Watch::start(&lab.balancer, &lab.devices(), Hook::Xdp);
        std::thread::sleep(Duration::from_millis(100));
        for seen in watch.stop()? {
            ensure!(seen.programs == [None] && seen.polls >= 2, "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn the_vip_is_the_balancers_only_when_asked_for() {
    for vip_on_balancer in [false, true] {
        with_lab(Options { backends: 1, vip_on_balancer, ..Options::default() }, |lab| {
            for family in Family::ALL {
                let vip = SocketAddr::new(family.vip(), 7);
                let bound = lab.balancer.enter(|| std::net::TcpListener::bind(vip));
                ensure!(bound.is_ok() == vip_on_balancer, "binding {vip}: {bound:?}");
            }
            Ok(())
        });
    }
}

#[test]
fn a_panic_leaves_nothing_behind() {
    if let Some(reason) = serial::why_not() {
        println!("skipped: {reason}");
        return;
    }
    let _serial = serial::acquire().expect("waiting for other labs");
    let before = traces();
    let result = std::panic::catch_unwind(|| {
        let lab = Lab::build(Options { backends: 2, ..Options::default() }).expect("building the lab");
        // Not even a process that nobody looks after any more.
        let mut sleep = Command::new("sleep");
        sleep.arg("300");
        std::mem::forget(lab.backends[0].namespace.spawn(sleep).expect("starting sleep"));
        std::mem::forget(programs::nginx(&lab, &lab.backends[1]).expect("starting nginx"));
        panic!("on purpose");
    });
    assert!(result.is_err());
    assert_eq!(traces(), before);
    assert_eq!(processes_of(std::process::id()).expect("reading /proc"), Vec::<String>::new());
}

/// The VIPs are the first backend's, and the balancer's kernel routes them there: what a client then sees is what
/// the hosts do by themselves.
fn route_vips_to_the_first_backend(lab: &Lab) -> Result<()> {
    let backend = &lab.backends[0];
    for family in Family::ALL {
        let (vip, prefix) = (family.vip(), family.host_prefix_length());
        backend.namespace.tokio(|| async { netlink::add_address(&netlink::connect()?, "lo", vip, prefix).await })?;
        let gateway = backend.address(family);
        lab.balancer.tokio(|| async { netlink::add_host_route(&netlink::connect()?, vip, gateway).await })?;
    }
    Ok(())
}

#[test]
fn hosts_without_a_balancer_survive_hostile_frames() {
    with_lab(Options { backends: 2, ..Options::default() }, |lab| {
        route_vips_to_the_first_backend(lab)?;
        let _server = programs::nginx(lab, &lab.backends[0])?;
        let open = |family: Family| LongLived::open(&lab.client, clients::http(family.vip()), 50);
        let connections = Family::ALL.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let ports =
            |(family, one): (Family, &LongLived)| one.report().ports.into_iter().map(move |port| (family, port));
        let live: Vec<_> = Family::ALL.into_iter().zip(&connections).flat_map(ports).collect();
        ensure!(live.len() == 100, "{live:?}");
        let took = Assault { seed: 1, syns: 30_000, mutants: 30_000 }.run(lab, live)?;
        println!("60,000 frames took {took:?}");
        for one in connections {
            one.wait_for_more(500)?;
            one.close().unbroken("live connections")?;
        }
        Ok(())
    });
}

#[test]
fn a_host_that_changes_its_hardware_address_is_found_again() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let _server = programs::nginx(lab, backend)?;
        for family in Family::ALL {
            let target = clients::http(backend.address(family));
            let connections = LongLived::open(&lab.client, target, 10)?;
            let mac = [2, 0, 0, 0, 0x77, family.prefix_length()];
            backend.namespace.tokio(|| async { netlink::set_mac(&netlink::connect()?, FAR_END, mac).await })?;
            connections.wait_for_more(50)?;
            connections.close().unbroken("live connections")?;
        }
        Ok(())
    });
}

/// Names and directories of this process's labs.
fn traces() -> BTreeSet<String> {
    let prefix = format!("lb-{}-", std::process::id());
    let names = ["/run/netns", "/tmp", "/sys/fs/bpf"].into_iter().filter_map(|place| std::fs::read_dir(place).ok());
    let names = names.flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Not a test of its own: [`what_a_killed_lab_leaves_is_swept`] runs it in a process that it kills.
#[test]
#[ignore = "waits to be killed; run by what_a_killed_lab_leaves_is_swept"]
fn a_lab_that_waits_to_be_killed() {
    let lab = Lab::build(Options { backends: 1, ..Options::default() }).expect("building the lab");
    let _server = programs::nginx(&lab, &lab.backends[0]).expect("starting nginx");
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn what_a_killed_lab_leaves_is_swept() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "--ignored", "--nocapture", "a_lab_that_waits_to_be_killed"]);
        let victim = lab.client.spawn(command)?;
        let backend = format!("/run/netns/lb-{}-b1", victim.pid());
        wait_until("the other lab is ready", Duration::from_secs(30), || {
            ensure!(victim.output().contains("ready"), "{}", victim.output());
            Ok(())
        })?;
        ensure!(Lab::sweep_leftovers()?.is_empty(), "a living lab was swept");
        let pid = victim.pid();
        victim.kill();
        let swept = Lab::sweep_leftovers()?;
        ensure!(swept.iter().any(|path| path.to_str() == Some(&backend)), "{backend} is not among {swept:?}");
        wait_until("its server is gone", Duration::from_secs(10), || {
            let left = processes_of(pid)?;
            if left.is_empty() { Ok(()) } else { bail!("{left:?} are left") }
        })?;
        ensure!(lab.client.run(Command::new("true"))?.status.success(), "this lab was swept too");
        Ok(())
    });
}

/// Command lines that mention the scratch directory of a process's labs.
fn processes_of(pid: u32) -> Result<Vec<String>> {
    let needle = format!("/tmp/lb-{pid}-");
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    Ok(lines.filter(|line| line.contains(&needle)).collect())
}

#[test]
fn a_server_that_does_not_start_is_an_error_with_its_words() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let taken = backend.namespace.enter(|| std::net::UdpSocket::bind("0.0.0.0:53"))?;
        let error = programs::dnsmasq(backend).expect_err("the port is taken");
        drop(taken);
        ensure!(format!("{error:#}").contains("port 53"), "{error:#}");
        let nginx = programs::nginx(lab, backend)?;
        ensure!(backend.namespace.listens(HTTP_PORT).is_ok() && nginx.is_running());
        Ok(())
    });
}
