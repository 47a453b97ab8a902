//! A balancer, a client and some backends, each in a network namespace of its own, joined by veth pairs:
//!
//! ```text
//! cli eth0 ---- cli0 lb be1 ---- eth0 b1
//!                       be2 ---- eth0 b2
//!                       be3 ---- eth0 b3
//! ```
//!
//! The client's and the backends' default route is the balancer, and the balancer's is the client, which thereby
//! plays the rest of the world. Nothing is connected to the host's network, no neighbour is entered by hand, and
//! dropping the lab removes all of it, also when a test panics. [`address`] says who has which address.

pub mod address;
pub mod namespace;
pub mod netlink;
pub mod process;
mod sweep;
mod topology;
pub mod xdp;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::model::config::Hook;
use tempfile::TempDir;

use self::address::Family;
use self::namespace::Namespace;
use crate::serial;
use crate::wait::wait_until;

/// A killed process is gone when the kernel has reaped it, which takes a moment.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// Of each file of output, so much is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// What may differ between labs.
#[derive(Debug, Clone)]
pub struct Options {
    pub backends: u16,
    /// The VIPs are addresses of the balancer, on its `lo`.
    pub vip_on_balancer: bool,
    pub offloads: Offloads,
    /// An XDP program that passes everything, on every far end: what comes out of XDP_TX needs one to arrive.
    pub far_end_programs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { backends: 3, vip_on_balancer: false, offloads: Offloads::FitForXdp, far_end_programs: true }
    }
}

impl Options {
    /// What the hook that `auto` takes on a veth asks for: nothing. Devices are as the kernel makes them.
    pub fn untouched() -> Self {
        Self { offloads: Offloads::KernelDefault, far_end_programs: false, ..Self::default() }
    }

    /// What a balancer at this hook asks of the far ends.
    pub fn for_hook(hook: Hook) -> Self {
        match hook {
            Hook::Xdp => Self::default(),
            Hook::Auto | Hook::Tc => Self::untouched(),
        }
    }
}

/// How the client's and the backends' devices are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Frames leave complete and no larger than the MTU, and the far ends poll (`tx off tso off gso off gro on`):
    /// what native XDP on veth asks for.
    FitForXdp,
    /// As the kernel makes them: checksums are left partial, which a redirect never completes.
    KernelDefault,
}

/// A backend's namespace and the balancer's link to it.
#[derive(Debug)]
pub struct Backend {
    /// `b1`, also what its servers answer.
    pub name: String,
    /// Counted from 1.
    pub number: u16,
    pub namespace: Namespace,
    /// The balancer's end of the link: `be1`. The backend's end is [`FAR_END`].
    pub device: String,
}

impl Backend {
    pub fn address(&self, family: Family) -> std::net::IpAddr {
        family.backend(self.number)
    }
}

/// The client's and every backend's only device beside `lo`.
pub const FAR_END: &str = "eth0";
/// The balancer's end of the client's link.
pub const CLIENT_DEVICE: &str = "cli0";

/// The topology, and the scratch directory that goes with it.
#[derive(Debug)]
pub struct Lab {
    pub client: Namespace,
    pub balancer: Namespace,
    pub backends: Vec<Backend>,
    pin_dir: PathBuf,
    // Last, so that it is still there while the others are dropped.
    scratch: TempDir,
}

/// Runs a test in a lab of its own, and checks afterwards that nothing is left of it. Without root it says that
/// the test is skipped and why.
pub fn with_lab(options: Options, test: impl FnOnce(&Lab) -> Result<()>) {
    if let Some(reason) = serial::why_not() {
        println!("skipped: {reason}");
        return;
    }
    let _serial = serial::acquire().expect("waiting for other labs");
    Lab::sweep_leftovers().expect("removing what a killed lab has left");
    let lab = Lab::build(options).expect("building the lab");
    if let Err(error) = test(&lab) {
        // The lab is dropped by the panic, and shows what its processes printed.
        panic!("{error:?}");
    }
    lab.assert_clean().expect("nothing is left of the lab");
}

/// The same test at each hook, in a lab as it needs one.
pub fn at_each_hook(options: impl Fn(Hook) -> Options, test: impl Fn(&Lab, Hook) -> Result<()>) {
    for hook in [Hook::Xdp, Hook::Tc] {
        with_lab(options(hook), |lab| test(lab, hook).with_context(|| format!("at the {hook} hook")));
    }
}

impl Lab {
    /// Builds the topology; on failure nothing of it remains.
    pub fn build(options: Options) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        ensure!((1..=address::MAX_BACKENDS).contains(&options.backends), "a lab has 1 to 200 backends");
        let prefix = sweep::prefix(std::process::id());
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{prefix}{number}-"))
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(sweep::SCRATCH)
            .context("making the lab's directory")?;
        let namespace = |name: &str| Namespace::create(format!("{prefix}{name}"), scratch.path());
        let backend = |number| -> Result<Backend> {
            let name = format!("b{number}");
            let namespace = namespace(&name)?;
            Ok(Backend { name, number, namespace, device: format!("be{number}") })
        };
        let lab = Self {
            client: namespace("cli")?,
            balancer: namespace("lb")?,
            backends: (1..=options.backends).map(backend).collect::<Result<_>>()?,
            pin_dir: Path::new(sweep::PINS).join(format!("{prefix}{number}")),
            scratch,
        };
        topology::wire(&lab, &options)?;
        Ok(lab)
    }

    /// Takes the link to a backend away, with its addresses and routes at both ends.
    pub fn unplug(&self, backend: &Backend) -> Result<()> {
        self.balancer.tokio(|| async { netlink::delete(&netlink::connect()?, &backend.device).await })
    }

    /// Makes a new one of the same name, with other hardware addresses.
    pub fn plug(&self, backend: &Backend, options: &Options) -> Result<()> {
        topology::plug_backend(self, backend, options)
    }

    /// A directory for sockets, state and configuration; it goes with the lab, and everybody may look into it.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Where this lab's agent pins; no other lab uses it.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The balancer's devices: the client's link first, then the backends'.
    pub fn devices(&self) -> Vec<String> {
        let backends = self.backends.iter().map(|backend| backend.device.clone());
        std::iter::once(CLIENT_DEVICE.to_owned()).chain(backends).collect()
    }

    /// Every namespace of the lab.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.balancer].into_iter().chain(self.backends.iter().map(|backend| &backend.namespace))
    }

    /// Removes what labs that were killed have left: names `lb-<pid>-*` whose process is gone, and the processes,
    /// pins and directories that belong to them.
    pub fn sweep_leftovers() -> Result<Vec<PathBuf>> {
        sweep::leftovers()
    }

    /// Ends the lab. An error if a test has left a process or a pin behind, or the lab a name or a directory.
    pub fn assert_clean(self) -> Result<()> {
        let inodes = self.inodes()?;
        wait_until("the test's processes are gone", GONE_LIMIT, || nobody_inside(&inodes))?;
        ensure!(!self.pin_dir.exists(), "pins are left in {}", self.pin_dir.display());
        let directory = self.dir().to_owned();
        let names: Vec<_> = self.namespaces().map(|one| Path::new(namespace::NAMES).join(one.name())).collect();
        drop(self);
        for path in names.iter().chain([&directory]) {
            ensure!(!path.exists(), "{} is left", path.display());
        }
        let pins = sweep::owned_by(Path::new(sweep::PINS), std::process::id())?;
        ensure!(pins.is_empty(), "pins are left: {pins:?}");
        Ok(())
    }

    fn inodes(&self) -> Result<BTreeSet<u64>> {
        self.namespaces().map(Namespace::inode).collect()
    }

    /// The end of every file of output, for a test that has failed.
    fn show_output(&self) {
        let Ok(entries) = std::fs::read_dir(self.dir()) else { return };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in
            paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "err" || ending == "out"))
        {
            let text = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            if !lines.is_empty() {
                eprintln!("--- {}", path.display());
                lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_output();
        }
        // Each step is tried whatever the one before it said: this is the last chance to leave nothing behind.
        if let Ok(inodes) = self.inodes() {
            let killed = sweep::kill_inside(&inodes);
            let gone =
                killed.and_then(|()| wait_until("killed processes are gone", GONE_LIMIT, || nobody_inside(&inodes)));
            if let Err(error) = gone {
                eprintln!("lab: {error:#}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.pin_dir);
    }
}

fn nobody_inside(namespaces: &BTreeSet<u64>) -> Result<()> {
    let inside = sweep::processes_inside(namespaces)?;
    if !inside.is_empty() {
        let commands =
            inside.iter().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        bail!("processes {inside:?} are left: {:?}", commands.collect::<Vec<_>>());
    }
    Ok(())
}
