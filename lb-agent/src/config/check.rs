//! `lb-agent check`: says whether a file is a valid configuration, and if not, everything that is wrong with it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Errors, load};
use crate::model::config::Config;

/// The contract's code for usage errors and invalid configurations.
const EXIT_INVALID: u8 = 2;

/// Validate a configuration file; attaches nothing and needs no privileges
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lb-agent check -c /etc/lb/lb.yaml
  lb-agent check -c lb.yaml --json

Exit codes: 0 the file is valid; 2 it is not, or cannot be read.")]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,

    /// Print the configuration with all defaults, or the errors, as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints for a valid file.
#[derive(Debug, Serialize)]
struct Valid<'a> {
    file: String,
    services: usize,
    backends: usize,
    config: &'a Config,
}

pub fn run(args: &CheckArgs) -> ExitCode {
    match report(args, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(code) => ExitCode::from(code),
        // Whoever reads the output has gone away; there is nobody left to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

fn report(args: &CheckArgs, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    match load(&args.config) {
        Ok(config) => {
            print_valid(args, &config, out)?;
            Ok(0)
        }
        Err(errors) => {
            print_errors(args, &errors, out, err)?;
            Ok(EXIT_INVALID)
        }
    }
}

fn print_valid(args: &CheckArgs, config: &Config, out: &mut impl Write) -> io::Result<()> {
    let file = args.config.display().to_string();
    let services = config.services.len();
    let backends = config.services.iter().map(|service| service.backends.len()).sum();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &Valid { file, services, backends, config })?;
        return writeln!(out);
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    writeln!(out, "{file}: valid: {}, {}", count(services, "service"), count(backends, "backend"))
}

fn print_errors(args: &CheckArgs, errors: &Errors, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
    if args.json {
        serde_json::to_writer_pretty(&mut *out, errors.problems())?;
        return writeln!(out);
    }
    write!(err, "{errors}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    const VALID: &str =
        "interfaces: [eth0]\nservices: [{name: web, vip: 192.0.2.10, port: 80, backends: [{address: 10.0.1.11}]}]\n";

    /// The arguments as the binary nests them.
    #[derive(Debug, Parser)]
    enum Cli {
        Check(CheckArgs),
    }

    /// Exit code, stdout and stderr of a check of `text`, with the directory's name taken out.
    fn check(text: Option<&[u8]>, json: bool) -> (u8, String, String) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lb.yaml");
        if let Some(text) = text {
            fs::write(&path, text).expect("write");
        }
        let mut args = vec!["lb-agent".into(), "check".into(), "-c".into(), path.into_os_string()];
        args.extend(json.then(|| "--json".into()));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let Cli::Check(args) = Cli::parse_from(args);
        let code = report(&args, &mut out, &mut err).expect("writing to memory");
        let clean = |bytes| {
            let prefix = format!("{}/", dir.path().display());
            String::from_utf8(bytes).expect("UTF-8").replace(&prefix, "")
        };
        (code, clean(out), clean(err))
    }

    #[test]
    fn help_has_an_example() {
        let help = Cli::try_parse_from(["lb-agent", "check", "--help"]).expect_err("help").to_string();
        assert!(help.contains("lb-agent check -c /etc/lb/lb.yaml"), "{help}");
        assert!(help.starts_with("Validate a configuration file"), "{help}");
    }

    #[test]
    fn a_valid_file_is_one_line() {
        let expected = (0, "lb.yaml: valid: 1 service, 1 backend\n".to_owned(), String::new());
        assert_eq!(check(Some(VALID.as_bytes()), false), expected);
    }

    #[test]
    fn json_of_a_valid_file_has_the_defaults() {
        let (code, out, err) = check(Some(VALID.as_bytes()), true);
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!((&json["services"], &json["backends"]), (&1.into(), &1.into()));
        assert_eq!(json["config"]["services"][0]["health"]["interval"], 1000);
        assert_eq!(json["config"]["flow_table"], 1 << 20);
    }

    #[test]
    fn errors_go_to_stderr_and_as_json_to_stdout() {
        let text = VALID.replace("port: 80", "port: 70000");
        let (code, out, err) = check(Some(text.as_bytes()), false);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.starts_with("lb.yaml:2:47: services[0].port: 70000 is out of range, use 1 to 65535\n"), "{err}");

        let (code, out, err) = check(Some(text.as_bytes()), true);
        assert_eq!((code, err.as_str()), (2, ""));
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let expected = serde_json::json!([{
            "file": json[0]["file"], "line": 2, "column": 47, "field": "services[0].port",
            "message": "70000 is out of range", "mend": "use 1 to 65535",
        }]);
        assert_eq!(json, expected);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (code, out, err) = check(None, false);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.starts_with("lb.yaml: the file cannot be read (No such file or directory"), "{err}");
        assert!(err.contains("check the path"), "{err}");

        let (code, _, err) = check(Some(b"interfaces: [eth0]\nhook: \xff\n"), false);
        assert_eq!(code, 2);
        assert!(err.starts_with("lb.yaml:2:7: the file is not UTF-8"), "{err}");

        let (code, _, err) = check(Some(&vec![b'#'; super::super::limits::MAX_FILE_BYTES + 1]), false);
        assert_eq!(code, 2);
        assert!(err.starts_with("lb.yaml: the file is larger than 4194304 bytes"), "{err}");
    }
}
