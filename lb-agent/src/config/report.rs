//! What is wrong with a configuration and how it is shown: one [`Problem`] per mistake, with its place in the
//! file, and [`Errors`] for all of them. The text is stable: scripts and snapshot tests compare it.

use std::fmt;
use std::fmt::Write as _;

use serde::Serialize;

use super::limits;

/// Characters of a user's own text that an error repeats.
const SHOWN_CHARS: usize = 80;
/// Columns of a source line that an excerpt shows.
const EXCERPT_CHARS: usize = 120;
/// Columns kept before the caret when a long line is cropped.
const EXCERPT_LEAD_CHARS: usize = 60;

/// What is wrong with one value and how to mend it, before anybody knows where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) mend: String,
}

pub(super) fn fault(message: impl Into<String>, mend: impl Into<String>) -> Fault {
    Fault { message: message.into(), mend: mend.into() }
}

/// A user's text as an error repeats it: short, and harmless to a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == SHOWN_CHARS {
            out.push('…');
            break;
        }
        if is_unprintable(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same in backquotes.
pub(super) fn shown(text: &str) -> String {
    format!("`{}`", printable(text))
}

/// Control characters, and those that reorder or hide the text around them.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A stretch of one line; lines and columns count from 1, columns in characters. Line 0: nowhere in the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) chars: u32,
}

/// Where the text came from, which decides how a place in it is called.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    File {
        name: &'a str,
        text: &'a str,
    },
    /// Command line options, one per line.
    Flags {
        text: &'a str,
    },
}

impl<'a> Source<'a> {
    fn text(self) -> &'a str {
        match self {
            Source::File { text, .. } | Source::Flags { text } => text,
        }
    }

    /// A place as the text of another problem names it: `line 7`, or the option itself.
    pub(super) fn place(self, at: Position) -> String {
        match self {
            Source::File { .. } => format!("line {}", at.line),
            Source::Flags { text } => shown(nth_line(text, at.line)),
        }
    }
}

fn nth_line(text: &str, line: u32) -> &str {
    (line as usize).checked_sub(1).and_then(|index| text.lines().nth(index)).unwrap_or("command line")
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, or the command line option.
    pub file: String,
    /// From 1; none where the whole file or an option is meant.
    pub line: Option<u32>,
    /// From 1, in characters.
    pub column: Option<u32>,
    /// `services[1].backends[0].port`; none for mistakes in the YAML itself.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// The source line under a problem, with tabs and unprintable characters already replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Characters before the caret.
    indent: usize,
    carets: usize,
}

impl Problem {
    /// A problem with the file as a whole: it cannot be read, it is too large.
    pub(super) fn of_file(name: &str, fault: Fault) -> Self {
        Self {
            file: name.to_owned(),
            line: None,
            column: None,
            field: None,
            message: fault.message,
            mend: fault.mend,
            excerpt: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        writeln!(f, ": {}, {}", self.message, self.mend)?;
        if let (Some(line), Some(excerpt)) = (self.line, &self.excerpt) {
            let number = line.to_string();
            let margin = number.len();
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{}", format!("{number} | {}", excerpt.text).trim_end())?;
            writeln!(
                f,
                "{:margin$} | {:indent$}{:^<carets$}",
                "",
                "",
                "",
                indent = excerpt.indent,
                carets = excerpt.carets
            )?;
        }
        Ok(())
    }
}

/// Every mistake of one configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    problems: Vec<Problem>,
    /// Problems beyond the first [`limits::MAX_REPORTED_ERRORS`].
    omitted: usize,
}

impl Errors {
    pub(super) fn one(problem: Problem) -> Self {
        Self { problems: vec![problem], omitted: 0 }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems there were beyond those that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            problem.fmt(f)?;
        }
        if self.omitted > 0 {
            writeln!(f, "\n{} more errors are not shown", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Gathers mistakes while a configuration is read; [`Collector::into_errors`] gives them their excerpts.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    pub(super) source: Source<'a>,
    found: Vec<(Position, Option<String>, Fault)>,
    omitted: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self { source, found: Vec::new(), omitted: 0 }
    }

    pub(super) fn report(&mut self, at: Position, field: Option<String>, fault: Fault) {
        if self.is_full() {
            self.omit();
        } else {
            self.found.push((at, field, fault));
        }
    }

    /// Nothing more is kept: who finds the next mistake may spare the work of describing it.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= limits::MAX_REPORTED_ERRORS
    }

    /// Counts a mistake that was not described.
    pub(super) fn omit(&mut self) {
        self.omitted += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was read, if nothing was wrong with it.
    pub(super) fn into_result<T>(self, read: Option<T>) -> Result<T, Errors> {
        match read {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.into_errors()),
        }
    }

    pub(super) fn into_errors(mut self) -> Errors {
        debug_assert!(!self.is_empty(), "a reader gave up without saying why");
        // Stable: problems of one place keep the order in which they were found.
        self.found.sort_by_key(|(at, ..)| (at.line, at.column));
        let lines: Vec<&str> = self.source.text().split('\n').collect();
        let problems = self
            .found
            .into_iter()
            .map(|(at, field, fault)| match self.source {
                Source::File { name, .. } if at.line > 0 => Problem {
                    file: name.to_owned(),
                    line: Some(at.line),
                    column: Some(at.column),
                    field,
                    message: fault.message,
                    mend: fault.mend,
                    excerpt: lines.get(at.line as usize - 1).map(|line| excerpt(line, at)),
                },
                Source::File { name, .. } => Problem { field, ..Problem::of_file(name, fault) },
                Source::Flags { text } => Problem {
                    // The option says where; of the path only its end means something to who gave an option.
                    field: field.map(|path| path.rsplit('.').next().unwrap_or_default().to_owned()),
                    ..Problem::of_file(nth_line(text, at.line), fault)
                },
            })
            .collect();
        Errors { problems, omitted: self.omitted }
    }
}

fn excerpt(line: &str, at: Position) -> Excerpt {
    let line = line.trim_end();
    let caret = (at.column as usize).saturating_sub(1);
    let crop = if caret < EXCERPT_CHARS { 0 } else { caret - EXCERPT_LEAD_CHARS };
    let text: String = line
        .chars()
        .skip(crop)
        .take(EXCERPT_CHARS)
        .map(|c| match c {
            '\t' => ' ',
            c if is_unprintable(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect();
    let room = text.chars().count().saturating_sub(caret - crop);
    Excerpt { indent: caret - crop, carets: (at.chars as usize).clamp(1, room.max(1)), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, at: Position) -> String {
        let mut collector = Collector::new(Source::File { name: "lb.yaml", text });
        collector.report(at, Some("services[0].port".to_owned()), fault("70000 is out of range", "use 1 to 65535"));
        collector.into_errors().to_string()
    }

    #[test]
    fn the_caret_stands_under_the_value() {
        assert_eq!(
            rendered("a:\n  port: 70000 # web\n", Position { line: 2, column: 9, chars: 5 }),
            "lb.yaml:2:9: services[0].port: 70000 is out of range, use 1 to 65535\n  |\n2 |   port: 70000 # web\n  |         ^^^^^\n"
        );
    }

    #[test]
    fn a_long_or_hostile_line_is_cropped_and_neutralised() {
        let text = format!("{}\u{1b}[31m{}", "x".repeat(5_000), "y".repeat(5_000));
        let shown = rendered(&text, Position { line: 1, column: 5_001, chars: 4_000 });
        assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn places_outside_the_text_do_no_harm() {
        for at in [Position { line: 99, column: 1, chars: 1 }, Position { line: 1, column: 900, chars: 9 }] {
            assert!(rendered("a: b", at).contains("services[0].port"));
        }
    }

    #[test]
    fn errors_beyond_the_limit_are_counted() {
        let mut collector = Collector::new(Source::File { name: "lb.yaml", text: "a" });
        for _ in 0..limits::MAX_REPORTED_ERRORS + 7 {
            collector.report(Position { line: 1, column: 1, chars: 1 }, None, fault("wrong", "mend it"));
        }
        let errors = collector.into_errors();
        assert_eq!((errors.problems().len(), errors.omitted()), (limits::MAX_REPORTED_ERRORS, 7));
        assert!(errors.to_string().ends_with("\n7 more errors are not shown\n"));
    }

    #[test]
    fn repeated_text_is_short_and_printable() {
        assert_eq!(shown("a\r\nb"), "`a\\r\\nb`");
        assert_eq!(shown(&"z".repeat(500)).chars().count(), SHOWN_CHARS + 3);
    }
}
