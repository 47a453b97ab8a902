//! One lab at a time: tests that build namespaces hold a lock within the process and across processes, because
//! two labs on one machine would disturb each other's timing. Also decides whether such a test can run at all.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

use crate::wait::wait_until;

const LOCK_DIR: &str = "/run/lock";
const LOCK_FILE: &str = "lb-tests.lock";
/// Longer than the slowest test binary: whoever waits in vain is told so, instead of hanging for ever.
const LOCK_LIMIT: Duration = Duration::from_secs(15 * 60);

static IN_PROCESS: Mutex<()> = Mutex::new(());

/// The right to build a lab.
#[derive(Debug)]
pub struct Serial {
    _file: Flock<File>,
    _process: MutexGuard<'static, ()>,
}

/// Waits for the right to build a lab.
pub fn acquire() -> Result<Serial> {
    // A test that panicked has dropped its lab already: the poison says nothing.
    let process = IN_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    std::fs::create_dir_all(LOCK_DIR).with_context(|| format!("creating {LOCK_DIR}"))?;
    let path = Path::new(LOCK_DIR).join(LOCK_FILE);
    let open = || OpenOptions::new().create(true).append(true).open(&path);
    let file = wait_until("no other test run uses a lab", LOCK_LIMIT, || {
        let file = open().with_context(|| format!("opening {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| anyhow!("{} is locked by another process ({errno})", path.display()))
    })?;
    Ok(Serial { _file: file, _process: process })
}

/// Why a lab cannot be built here, if it cannot.
pub fn why_not() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "network namespaces need root: run the tests with sudo".to_owned())
}
