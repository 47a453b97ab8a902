//! One network namespace: made here, named under /run/netns so that `ip netns exec` works while debugging, and
//! removed when dropped. Code enters it on a thread of its own; processes are started from such a thread, so
//! they inherit it and share everything else (mounts, processes, users) with the host.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::process::{Finished, Running};

/// Where `ip netns` looks for names.
pub(super) const NAMES: &str = "/run/netns";
/// For commands that end by themselves; those of the tests are bounded well below it.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A network namespace that exists as long as this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Keeps the namespace alive for threads that are inside; the name is what [`Drop`] removes.
    file: Arc<File>,
    logs: PathBuf,
    commands: AtomicU32,
}

impl Namespace {
    /// Makes the namespace; what processes in it print goes to files in `logs`.
    pub(super) fn create(name: String, logs: &Path) -> Result<Self> {
        prepare_names()?;
        let path = Path::new(NAMES).join(&name);
        File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let made = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<File> {
                    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
                    let own = "/proc/thread-self/ns/net";
                    mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                        .with_context(|| format!("mounting the namespace at {}", path.display()))?;
                    File::open(own).with_context(|| format!("opening {own}"))
                })
                .join()
        });
        match made.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(file) => Ok(Self { name, file: Arc::new(file), logs: logs.into(), commands: AtomicU32::new(0) }),
            Err(error) => {
                remove_name(&path);
                Err(error)
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Identifies the namespace in `/proc/PID/ns/net`.
    pub(super) fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata().with_context(|| format!("reading the namespace {}", self.name))?.ino())
    }

    /// Runs the closure on a new thread inside the namespace.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let joined = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    go_inside(&self.file);
                    work()
                })
                .join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs the future to its end on a new thread inside the namespace; it need not be [`Send`].
    pub fn tokio<R: Send, F: Future<Output = R>>(&self, work: impl FnOnce() -> F + Send) -> R {
        self.enter(|| block_on(work))
    }

    /// Starts a thread inside the namespace that goes on after this call; the caller stops and joins it.
    pub fn thread<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        let file = Arc::clone(&self.file);
        std::thread::spawn(move || {
            go_inside(&file);
            work()
        })
    }

    /// [`Self::thread`] for a future.
    pub fn tokio_thread<R: Send + 'static, F: Future<Output = R>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<R> {
        self.thread(|| block_on(work))
    }

    /// Starts a process inside the namespace.
    pub fn spawn(&self, command: Command) -> Result<Running> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let log = self.logs.join(format!("{}-{number:03}-{program}", self.name));
        let label = format!("{program} in {}", self.name);
        // The child inherits the namespace of the thread that starts it, before it changes its user.
        self.enter(move || Running::start(command, label, &log))
    }

    /// Runs a process inside the namespace to its end, whatever its exit status.
    pub fn run(&self, command: Command) -> Result<Finished> {
        self.run_within(command, COMMAND_LIMIT)
    }

    /// [`Self::run`] with a limit of its own; a process that takes longer is killed, and is an error.
    pub fn run_within(&self, command: Command, limit: Duration) -> Result<Finished> {
        self.spawn(command)?.finish(limit)
    }

    /// Writes a value under /proc/sys/net for this namespace: `sysctl("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| std::fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display())))
    }

    /// Fails unless something listens on the port, TCP or UDP, in this namespace. Looks instead of connecting: a
    /// connection that says nothing confuses some servers.
    pub fn listens(&self, port: u16) -> Result<()> {
        let tables = self.enter(|| -> Result<String> {
            let mut all = String::new();
            for table in ["tcp", "tcp6", "udp", "udp6"] {
                let path = format!("/proc/thread-self/net/{table}");
                all += &std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            }
            Ok(all)
        })?;
        if !tables.lines().any(|row| is_listener(row, port)) {
            bail!("nothing listens on port {port} in {}", self.name);
        }
        Ok(())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove_name(&Path::new(NAMES).join(&self.name));
    }
}

/// Unmounts and removes a name; the namespace itself ends with its last process.
pub(super) fn remove_name(path: &Path) {
    // Either step fails when there is nothing to do, and both have to be tried.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(path);
}

/// What `ip netns add` does first: the directory is a mount of its own and shared, so that a name that is removed
/// here does not live on in the mount namespace of some service.
fn prepare_names() -> Result<()> {
    std::fs::create_dir_all(NAMES).with_context(|| format!("creating {NAMES}"))?;
    let share = || mount(None::<&str>, NAMES, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_err() {
        mount(Some(NAMES), NAMES, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .with_context(|| format!("mounting {NAMES} on itself"))?;
        share().with_context(|| format!("sharing {NAMES}"))?;
    }
    Ok(())
}

/// Moves the calling thread; it cannot fail for a namespace that is open, except without the right to do it.
fn go_inside(file: &File) {
    setns(file, CloneFlags::CLONE_NEWNET).expect("entering a network namespace needs root");
}

fn block_on<R, F: Future<Output = R>>(work: impl FnOnce() -> F) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starting a runtime");
    runtime.block_on(async { work().await })
}

/// A row of /proc/net/tcp or udp: `sl local_address rem_address st`, where a TCP listener has state 0A and an
/// unconnected UDP socket 07.
fn is_listener(row: &str, port: u16) -> bool {
    let mut fields = row.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':')).map(|(_, port)| port);
    let state = fields.nth(1);
    local == Some(&format!("{port:04X}")) && matches!(state, Some("0A" | "07"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let listening = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        let connected = "   1: 0100007F:0050 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0";
        let datagram =
            "  66: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:0";
        let heading =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert!(is_listener(listening, 80));
        assert!(!is_listener(listening, 81));
        assert!(!is_listener(connected, 80));
        assert!(is_listener(datagram, 53));
        assert!(!is_listener(heading, 80));
    }
}
