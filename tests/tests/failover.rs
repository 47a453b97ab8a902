//! Backends that die, hang, move or are taken out by hand: new requests stop going there within the documented
//! time, nothing else is disturbed, and what comes back gets its share again.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::{Arrivals, LongLived};
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Running;
use lb_tests::lab::{FAR_END, Lab, Options, netlink, with_lab};
use lb_tests::programs;
use lb_tests::wait::wait_until;
use nix::sys::signal::Signal;

const UP_LIMIT: Duration = Duration::from_secs(20);
/// For looking, and for a machine that does something else too.
const SLACK: Duration = Duration::from_secs(1);
/// Enough that one of three equal backends is missed by chance once in 10^10 runs.
const SPREAD_SAMPLE: u32 = 60;

struct Scene<'lab> {
    lab: &'lab Lab,
    agent: Agent<'lab>,
    servers: Vec<Option<Running>>,
}

impl<'lab> Scene<'lab> {
    fn set(lab: &'lab Lab) -> Result<Self> {
        let servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend).map(Some));
        let servers = servers.collect::<Result<_>>()?;
        let agent = Agent::start(lab, Config::for_lab(lab, vec![Service::web(lab), Service::web6(lab)]))?;
        agent.wait_all_up(UP_LIMIT)?;
        Ok(Self { lab, agent, servers })
    }

    fn server(&mut self, number: usize) -> &mut Option<Running> {
        &mut self.servers[number - 1]
    }

    fn start_server(&mut self, number: usize) -> Result<()> {
        let server = programs::nginx(self.lab, &self.lab.backends[number - 1])?;
        *self.server(number) = Some(server);
        Ok(())
    }

    fn kill_server(&mut self, number: usize) -> Result<Instant> {
        self.server(number).take().context("the server runs")?.kill();
        Ok(Instant::now())
    }

    fn detection(&self) -> Duration {
        self.agent.config().services[0].health.detection() + SLACK
    }

    fn recovery(&self) -> Duration {
        self.agent.config().services[0].health.recovery() + SLACK
    }

    fn arrivals(&self) -> Arrivals {
        Arrivals::start(&self.lab.client, clients::http(Family::V4.vip()), 100)
    }

    fn long_lived(&self, count: usize) -> Result<LongLived> {
        LongLived::open(&self.lab.client, clients::http(Family::V4.vip()), count)
    }

    /// Which backends get new connections.
    fn answering(&self) -> Result<BTreeSet<String>> {
        Ok(clients::curl(&self.lab.client, Family::V4.vip(), SPREAD_SAMPLE)?.into_keys().collect())
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.agent.cli(arguments.iter().copied())?.success()?.out)
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_killed_backend_is_out_in_time_and_comes_back() {
    with_lab(Options::default(), |lab| {
        let mut scene = Scene::set(lab)?;
        let (arrivals, long_lived) = (scene.arrivals(), scene.long_lived(60)?);
        arrivals.wait_for_more(100)?;
        arrivals.report().unbroken("connections before the failure")?;

        let killed = scene.kill_server(3)?;
        let out = scene.agent.wait_for_state("web", "b3", "down", scene.detection())?;
        println!("out after {:?}, allowed {:?}", out - killed, scene.detection());
        arrivals.wait_for_more(300)?;
        arrivals.report().unbroken_since("connections after the backend was out", Some(out))?;
        ensure!(scene.answering()? == names(["b1", "b2"]));
        long_lived.report().broken_only_with("b3")?;

        scene.start_server(3)?;
        scene.agent.wait_for_state("web", "b3", "up", scene.recovery())?;
        wait_until("b3 has its share again", SLACK, || {
            ensure!(scene.answering()? == names(["b1", "b2", "b3"]), "it has none");
            Ok(())
        })?;
        arrivals.stop().unbroken_since("connections after the backend was out", Some(out))?;
        long_lived.close().broken_only_with("b3")
    });
}

#[test]
fn a_backend_that_hangs_is_out_in_time() {
    with_lab(Options::default(), |lab| {
        let mut scene = Scene::set(lab)?;
        let arrivals = scene.arrivals();
        arrivals.wait_for_more(100)?;
        // The kernel still accepts connections for it, and nobody answers.
        scene.server(2).as_ref().context("the server runs")?.signal_all(Signal::SIGSTOP)?;
        let out = scene.agent.wait_for_state("web", "b2", "down", scene.detection())?;
        ensure!(scene.answering()? == names(["b1", "b3"]));
        scene.server(2).as_ref().context("the server runs")?.signal_all(Signal::SIGCONT)?;
        scene.agent.wait_for_state("web", "b2", "up", scene.recovery())?;
        arrivals.wait_for_more(100)?;
        arrivals.stop().unbroken_since("connections after the backend was out", Some(out))
    });
}

#[test]
fn all_backends_down_is_said_and_survived() {
    with_lab(Options::default(), |lab| {
        let mut scene = Scene::set(lab)?;
        for number in 1..=3 {
            scene.kill_server(number)?;
        }
        for backend in ["b1", "b2", "b3"] {
            scene.agent.wait_for_state("web", backend, "down", scene.detection())?;
        }
        ensure!(clients::curl(&lab.client, Family::V4.vip(), 1).is_err(), "somebody answers");
        ensure!(scene.agent.is_running(), "the agent has ended");
        for number in 1..=3 {
            scene.start_server(number)?;
        }
        scene.agent.wait_all_up(scene.recovery())?;
        ensure!(scene.answering()? == names(["b1", "b2", "b3"]));
        Ok(())
    });
}

#[test]
fn a_backend_that_changes_its_hardware_address_keeps_its_connections() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let open = |family: Family| LongLived::open(&lab.client, clients::http(family.vip()), 30);
        let connections = Family::ALL.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let arrivals = scene.arrivals();
        let mac = [2, 0, 0, 0, 0x77, 1];
        lab.backends[1].namespace.tokio(|| async { netlink::set_mac(&netlink::connect()?, FAR_END, mac).await })?;
        arrivals.wait_for_more(200)?;
        for one in connections {
            one.wait_for_more(300)?;
            one.close().unbroken("connections of a moved backend")?;
        }
        arrivals.stop().unbroken("new connections")?;
        scene.agent.wait_all_up(UP_LIMIT)?;
        ensure!(scene.answering()? == names(["b1", "b2", "b3"]));
        Ok(())
    });
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let long_lived = scene.long_lived(60)?;
        scene.cli(&["backend", "drain", "web/b1"])?;
        scene.agent.wait_for_state("web", "b1", "draining", SLACK)?;
        ensure!(scene.answering()? == names(["b2", "b3"]));
        let before = long_lived.report().answers["b1"];
        long_lived.wait_for_more(300)?;
        ensure!(long_lived.report().answers["b1"] > before, "its connections are not answered any more");
        scene.cli(&["backend", "undrain", "web/b1"])?;
        scene.agent.wait_for_state("web", "b1", "up", scene.recovery())?;
        ensure!(scene.answering()? == names(["b1", "b2", "b3"]));

        // A time limit undoes itself.
        scene.cli(&["backend", "drain", "web/b1", "--for", "2s"])?;
        scene.agent.wait_for_state("web", "b1", "draining", SLACK)?;
        scene.agent.wait_for_state("web", "b1", "up", Duration::from_secs(2) + scene.recovery())?;
        long_lived.close().unbroken("connections during a drain")
    });
}

#[test]
fn a_disabled_backend_is_out_at_once_and_a_weight_shifts_the_share() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let long_lived = scene.long_lived(60)?;
        scene.cli(&["backend", "disable", "web/b2"])?;
        scene.agent.wait_for_state("web", "b2", "disabled", SLACK)?;
        ensure!(scene.answering()? == names(["b1", "b3"]));
        long_lived.wait_for_more(200)?;
        long_lived.close().broken_only_with("b2")?;
        scene.cli(&["backend", "enable", "web/b2"])?;
        scene.agent.wait_for_state("web", "b2", "up", scene.recovery())?;

        let long_lived = scene.long_lived(60)?;
        scene.cli(&["backend", "weight", "web/b3", "8"])?;
        wait_for_share(&scene.agent, "b3", 0.8)?;
        ensure!(scene.answering()? == names(["b1", "b2", "b3"]));
        scene.cli(&["backend", "weight", "web/b3", "0"])?;
        wait_for_share(&scene.agent, "b3", 0.0)?;
        ensure!(scene.answering()? == names(["b1", "b2"]));
        long_lived.wait_for_more(200)?;
        long_lived.close().unbroken("connections while weights change")
    });
}

fn wait_for_share(agent: &Agent<'_>, backend: &str, share: f64) -> Result<()> {
    wait_until(&format!("the share of {backend} is {share}"), SLACK, || {
        let found = agent.backend("web", backend)?.slot_share;
        ensure!((found - share).abs() <= 0.02, "it is {found}");
        Ok(())
    })
}

#[test]
fn a_backend_that_does_not_exist_is_an_error_that_names_it() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        for (target, unknown) in [("web/b9", "b9"), ("wep/b1", "wep")] {
            let finished = scene.agent.cli(["backend", "drain", target])?;
            ensure!(finished.status.code() == Some(1) && finished.err.contains(unknown), "{finished}");
        }
        ensure!(scene.answering()? == names(["b1", "b2", "b3"]));
        Ok(())
    });
}

/// Clients are not left to wait for what nobody will answer.
#[test]
fn a_pool_without_backends_refuses_at_once() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let vip = SocketAddr::new(Family::V4.vip(), 80);
        let connect = || lab.client.enter(|| TcpStream::connect_timeout(&vip, SLACK * 5).map(drop));
        connect().context("connecting while there are backends")?;
        for backend in ["web/b1", "web/b2", "web/b3"] {
            scene.cli(&["backend", "disable", backend])?;
        }
        let error = connect().err().context("nobody is there, and somebody answers")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(())
    });
}
