//! `cargo xtask tidy`: the house rules that neither the compiler nor clippy knows, held against every file of the
//! repository. It owns the walk over the files and the report; each rule is a function from text to violations.

mod docs;
mod layers;
mod lexer;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use lexer::Source;

use crate::out::say;

/// Directories that hold nothing of ours: build output and version control.
const SKIPPED: &[&str] = &["target", ".git"];

/// Something that breaks a rule, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: String,
    /// From 1.
    line: usize,
    what: String,
    mend: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}, {}", self.file, self.line, self.what, self.mend)
    }
}

/// A file of the repository. Its path is relative, with `/`.
#[derive(Debug)]
struct TextFile {
    path: String,
    text: String,
    /// For Rust files.
    source: Option<Source>,
}

impl TextFile {
    fn new(path: &str, text: String) -> Self {
        let source = path.ends_with(".rs").then(|| lexer::split(&text));
        Self { path: path.to_owned(), text, source }
    }

    fn violation(&self, line: usize, what: impl Into<String>, mend: impl Into<String>) -> Violation {
        Violation { file: self.path.clone(), line, what: what.into(), mend: mend.into() }
    }

    fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }
}

/// Prints every violation below `root`.
///
/// # Errors
/// When there are violations, or when a file cannot be read.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    ensure!(files.iter().any(|file| file.path == "Cargo.toml"), "{} is not the repository", root.display());
    let violations = check(&files);
    for violation in &violations {
        say(&violation.to_string())?;
    }
    if !violations.is_empty() {
        bail!("{} house rules are broken; CONTRIBUTING.md says why they are there", violations.len());
    }
    say(&format!("tidy: {} files keep the house rules", files.len()))?;
    Ok(())
}

fn check(files: &[TextFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        violations.extend(rules::check(file));
        violations.extend(layers::check(file));
    }
    violations.extend(docs::check(files));
    violations.sort();
    violations
}

/// Every file that is text, in the order of the names.
fn collect(root: &Path, below: &str, files: &mut Vec<TextFile>) -> Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(|| format!("reading {below}"))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type().with_context(|| format!("looking at {path}"))?;
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("reading {path}"))?;
            // What is not text breaks no rule about text.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(TextFile::new(&path, text));
            }
        }
    }
    Ok(())
}

/// The line, from 1, that the byte at `offset` is on.
fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where `word` stands in `text` as a word of its own.
fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
