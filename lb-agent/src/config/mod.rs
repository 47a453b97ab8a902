//! From YAML or command line options to [`Config`]. This module owns the format: keys, defaults, limits and rules,
//! and the errors that name file, line, column, field and mend. What is valid only on a given host (does the
//! interface exist, is bpffs mounted) is checked elsewhere, when the agent starts.

mod backend;
pub mod check;
mod flags;
mod health;
pub mod limits;
mod names;
mod reader;
mod report;
mod scenario;
mod schema;
mod service;
mod unsupported;
mod values;
mod yaml;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use self::flags::from_flags;
pub use self::report::{Errors, Problem};

use self::reader::{Read, Reader};
use self::report::{Collector, Position, Source, fault};
use self::yaml::{Node, Value};
use crate::model::config::Config;
use crate::model::scenario::Scenario;

/// Reads and validates a file.
pub fn load(path: &Path) -> Result<Config, Errors> {
    read(path, parse)
}

/// Reads and validates a scenario for the simulator, with the files that it names.
pub fn load_scenario(path: &Path) -> Result<Scenario, Errors> {
    let directory = path.parent().unwrap_or(Path::new(""));
    read(path, |name, text| document(name, text, |reader, root| scenario::scenario(reader, root, directory)))
}

fn read<T>(path: &Path, parse: impl FnOnce(&str, &str) -> Result<T, Errors>) -> Result<T, Errors> {
    let name = path.display().to_string();
    let unreadable = |error: &std::io::Error| {
        let mend = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run as a user who may read it",
            _ => "check the path behind `-c`",
        };
        Errors::one(Problem::of_file(&name, fault(format!("the file cannot be read ({error})"), mend)))
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    File::open(path)
        .and_then(|file| file.take(limits::MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(&name, text),
        Err(_) if bytes.len() > limits::MAX_FILE_BYTES => Err(too_large(&name)),
        Err(error) => Err(not_utf8(&name, &bytes, error.valid_up_to())),
    }
}

/// Validates a text; `file_name` is what errors call it.
pub fn parse(file_name: &str, text: &str) -> Result<Config, Errors> {
    document(file_name, text, schema::config)
}

fn document<T>(
    file_name: &str,
    text: &str,
    schema: impl FnOnce(&mut Reader<'_>, &Node) -> Read<T>,
) -> Result<T, Errors> {
    if text.len() > limits::MAX_FILE_BYTES {
        return Err(too_large(file_name));
    }
    let mut reader = Reader { collector: Collector::new(Source::File { name: file_name, text }) };
    let config = match yaml::parse(text) {
        Ok(Node { value: Value::Null, .. }) => {
            let at = Position { line: 1, column: 1, chars: 1 };
            let found = fault("the file has no content", "give at least `interfaces` and `services`");
            reader.fail(at, "", found);
            None
        }
        Ok(root) => schema(&mut reader, &root).ok(),
        Err((at, found)) => {
            reader.fail(at, "", found);
            None
        }
    };
    reader.collector.into_result(config)
}

fn too_large(name: &str) -> Errors {
    let found =
        fault(format!("the file is larger than {} bytes", limits::MAX_FILE_BYTES), "split it into several agents");
    Errors::one(Problem::of_file(name, found))
}

fn not_utf8(name: &str, bytes: &[u8], valid_bytes: usize) -> Errors {
    let text = String::from_utf8_lossy(bytes);
    let valid = &text[..valid_bytes];
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let at = Position {
        line: narrow(valid.split('\n').count()),
        column: narrow(valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1),
        chars: 1,
    };
    let mut collector = Collector::new(Source::File { name, text: &text });
    collector.report(at, None, fault("the file is not UTF-8 here", "save it as UTF-8"));
    collector.into_errors()
}
