//! Cargo, as the tasks call it: the one that started this program, at the root of the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The workspace that this program was built from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// `cargo ARGUMENTS`, not started yet.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The agent of the same build as this program: they lie side by side. Under cargo it is brought up to date first,
/// so that nobody looks at an agent of yesterday.
pub(crate) fn agent_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own place")?;
    let directory = own.parent().context("this program's place has no directory")?;
    if std::env::var_os("CARGO").is_some() {
        let mut build = cargo(["build", "--quiet", "--package", "lb-agent"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().context("starting cargo")?;
        ensure!(status.success(), "the agent does not build");
    }
    let agent = directory.join("lb-agent");
    ensure!(agent.is_file(), "{} is missing; build it: cargo build -p lb-agent", agent.display());
    Ok(agent)
}
