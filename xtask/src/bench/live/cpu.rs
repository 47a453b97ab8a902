//! CPU time: what the benchmark and everything that it has started has used, and what the rest of the machine has.
//!
//! Packets are worked on in interrupts, on the back of whichever task was running, so a balancer's own process shows
//! little of its cost or nothing. The benchmark therefore lives in a cgroup of its own, which its children inherit, and
//! counts all of it together with the kernel's interrupt threads. Where that cannot be had, it counts the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// What the cgroup's name begins with; the number of the process follows.
const GROUP: &str = "lb-bench-";

/// Whose CPU time is measured.
#[derive(Debug)]
pub(super) struct Meter {
    group: Option<Group>,
    /// `schedstat` of ksoftirqd, one a CPU.
    interrupt_threads: Vec<PathBuf>,
    cpus: u32,
}

/// The counters at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    at: Instant,
    ours: Option<Duration>,
    machine: Machine,
}

/// CPU time between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Used {
    pub(super) cpu: Duration,
    /// Part of the machine that others used; nothing if it cannot be told apart.
    pub(super) others: Option<f64>,
    /// Part of the machine that the hypervisor gave to others.
    pub(super) stolen: f64,
}

impl Meter {
    /// Puts this process into a cgroup of its own, if it can tell its CPU time that way.
    pub(super) fn new() -> Self {
        let group = interrupt_time_is_apart().filter(|apart| !apart).and_then(|_| Group::enter().ok());
        let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        Self { group, interrupt_threads: interrupt_threads(), cpus }
    }

    /// What the figures say, for the report.
    pub(super) fn what(&self) -> &'static str {
        match self.group {
            Some(_) => "CPU time of client, balancer, backends and ksoftirqd",
            None => "CPU time of the whole machine, whatever else runs on it included (cgroup 2 is not usable here)",
        }
    }

    pub(super) fn now(&self) -> Result<Moment> {
        let interrupts = || -> Duration {
            let threads = self.interrupt_threads.iter().filter_map(|path| std::fs::read_to_string(path).ok());
            threads.filter_map(|text| text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)).sum()
        };
        let ours = self.group.as_ref().map(|group| group.usage().map(|usage| usage + interrupts())).transpose()?;
        let stat = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let machine = Machine::read(&stat, ticks_per_second()).context("/proc/stat has no line for all CPUs")?;
        Ok(Moment { at: Instant::now(), ours, machine })
    }

    pub(super) fn since(&self, before: &Moment) -> Result<Used> {
        let now = self.now()?;
        let capacity = (now.at - before.at).as_secs_f64() * f64::from(self.cpus);
        let busy = now.machine.busy.saturating_sub(before.machine.busy);
        let stolen = now.machine.stolen.saturating_sub(before.machine.stolen).as_secs_f64() / capacity;
        let ours = now.ours.zip(before.ours).map(|(after, before)| after.saturating_sub(before));
        let others = ours.map(|ours| busy.saturating_sub(ours).as_secs_f64() / capacity);
        Ok(Used { cpu: ours.unwrap_or(busy), others, stolen })
    }
}

/// All CPUs together, from /proc/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    busy: Duration,
    stolen: Duration,
}

impl Machine {
    fn read(stat: &str, ticks_per_second: f64) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen, ..] = ticks[..] else {
            return None;
        };
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second);
        Some(Self { busy: time(user + nice + system + interrupt + soft_interrupt), stolen: time(stolen) })
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: asks for a constant; there is no memory involved.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// Some kernels count interrupts apart from the tasks that they interrupt; then a cgroup does not tell of packets.
/// Nothing if this kernel's configuration is not to be had.
fn interrupt_time_is_apart() -> Option<bool> {
    let unpacked = || {
        let output = Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let installed = || {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        std::fs::read_to_string(format!("/boot/config-{}", release.trim())).ok()
    };
    let config = unpacked().or_else(installed)?;
    Some(config.lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y"))
}

fn interrupt_threads() -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let named =
        |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"));
    processes.filter(named).map(|path| path.join("schedstat")).collect()
}

/// A cgroup (version 2) with this process in it; when dropped, the process goes back and the group is removed.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Where the process was.
    home: PathBuf,
}

impl Group {
    fn enter() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
        let root = PathBuf::from(mount_point(&mounts).context("cgroup 2 is not mounted")?);
        let own = std::fs::read_to_string("/proc/self/cgroup").context("reading this process's cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("this process has no cgroup")?;
        remove_leftovers(&root);
        let path = root.join(format!("{GROUP}{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let group = Self { path, home: root.join(own) };
        group.usage()?;
        join(&group.path)?;
        Ok(group)
    }

    fn usage(&self) -> Result<Duration> {
        let path = self.path.join("cpu.stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        usage(&text).with_context(|| format!("{} has no usage", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that is not moved keeps the group, which the next run then removes.
        let _ = join(&self.home);
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn join(group: &Path) -> Result<()> {
    let path = group.join("cgroup.procs");
    std::fs::write(&path, std::process::id().to_string()).with_context(|| format!("writing to {}", path.display()))
}

/// Groups of runs that were killed; the kernel removes none that has a process.
fn remove_leftovers(root: &Path) {
    let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(GROUP)) {
        let _ = std::fs::remove_dir(entry.path());
    }
}

fn mount_point(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then_some(place)
    })
}

fn usage(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_are_not_busy() {
        let stat = "cpu  100 20 30 9000 800 4 6 70 11 12\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let machine = Machine::read(stat, 100.0).expect("a line for all CPUs");
        assert_eq!(machine, Machine { busy: Duration::from_millis(1600), stolen: Duration::from_millis(700) });
        assert_eq!(Machine::read("cpu  1 2 3\n", 100.0), None);
        assert_eq!(Machine::read("intr 1\n", 100.0), None);
    }

    #[test]
    fn the_second_version_is_found_beside_the_first() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"), None);
    }

    #[test]
    fn usage_is_in_microseconds() {
        assert_eq!(usage("usage_usec 1500\nuser_usec 1000\n"), Some(Duration::from_micros(1500)));
        assert_eq!(usage("nr_periods 0\n"), None);
    }
}
