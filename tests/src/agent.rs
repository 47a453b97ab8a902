//! The agent under test: the real binary, run in the balancer's namespace with a configuration file of the lab,
//! asked and changed through its own command line, killed, stopped and started again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::model::view::{Backend, Service, Status};
use nix::sys::signal::Signal;
use tokio::io::BufStream;
use tokio::net::UnixStream;

use crate::config::Config;
use crate::http;
use crate::lab::Lab;
use crate::lab::process::{Finished, Running};
use crate::wait::wait_until;

/// Loading and verifying the programs takes a while in a debug build on a loaded machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A graceful stop ends what is under way, which is little.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Overrides where the binary is looked for.
const BINARY_VARIABLE: &str = "LB_AGENT";

/// The agent's binary: `$LB_AGENT`, or the one built beside the program that runs.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY_VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    // target/debug/deps/traffic-0123 and target/debug/xtask -> target/debug/lb-agent
    let own = std::env::current_exe().context("finding this program's own place")?;
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join("lb-agent")).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "there is no lb-agent beside {}; build it (cargo build -p lb-agent) or name it in {BINARY_VARIABLE}",
            own.display()
        )
    })
}

/// An agent of a lab, running or not. Dropping it stops it and unloads what it has loaded.
#[derive(Debug)]
pub struct Agent<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    config: Config,
    file: PathBuf,
    process: Option<Running>,
}

impl<'lab> Agent<'lab> {
    /// Writes the configuration, starts the agent and waits until it serves.
    pub fn start(lab: &'lab Lab, config: Config) -> Result<Self> {
        let mut agent = Self::prepare(lab, config)?;
        agent.launch()?;
        Ok(agent)
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(lab: &'lab Lab, config: Config) -> Result<Self> {
        let agent = Self { lab, binary: binary()?, config, file: lab.dir().join("lb.yaml"), process: None };
        agent.write_config(&agent.config)?;
        Ok(agent)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// Has been started and has not ended.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Running::is_running)
    }

    /// `lb-agent ARGUMENTS`, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("NO_COLOR", "1").env_remove("RUST_LOG").env_remove("LB_SOCKET");
        command
    }

    /// The command line that serves this configuration: `run -c FILE`.
    pub fn run_command(&self) -> Command {
        self.command([OsStr::new("run"), OsStr::new("-c"), self.file.as_os_str()])
    }

    /// Starts the process and waits until it serves; an agent that is left from before must have been stopped.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "the agent is running already");
        let process = self.lab.balancer.spawn(self.run_command())?;
        let ready = wait_until("the agent is ready", READY_LIMIT, || {
            if !process.is_running() {
                return Ok(false);
            }
            self.ready().map(|()| true)
        });
        match ready {
            Ok(true) => {}
            Ok(false) => bail!("the agent has ended; {}", process.output()),
            Err(error) => return Err(error.context(process.output())),
        }
        self.process = Some(process);
        Ok(())
    }

    fn ready(&self) -> Result<()> {
        let answer = self.get("/readyz")?;
        ensure!(answer.status == 200, "/readyz answers {} {}", answer.status, answer.body);
        self.cli(["status", "--json"])?.success()?;
        Ok(())
    }

    /// Runs a command of the CLI against this agent's socket, whatever its exit status.
    pub fn cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Finished> {
        let mut command = self.command(arguments);
        command.arg("--socket").arg(&self.config.socket);
        self.lab.balancer.run(command)
    }

    /// `lb-agent status --json`.
    pub fn status(&self) -> Result<Status> {
        let finished = self.cli(["status", "--json"])?.success()?;
        serde_json::from_str(&finished.out).with_context(|| format!("reading the status: {finished}"))
    }

    /// The same from the API itself: cheap enough to be asked every few milliseconds.
    pub fn poll_status(&self) -> Result<Status> {
        let answer = self.get("/api/v1/status")?;
        ensure!(answer.status == 200, "/api/v1/status answers {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).with_context(|| format!("reading the status: {}", answer.body))
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> Result<String> {
        let answer = self.get("/metrics")?;
        ensure!(answer.status == 200, "/metrics answers {} {}", answer.status, answer.body);
        Ok(answer.body)
    }

    fn get(&self, path: &str) -> Result<http::Answer> {
        self.lab.balancer.tokio(|| async {
            let ask = async {
                let stream = UnixStream::connect(&self.config.socket).await?;
                http::get(&mut BufStream::new(stream), path).await
            };
            let answer = tokio::time::timeout(ANSWER_LIMIT, ask).await;
            answer.context("the agent does not answer")?.with_context(|| format!("asking for {path}"))
        })
    }

    /// One backend of a service, as the status shows it now.
    pub fn backend(&self, service: &str, backend: &str) -> Result<Backend> {
        let status = self.poll_status()?;
        let service = service_of(&status, service)?;
        let found = service.backends.iter().find(|one| one.name == backend);
        found.cloned().with_context(|| format!("{} has no backend {backend}", service.name))
    }

    /// Waits until the backend is in this state, and returns the moment when it was seen.
    pub fn wait_for_state(&self, service: &str, backend: &str, state: &str, limit: Duration) -> Result<Instant> {
        wait_until(&format!("{service}/{backend} is {state}"), limit, || {
            let found = self.backend(service, backend)?;
            ensure!(found.state == state, "it is {} ({})", found.state, found.reason);
            Ok(Instant::now())
        })
    }

    /// Waits until every backend of every service is up.
    pub fn wait_all_up(&self, limit: Duration) -> Result<()> {
        wait_until("all backends are up", limit, || {
            for service in &self.poll_status()?.services {
                if let Some(one) = service.backends.iter().find(|one| one.state != "up") {
                    bail!("{}/{} is {} ({})", service.name, one.name, one.state, one.reason);
                }
            }
            Ok(())
        })
    }

    /// Writes another configuration and has the agent read it; what the command said is returned.
    pub fn reload(&mut self, config: Config) -> Result<Finished> {
        self.set_config(config)?;
        self.cli(["reload"])
    }

    /// Another configuration for the next start.
    pub fn set_config(&mut self, config: Config) -> Result<()> {
        self.write_config(&config)?;
        self.config = config;
        Ok(())
    }

    /// SIGKILL: no destructor, no goodbye.
    pub fn kill9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// A signal that asks for a graceful stop, and what the process said in its life.
    pub fn stop(&mut self, signal: Signal) -> Result<Finished> {
        let process = self.process.take().context("the agent has not been started")?;
        process.signal(signal)?;
        process.finish(STOP_LIMIT)
    }

    /// Stops it gracefully and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop(Signal::SIGTERM)?.success()?;
        self.launch()
    }

    /// `lb-agent unload`.
    pub fn unload(&self) -> Result<Finished> {
        let pins = self.config.pin_dir.as_os_str();
        self.lab.balancer.run(self.command([OsStr::new("unload"), OsStr::new("--pin-dir"), pins]))
    }

    fn write_config(&self, config: &Config) -> Result<()> {
        std::fs::write(&self.file, config.to_string()).with_context(|| format!("writing {}", self.file.display()))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.kill9();
        // A test that ends early leaves the programs attached; whether this removes them is checked by the lab.
        if self.config.pin_dir.exists()
            && let Err(error) = self.unload().and_then(Finished::success)
        {
            eprintln!("unloading after the test: {error:#}");
        }
    }
}

/// A service of a status by its name.
pub fn service_of<'status>(status: &'status Status, name: &str) -> Result<&'status Service> {
    let found = status.services.iter().find(|service| service.name == name);
    found.with_context(|| format!("the status has no service {name}"))
}
