//! Rules about one file: its size, its opening words, unfinished work, silenced lints, paths of one machine.

use super::{TextFile, Violation, is_word, line_of, words};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// Marks of unfinished work, in two halves so that this file is not full of them.
const MARKS: [(&str, &str); 4] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")];
/// Macros that stand for code that is not there.
const UNFINISHED: [&str; 2] = ["unimplemented", "todo"];
/// Places on one machine that mean nothing on another: homes and workspaces. `/{}/` around each.
const MACHINE_PLACES: [&str; 4] = ["home", "root", "work", "Users"];

pub(super) fn check(file: &TextFile) -> Vec<Violation> {
    let mut violations = machine_paths(file);
    match &file.source {
        Some(source) => {
            violations.extend(size(file));
            violations.extend(opening(file));
            violations.extend(long_functions(file, &source.code));
            violations.extend(marks(file, &source.comments));
            violations.extend(unfinished(file, &source.code));
            violations.extend(silenced(file, &source.code));
        }
        None if file.is_markdown() => violations.extend(marks(file, &without_quotes(&file.text))),
        None => violations.extend(marks(file, &file.text)),
    }
    violations
}

fn size(file: &TextFile) -> Option<Violation> {
    let lines = file.text.lines().count();
    (lines > MAX_FILE_LINES).then(|| {
        let mend = format!("split it by what its parts do: at most {MAX_FILE_LINES}");
        file.violation(MAX_FILE_LINES + 1, format!("the file has {lines} lines"), mend)
    })
}

/// Every module says what it serves and owns. A file of tests says it by its name.
fn opening(file: &TextFile) -> Option<Violation> {
    let tests = file.path.ends_with("/tests.rs") || file.path.ends_with("_tests.rs");
    let is_module = file.path.contains("src/") && !tests;
    (is_module && !file.text.starts_with("//!"))
        .then(|| file.violation(1, "the module does not say what it serves", "begin it with `//!`"))
}

fn long_functions(file: &TextFile, code: &str) -> Vec<Violation> {
    let long = functions(code).into_iter().filter(|function| function.lines > MAX_FUNCTION_LINES);
    long.map(|Function { name, line, lines }| {
        let mend = format!("make several of it that do one thing each: at most {MAX_FUNCTION_LINES}");
        file.violation(line, format!("the function `{name}` has {lines} lines"), mend)
    })
    .collect()
}

#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// From `fn` to the closing brace.
    pub(super) lines: usize,
}

/// The functions that have a body, with those inside others.
pub(super) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let signature = &code[at + 2..];
        let name: String = signature.trim_start().chars().take_while(|c| is_word(*c) || *c == '$').collect();
        // Without a name it is the type of a pointer to a function.
        if name.is_empty() {
            continue;
        }
        if let Some(body) = body(signature) {
            let end = at + 2 + body + block(&signature[body..]);
            let lines = code[at..end].matches('\n').count() + 1;
            found.push(Function { name, line: line_of(code, at), lines });
        }
    }
    found
}

/// Where the body opens; none for a declaration.
fn body(signature: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut before = ' ';
    let mut skip_to = 0;
    for (at, c) in signature.char_indices() {
        if at < skip_to {
            continue;
        }
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            // A constant in a generic type: `Window<{ SIZE }>`.
            '{' if before == '<' => skip_to = at + block(&signature[at..]),
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    None
}

/// Length of the block that opens here, with its braces.
pub(super) fn block(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn marks(file: &TextFile, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (first, second) in MARKS {
        let mark = format!("{first}{second}");
        for at in words(text, &mark) {
            let what = format!("`{mark}` marks unfinished work");
            violations.push(file.violation(line_of(text, at), what, "finish it, or open an issue and remove the mark"));
        }
    }
    violations
}

/// Markdown speaks of code in backticks; what stands there is no mark.
fn without_quotes(text: &str) -> String {
    let mut quoted = false;
    text.chars()
        .map(|c| {
            quoted ^= c == '`';
            if quoted && c != '\n' { ' ' } else { c }
        })
        .collect()
}

fn unfinished(file: &TextFile, code: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for name in UNFINISHED {
        for at in words(code, name).filter(|at| code[at + name.len()..].starts_with('!')) {
            violations.push(file.violation(line_of(code, at), format!("`{name}!` is not code yet"), "write it"));
        }
    }
    violations
}

/// `#[allow(..)]`, `#![allow(..)]`, and either behind `cfg_attr`.
fn silenced(file: &TextFile, code: &str) -> Vec<Violation> {
    let is_attribute = |at: usize| {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        line.starts_with("#[") || line.starts_with("#![")
    };
    let found = words(code, "allow").filter(|at| code[at + "allow".len()..].starts_with('(') && is_attribute(*at));
    found
        .map(|at| {
            let mend = "write `expect(.., reason = \"..\")`, which fails when it is no longer needed";
            file.violation(line_of(code, at), "`allow` silences a lint for ever", mend)
        })
        .collect()
}

fn machine_paths(file: &TextFile) -> Vec<Violation> {
    let mut violations = Vec::new();
    for place in MACHINE_PLACES {
        for (at, path) in file.text.match_indices(&format!("/{place}/")) {
            // `net/work/x` and `$HOME/work/x` are parts of longer paths.
            let inside = file.text[..at].chars().next_back().is_some_and(|c| is_word(c) || ".-})*".contains(c));
            if !inside {
                let what = format!("`{path}` is a place on one machine");
                violations.push(file.violation(line_of(&file.text, at), what, "name it relative to the repository"));
            }
        }
    }
    violations
}
