//! Wrong usage and unfit surroundings: the agent says what is wrong, where, and how to mend it, ends with the exit
//! code of the contract, and leaves everything as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options, netlink, with_lab, xdp};
use lb_tests::programs;
use lb_tests::wait::wait_until;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 3;
const NOT_PERMITTED: i32 = 4;

const NOBODY: u32 = 65534;
const UP_LIMIT: Duration = Duration::from_secs(20);

/// Runs a command in the balancer's namespace and checks how it ends: exit code, and words of the message, each
/// given as alternatives separated by `|`.
fn check(lab: &Lab, command: Command, code: i32, words: &[&str]) -> Result<()> {
    let finished = lab.balancer.run(command)?;
    let context = finished.to_string();
    ensure!(finished.status.code() == Some(code), "exit code {code} was expected: {context}");
    let message = finished.err.to_lowercase();
    for alternatives in words {
        let found = alternatives.split('|').any(|word| message.contains(&word.to_lowercase()));
        ensure!(found, "the message does not say {alternatives}: {context}");
    }
    ensure!(!message.contains("panicked") && !message.contains("backtrace"), "not for users: {context}");
    Ok(())
}

/// Nothing attached, nothing pinned, no socket.
fn untouched(lab: &Lab, agent: &Agent<'_>) -> Result<()> {
    lab.balancer.tokio(|| async {
        let handle = netlink::connect()?;
        for device in lab.devices() {
            let program = xdp::program_id(&handle, &device).await?;
            ensure!(program.is_none(), "{device} has program {program:?}");
        }
        Ok(())
    })?;
    ensure!(!lab.pin_dir().exists(), "{} is left", lab.pin_dir().display());
    ensure!(!agent.config().socket.exists(), "{} is left", agent.config().socket.display());
    Ok(())
}

/// An agent that has a configuration and has not been started; one backend is enough here.
fn prepare(lab: &Lab) -> Result<Agent<'_>> {
    Agent::prepare(lab, Config::for_lab(lab, vec![Service::web(lab)]))
}

fn small() -> Options {
    Options { backends: 1, ..Options::default() }
}

#[test]
fn wrong_command_lines_are_refused() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let rows: &[(&[&str], &[&str])] = &[
            (&[], &["usage"]),
            (&["rum"], &["rum", "run|help"]),
            (&["run"], &["config|--vip"]),
            (&["run", "--wrong"], &["--wrong"]),
            (&["run", "-c", "/nowhere/lb.yaml"], &["/nowhere/lb.yaml", "no such file|not found|does not exist"]),
            (&["check", "-c", "/nowhere/lb.yaml"], &["/nowhere/lb.yaml"]),
            (&["run", "--vip", "10.0.0.1", "--backend", "10.0.0.2:80"], &["10.0.0.1", "addr:port|192.0.2.10:80"]),
            (&["backend", "drain", "b1"], &["b1", "service/backend|web/b1"]),
            (&["backend", "weight", "web/b1", "-5"], &["-5"]),
        ];
        for (arguments, words) in rows {
            check(lab, agent.command(*arguments), USAGE, words).with_context(|| format!("{arguments:?}"))?;
        }
        untouched(lab, &agent)
    });
}

#[test]
fn broken_files_are_refused_with_the_line() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let good = agent.config().to_string();
        let rows = [
            ("hook: xdp", "huk: xdp", ["huk", "hook"]),
            ("port: 80\n", "port: 99999\n", ["99999", "65535"]),
            ("kind: http", "kind: htp", ["htp", "http"]),
        ];
        for (right, wrong, words) in rows {
            let at = good.find(right).with_context(|| format!("{right:?} is not in the file"))?;
            let place = format!("lb.yaml:{}:", good[..at].matches('\n').count() + 1);
            std::fs::write(agent.file(), good.replacen(right, wrong, 1))?;
            let words = &[&place, words[0], words[1]];
            check(lab, agent.run_command(), USAGE, words).with_context(|| format!("running with {wrong:?}"))?;
            let file = agent.file().to_str().context("a path of letters")?;
            check(lab, agent.command(["check", "-c", file]), USAGE, words)
                .with_context(|| format!("checking {wrong:?}"))?;
        }
        untouched(lab, &agent)
    });
}

#[test]
fn a_missing_interface_is_named() {
    with_lab(small(), |lab| {
        let mut config = Config::for_lab(lab, vec![Service::web(lab)]);
        config.interfaces.push("eth9".into());
        let agent = Agent::prepare(lab, config)?;
        check(lab, agent.run_command(), FAILED, &["eth9", "interfaces|ip link|ip -brief link|cli0"])?;
        untouched(lab, &agent)
    });
}

/// The command as a user without rights; its binary is copied to where everybody may run it.
fn as_nobody(lab: &Lab, mut command: Command) -> Result<Command> {
    let copy = lab.dir().join("lb-agent");
    if !copy.exists() {
        std::fs::copy(command.get_program(), &copy).context("copying the agent")?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    command = Command::new(copy);
    command.args(arguments).env("NO_COLOR", "1").uid(NOBODY).gid(NOBODY);
    Ok(command)
}

#[test]
fn without_root_it_says_which_rights_are_missing() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let command = as_nobody(lab, agent.run_command())?;
        check(lab, command, NOT_PERMITTED, &["root|sudo|cap_net_admin|cap_bpf"])?;
        untouched(lab, &agent)
    });
}

#[test]
fn a_foreign_program_on_an_interface_stays_there() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let device = lab.backends[0].device.clone();
        let program = xdp::load_pass()?;
        let id = lab.balancer.tokio(|| async {
            let handle = netlink::connect()?;
            xdp::attach(&handle, &device, &program).await?;
            xdp::program_id(&handle, &device).await
        })?;
        ensure!(id.is_some());
        check(lab, agent.run_command(), FAILED, &[&device, "xdp", "program", "xdp off|xdpdrv off"])?;
        for found in lab.devices() {
            let now = lab.balancer.tokio(|| async { xdp::program_id(&netlink::connect()?, &found).await })?;
            let expected = if found == device { id } else { None };
            ensure!(now == expected, "{found} has {now:?} instead of {expected:?}");
        }
        ensure!(!lab.pin_dir().exists(), "pins are left");
        Ok(())
    });
}

/// Gives the command a mount namespace of its own with fresh file systems in some places: kind and place.
fn with_mounts(command: &mut Command, mounts: &'static [(&str, &str)]) {
    let prepare = move || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        for (kind, place) in mounts {
            mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec, a few system calls on constants: they neither allocate nor lock.
    unsafe { command.pre_exec(prepare) };
}

#[test]
fn without_the_bpf_file_system_it_says_how_to_mount_it() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let mut command = agent.run_command();
        with_mounts(&mut command, &[("tmpfs", "/sys/fs/bpf")]);
        check(lab, command, FAILED, &["/sys/fs/bpf", "mount -t bpf"])?;
        untouched(lab, &agent)
    });
}

#[test]
fn a_socket_that_somebody_uses_is_left_alone_and_a_stale_one_replaced() {
    with_lab(small(), |lab| {
        let _server = programs::nginx(lab, &lab.backends[0])?;
        let mut agent = prepare(lab)?;
        let socket = agent.config().socket.clone();
        let listener = UnixListener::bind(&socket).context("taking the socket")?;
        let path = socket.to_str().context("a path of letters")?;
        check(lab, agent.run_command(), FAILED, &[path, "use|another|already|listens"])?;
        ensure!(socket.exists(), "somebody else's socket was removed");
        drop(listener);
        // The file is still there, but nobody listens: what a killed agent leaves.
        ensure!(socket.exists());
        agent.launch()?;
        agent.stop(Signal::SIGTERM)?.success()?;
        agent.unload()?.success()?;
        untouched(lab, &agent)
    });
}

#[test]
fn commands_without_an_agent_say_that_it_is_not_running() {
    with_lab(small(), |lab| {
        let agent = prepare(lab)?;
        let socket = agent.config().socket.to_str().context("a path of letters")?.to_owned();
        let rows: &[&[&str]] = &[
            &["status"],
            &["service", "list"],
            &["backend", "list"],
            &["backend", "drain", "web/b1"],
            &["flow", "count"],
            &["reload"],
        ];
        for arguments in rows {
            let mut command = agent.command(*arguments);
            command.args(["--socket", &socket]);
            check(lab, command, NOT_RUNNING, &[&socket, "not running", "lb-agent run"])
                .with_context(|| format!("{arguments:?}"))?;
        }
        ensure!(agent.unload()?.status.code() == Some(DONE), "there is nothing to unload, which is fine");
        untouched(lab, &agent)
    });
}

#[test]
fn strangers_may_not_use_the_socket() {
    with_lab(small(), |lab| {
        let _server = programs::nginx(lab, &lab.backends[0])?;
        let agent = Agent::start(lab, Config::for_lab(lab, vec![Service::web(lab)]))?;
        let socket = agent.config().socket.clone();
        let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
        ensure!(mode == 0o660, "the socket has mode {mode:o}");
        let path = socket.to_str().context("a path of letters")?;
        let mut command = agent.command(["status"]);
        command.args(["--socket", path]);
        check(lab, as_nobody(lab, command)?, NOT_PERMITTED, &[path])
    });
}

#[test]
fn it_runs_and_stops_twice_in_a_row() {
    with_lab(small(), |lab| {
        let _server = programs::nginx(lab, &lab.backends[0])?;
        let mut agent = prepare(lab)?;
        for _ in 0..2 {
            agent.launch()?;
            agent.wait_all_up(UP_LIMIT)?;
            clients::curl(&lab.client, Family::V4.vip(), 10)?;
            // What a terminal sends for ctrl-C.
            agent.stop(Signal::SIGINT)?.success()?;
            ensure!(!agent.config().socket.exists(), "the socket is left");
            agent.unload()?.success()?;
            untouched(lab, &agent)?;
        }
        Ok(())
    });
}

#[test]
fn without_a_file_it_chooses_and_says_so() {
    with_lab(small(), |lab| {
        let _server = programs::nginx(lab, &lab.backends[0])?;
        let vip = clients::http(Family::V4.vip()).to_string();
        let backend = clients::http(lab.backends[0].address(Family::V4)).to_string();
        let mut command = Command::new(lb_tests::agent::binary()?);
        command.args(["run", "--vip", &vip, "--backend", &backend]).arg("--socket").arg(lab.dir().join("agent.sock"));
        // The default places of pins and state are the machine's: this agent gets its own, which end with it.
        with_mounts(&mut command, &[("bpf", "/sys/fs/bpf"), ("tmpfs", "/var/lib")]);
        let process = lab.balancer.spawn(command)?;
        let answers = wait_until("the VIP answers", Duration::from_secs(60), || {
            ensure!(process.is_running(), "it has ended");
            clients::curl(&lab.client, Family::V4.vip(), 1)
        });
        let said = process.output();
        answers.with_context(|| said.clone())?;
        process.signal(Signal::SIGTERM)?;
        process.finish(Duration::from_secs(20))?.success()?;
        for word in [lab.backends[0].device.as_str(), "cli0", "tcx"] {
            ensure!(said.contains(word), "it does not say {word}: {said}");
        }
        Ok(())
    });
}
