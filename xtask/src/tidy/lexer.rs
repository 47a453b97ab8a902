//! Splits Rust source into code, comments and literals, line by line, so that a rule about code does not trip over a
//! string and a rule about comments not over code. By hand because the rules are about text that a parser throws away
//! (comments, lines), and because forty lines are easier to trust than a parser that follows the language.

/// The text twice, each time with the same lines and with blanks for what does not belong there.
#[derive(Debug)]
pub(super) struct Source {
    /// Without comments, and without the insides of strings and character literals.
    pub(super) code: String,
    /// Only the comments.
    pub(super) comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub(super) fn split(text: &str) -> Source {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    let mut after_word = false;
    while !rest.is_empty() {
        let (kind, length) = token(rest, after_word);
        let (piece, remaining) = rest.split_at(length);
        code.push_str(&if kind == Kind::Code { piece.to_owned() } else { blank(piece) });
        comments.push_str(&if kind == Kind::Comment { piece.to_owned() } else { blank(piece) });
        after_word = kind == Kind::Code && piece.ends_with(super::is_word);
        rest = remaining;
    }
    Source { code, comments }
}

fn blank(piece: &str) -> String {
    piece.chars().map(|c| if c == '\n' { c } else { ' ' }).collect()
}

/// What begins here, and its length. Code comes character by character.
fn token(rest: &str, after_word: bool) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if let Some(length) = raw_string(rest).filter(|_| !after_word) {
        return (Kind::Literal, length);
    }
    match rest.chars().next() {
        Some('"') => (Kind::Literal, quoted(rest, '"')),
        Some('\'') if is_character(rest) => (Kind::Literal, quoted(rest, '\'')),
        first => (Kind::Code, first.map_or(1, char::len_utf8)),
    }
}

/// They nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`, `br"..."` and so on.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = if rest.starts_with('r') { 1 } else { 2 };
    if !["r", "br", "cr"].contains(&rest.get(..prefix)?) {
        return None;
    }
    let hashes = rest[prefix..].len() - rest[prefix..].trim_start_matches('#').len();
    let inside = rest[prefix + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(prefix + hashes + 1 + length)
}

/// A literal with backslashes in it, up to and with the closing quote.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    rest.len()
}

/// A character and not a lifetime: `'a'` or `'\n'`, not `'a`.
fn is_character(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}
