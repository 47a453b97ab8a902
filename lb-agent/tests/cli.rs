//! The binary as a script sees it: exit codes, and what goes to which stream.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-agent");
/// The user `nobody`, who may do nothing.
const NOBODY: u32 = 65_534;

fn run(line: &str) -> Output {
    Command::new(BINARY).args(line.split_whitespace()).env_remove("LB_SOCKET").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_and_version_are_done() {
    for line in ["--help", "--version", "backend --help", "backend drain -h", "help flow route", "man"] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line}");
        assert!(!output.stdout.contains(&0x1b), "{line}: no colour in a pipe");
    }
}

#[test]
fn wrong_usage_is_2() {
    for line in ["", "explode", "backend drain web", "backend weight web/b1 1001", "status -o xml"] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn no_agent_is_3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let path = path.to_str().unwrap();
    for command in ["status", "service list --json", "backend drain web/b1", "flow count", "reload"] {
        let output = run(&format!("--socket {path} {command}"));
        assert_eq!(output.status.code(), Some(3), "{command}");
        assert_eq!(
            stderr(&output),
            format!("error: the agent is not running (no answer on {path}); start it with: lb-agent run -c FILE\n")
        );
        assert!(output.stdout.is_empty());
    }
    let by_environment = Command::new(BINARY).arg("status").env("LB_SOCKET", path).output().unwrap();
    assert_eq!(by_environment.status.code(), Some(3));
    assert!(stderr(&by_environment).contains(path));
}

#[test]
fn no_permission_is_4() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o000);
    mode(directory.path(), 0o755);
    // Where nobody can reach it, wherever the build has put it.
    let binary = directory.path().join("lb-agent");
    std::fs::copy(BINARY, &binary).unwrap();
    mode(&binary, 0o755);
    let mut command = Command::new(&binary);
    command.arg("--socket").arg(&path).arg("status").current_dir("/");
    // Modes do not bind root.
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = loop {
        match command.output() {
            // Another test forked while the copy was being written, and has not executed anything yet.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => break output.unwrap(),
        }
    };
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("error: not permitted: "), "{}", stderr(&output));
    assert!(stderr(&output).contains("sudo"));
}
