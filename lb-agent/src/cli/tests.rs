//! The command line against an agent in memory behind a real socket, and what it prints, frozen.

use std::path::Path;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::memory::{self, Memory};
use crate::api::{AdminSocket, ControlError, Limits, router, serve_unix};
use crate::model::view;

const WIDE: Look = Look { width: Some(120), colour: false };
const NARROW: Look = Look { width: Some(80), colour: false };
const PIPE: Look = Look { width: None, colour: false };

struct Agent {
    memory: Arc<Memory>,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(memory: Memory) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let memory = Arc::new(memory);
        let cancel = CancellationToken::new();
        let socket = AdminSocket::bind(&directory.path().join("agent.sock")).unwrap();
        let router = router(Arc::clone(&memory), &Limits::DEFAULT);
        let task = tokio::spawn(serve_unix(socket, router, Limits::DEFAULT, cancel.clone()));
        Self { memory, directory, cancel, task }
    }

    /// Types a command and returns what it prints, with its note below.
    async fn types(&self, line: &str, look: Look) -> Result<String, CliError> {
        converse(&self.directory.path().join("agent.sock"), line, look).await.map(|Shown { out, note }| match note {
            Some(note) => format!("{out}note: {note}\n"),
            None => out,
        })
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

async fn converse(socket: &Path, line: &str, look: Look) -> Result<Shown, CliError> {
    let cli = Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let client = Client::new(socket.to_owned());
    match cli.command {
        Command::Status(output) => commands::status(&client, output, look).await,
        Command::Service(command) => commands::service(&client, command, look).await,
        Command::Backend(command) => commands::backend(&client, command, look).await,
        Command::Flow(command) => commands::flow(&client, command, look).await,
        Command::Reload(args) => commands::reload(&client, args).await,
        _ => panic!("{line} does not talk to the agent"),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn screens_and_tables() {
    let agent = Agent::start(Memory::default());
    for (name, line, look) in [
        ("status_120", "lb-agent status", WIDE),
        ("status_80", "lb-agent status", NARROW),
        ("status_pipe", "lb-agent status", PIPE),
        ("status_colour", "lb-agent status", Look { colour: true, ..WIDE }),
        ("status_csv", "lb-agent status -o csv", PIPE),
        ("service_list_120", "lb-agent service list", WIDE),
        ("service_list_80", "lb-agent service list", NARROW),
        ("service_list_csv", "lb-agent service list -o csv", PIPE),
        ("service_show_120", "lb-agent service show web", WIDE),
        ("service_show_80", "lb-agent service show dns", NARROW),
        ("backend_list_80", "lb-agent backend list", NARROW),
        ("backend_list_120", "lb-agent backend list", WIDE),
        ("backend_list_json", "lb-agent backend list dns --json", PIPE),
        ("flow_list", "lb-agent flow list web --limit 2", NARROW),
        ("flow_list_json", "lb-agent flow list web/b2 -o json", NARROW),
        ("flow_count", "lb-agent flow count", NARROW),
        ("flow_route", "lb-agent flow route 203.0.113.7:40000 192.0.2.10:80", NARROW),
        ("flow_route_csv", "lb-agent flow route [2001:db8::7]:4 [2001:db8::1]:53/udp -o csv", NARROW),
        ("reload", "lb-agent reload", NARROW),
        ("reload_json", "lb-agent reload --json", NARROW),
        ("backend_weight", "lb-agent backend weight web/b1 5 --for 600s", NARROW),
        ("backend_drain_json", "lb-agent backend drain web/b1 --json", NARROW),
    ] {
        insta::assert_snapshot!(name, agent.types(line, look).await.unwrap(), line);
    }
    agent.stop().await;
}

#[test]
fn a_status_with_nothing_in_it_is_a_screen_too() {
    let nothing = view::Status {
        config_file: None,
        state: "starting".into(),
        attachments: Vec::new(),
        services: Vec::new(),
        reasons: Vec::new(),
        ..memory::status()
    };
    insta::assert_snapshot!(status::screen(&nothing, NARROW));
}

#[test]
fn no_line_is_wider_than_the_terminal_and_none_carries_an_escape() {
    for width in [60, 80, 100, 109, 110, 120, 200] {
        let look = Look { width: Some(width), colour: false };
        let shown = status::screen(&memory::status(), look);
        for line in shown.lines() {
            assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}

#[tokio::test]
async fn json_is_what_the_api_says() {
    let agent = Agent::start(Memory::default());
    let shown = agent.types("lb-agent status --json", PIPE).await.unwrap();
    assert_eq!(serde_json::from_str::<view::Status>(&shown).unwrap(), memory::status());
    assert_eq!(shown, agent.types("lb-agent status -o json", PIPE).await.unwrap());
    let shown = agent.types("lb-agent service list --json", PIPE).await.unwrap();
    assert_eq!(serde_json::from_str::<Vec<view::Service>>(&shown).unwrap(), memory::status().services);
    let shown = agent.types("lb-agent service show dns --json", PIPE).await.unwrap();
    assert_eq!(serde_json::from_str::<view::Service>(&shown).unwrap(), memory::status().services[1]);
    let shown = agent.types("lb-agent flow route 1.2.3.4:5 1.2.3.4:80 --json", PIPE).await.unwrap();
    assert_eq!(serde_json::from_str::<view::Route>(&shown).unwrap().slot, Some(4711));
    agent.stop().await;
}

#[tokio::test]
async fn every_action_arrives_as_it_was_typed() {
    let agent = Agent::start(Memory::default());
    for line in [
        "lb-agent backend drain web/b1 --for 10m",
        "lb-agent backend weight web/b2 0",
        "lb-agent backend disable web/b3 --for 1h",
        "lb-agent backend enable dns/[2001:db8::53]:5353",
    ] {
        agent.types(line, PIPE).await.unwrap();
    }
    assert_eq!(
        *agent.memory.asked.lock().unwrap(),
        [
            "web/b1 Drain { undo_after: Some(600s) }",
            "web/b2 Weight { weight: 0, undo_after: None }",
            "web/b3 Disable { undo_after: Some(3600s) }",
            "dns/[2001:db8::53]:5353 Enable",
        ]
    );
    agent.stop().await;
}

#[tokio::test]
async fn what_the_agent_refuses_is_said_with_the_right_code() {
    let broken = ControlError::InvalidConfig("lb.yaml:3:5: unknown key `vpi`".into());
    let agent = Agent::start(Memory { reload_fails: Some(broken), ..Memory::default() });
    for (line, says, exit) in [
        ("lb-agent service show mail", "there is no service `mail`", Exit::Failed),
        ("lb-agent service show ../../status", "there is no service `../../status`", Exit::Failed),
        ("lb-agent service show a?b#c&d=%2e", "there is no service `a?b#c&d=%2e`", Exit::Failed),
        ("lb-agent backend list mail", "there is no service `mail`", Exit::Failed),
        ("lb-agent backend drain web/b9", "there is no backend `web/b9`", Exit::Failed),
        ("lb-agent backend undrain web/b1", "web/b1 is not draining", Exit::Failed),
        ("lb-agent flow list mail", "there is no service `mail`", Exit::Failed),
        ("lb-agent flow route 1.2.3.4:5 [::1]:80", "both be IPv4 or both IPv6", Exit::Usage),
        ("lb-agent reload", "lb.yaml:3:5", Exit::Usage),
    ] {
        let error = agent.types(line, PIPE).await.expect_err(line);
        assert!(error.to_string().contains(says), "{line}: {error}");
        assert_eq!(error.exit(), exit, "{line}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn without_an_agent_the_message_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let error = converse(&path, "lb-agent status", PIPE).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the agent is not running (no answer on {}); start it with: lb-agent run -c FILE", path.display())
    );
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = converse(&path, "lb-agent status", PIPE).await.unwrap_err();
    assert_eq!(error.exit(), Exit::NotRunning, "a socket that a dead agent left behind");
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error_that_says_so() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    for (answer, says) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "is not understood"),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops", "without a reason"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{", "broke off"),
        ("+PONG\r\n", "broke off"),
        ("", "broke off"),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0, "a question");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (shown, ()) = tokio::join!(converse(&path, "lb-agent status", PIPE), serve);
        let error = shown.expect_err(answer);
        assert!(error.to_string().contains(says), "{answer:?}: {error}");
        assert_eq!(error.exit(), Exit::Failed);
    }
}

/// The command line with the commands that are defined here and dispatched elsewhere.
fn whole() -> clap::Command {
    Cli::command()
}

fn every_command(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
    visit(command);
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        every_command(command, visit);
    }
}

#[test]
fn the_command_line_is_sound() {
    whole().debug_assert();
}

#[test]
fn every_command_says_what_it_does_and_has_examples_that_parse() {
    let mut examples = Vec::new();
    every_command(&whole(), &mut |command| {
        let name = command.get_name().to_owned();
        assert!(command.get_about().is_some(), "{name} says what it does");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} explains {}", argument.get_id());
        }
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own: Vec<_> = help
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("lb-agent "))
            // The shell's part is not ours.
            .map(|line| line.split(['|', '>']).next().unwrap_or_default().to_owned())
            .collect();
        assert!(!own.is_empty(), "{name} has an example");
        if name != "lb-agent" {
            assert!(own.iter().all(|line| words(line).contains(&name.as_str())), "{name}: {own:?}");
        }
        examples.extend(own);
    });
    assert!(examples.len() > 30, "{}", examples.len());
    for example in examples {
        if let Err(error) = whole().try_get_matches_from(words(&example)) {
            panic!("{example}: {error}");
        }
    }
}

#[test]
fn nonsense_is_refused_with_the_code_for_usage() {
    for line in [
        "lb-agent",
        "lb-agent explode",
        "lb-agent status --json -o csv",
        "lb-agent status -o xml",
        "lb-agent service show",
        "lb-agent backend drain web",
        "lb-agent backend drain /b1",
        "lb-agent backend drain web/",
        "lb-agent backend drain web/b1 --for 10",
        "lb-agent backend drain web/b1 --for 31d",
        "lb-agent backend weight web/b1",
        "lb-agent backend weight web/b1 1001",
        "lb-agent backend weight web/b1 -1",
        "lb-agent backend enable web/b1 --for 10m",
        "lb-agent flow list --limit 0",
        "lb-agent flow list --limit 10001",
        "lb-agent flow list web/",
        "lb-agent flow route 1.2.3.4 1.2.3.4:80",
        "lb-agent flow route 1.2.3.4:5 1.2.3.4:80/sctp",
        "lb-agent completions cmd",
        "lb-agent run",
        "lb-agent run -c a.yaml --vip 192.0.2.10:80 --backend 10.0.0.1:80",
        "lb-agent run -c a.yaml --interface eth0",
        "lb-agent run --vip 192.0.2.10:80",
        "lb-agent run --backend 10.0.0.1:80",
        "lb-agent run --vip 192.0.2.10 --backend 10.0.0.1:80",
        "lb-agent run -c a.yaml --log-format xml",
    ] {
        let error = whole().try_get_matches_from(words(line)).expect_err(line);
        assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}");
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    use clap::ValueEnum as _;
    for shell in clap_complete::Shell::value_variants() {
        let script = docs::completions(&args::CompletionsArgs { shell: *shell });
        assert!(script.contains("undrain"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    docs::man(&args::ManArgs { dir: Some(pages.clone()) }).unwrap();
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(page("lb-agent.1").contains("backend"));
    assert!(page("lb-agent-backend-drain.1").contains("lb\\-agent backend drain web/b1"));
    let mut commands = 0;
    every_command(&Cli::command(), &mut |_| commands += 1);
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), commands);
    assert!(docs::man(&args::ManArgs { dir: None }).unwrap().contains(".TH lb-agent 1"));
    let blocked = docs::man(&args::ManArgs { dir: Some("/dev/null/man".into()) }).unwrap_err();
    assert!(blocked.to_string().contains("/dev/null/man"));
}
