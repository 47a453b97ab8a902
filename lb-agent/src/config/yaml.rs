//! YAML text to a tree of nodes that know where they stand in the file. The tree is untyped on purpose: the
//! readers above it can then report every mistake of a file at once, where typed deserialization stops at the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::limits;
use super::report::{Fault, Position, fault};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// Scalars stay text: which type a value has is the schema's business, so `name: 0123` keeps its zero.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, repeated keys included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// The whole document. An error is about the YAML itself; the parser stops at the first.
pub(super) fn parse(text: &str) -> Result<Node, (Position, Fault)> {
    let options = serde_saphyr::options! {
        // Repeated keys reach the reader, which reports them beside everything else.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: limits::MAX_NESTING,
            max_nodes: limits::MAX_NODES,
            max_events: 3 * limits::MAX_NODES,
            max_total_scalar_bytes: limits::MAX_FILE_BYTES,
            max_buffered_comment_events: usize::MAX,
            // One shared `health` for hundreds of services is good style, not an attack.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: limits::MAX_NODES,
            max_replay_stack_depth: limits::MAX_NESTING,
        },
    };
    serde_saphyr::from_str_with_options::<Raw>(text, options)
        .map(|raw| raw.resolve(text))
        .map_err(|e| refusal(&e, text))
}

/// A node as the parser gives it; numbers and booleans still have to get their text back from the source.
struct Raw {
    at: Location,
    value: RawValue,
}

enum RawValue {
    Null,
    Text(String),
    /// A scalar that YAML takes for a number or boolean, with the text that it would have if written canonically.
    Typed(String),
    List(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

impl Raw {
    /// Recursion is bounded by [`limits::MAX_NESTING`].
    fn resolve(self, source: &str) -> Node {
        let value = match self.value {
            RawValue::Null => Value::Null,
            RawValue::Text(text) => Value::Text(text),
            RawValue::Typed(canonical) => Value::Text(written(self.at, source).map_or(canonical, str::to_owned)),
            RawValue::List(items) => Value::List(items.into_iter().map(|item| item.resolve(source)).collect()),
            RawValue::Map(entries) => {
                Value::Map(entries.into_iter().map(|(k, v)| (k.resolve(source), v.resolve(source))).collect())
            }
        };
        let mut at = position(self.at);
        // The parser's span of a block collection is empty or reaches far: its first entry is the better place to show.
        match &value {
            Value::Map(entries) => at = entries.first().map_or(at, |(key, _)| key.at),
            Value::List(_) => at.chars = 1,
            _ => {}
        }
        Node { at, value }
    }
}

/// The source text of a plain scalar.
fn written(at: Location, source: &str) -> Option<&str> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let len = usize::try_from(at.span().byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(len)?)?.trim();
    // A tagged scalar (`!!int "5"`) may have quotes in its span; only bare text is what it looks like.
    (!text.is_empty() && !text.starts_with(['"', '\'', '!', '|', '>'])).then_some(text)
}

fn position(at: Location) -> Position {
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Position { line: narrow(at.line()), column: narrow(at.column()), chars: narrow(at.span().len()) }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<RawValue>::deserialize(deserializer)?;
        // Behind an alias or a merge the place to mend is where the text stands, not where it is used.
        Ok(Self { at: spanned.defined, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<RawValue, E> {
        Ok(RawValue::Text(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

/// The parser's error in our words: where, what, and what to do.
fn refusal(error: &Error, source: &str) -> (Position, Fault) {
    let error = innermost(error);
    let mut at = error.location().map(position).filter(|at| at.line > 0).unwrap_or_else(|| end_of(source));
    at.chars = at.chars.min(1);
    let found = match error {
        Error::MultipleDocuments { .. } => {
            fault("a second YAML document begins here", "keep one document per file, without a further `---`")
        }
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => fault(
            "the file is too deep or too large",
            format!(
                "keep to {} levels of nesting and {} values, aliases counted at full size",
                limits::MAX_NESTING,
                limits::MAX_NODES
            ),
        ),
        Error::UnknownAnchor { .. } => {
            fault("the alias names no anchor", "define `&name` above the place that uses `*name`")
        }
        other => {
            let message = UserMessageFormatter.format_message(other);
            let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
            let mend = syntax_mend(&message);
            fault(format!("not valid YAML: {message}"), mend)
        }
    };
    (at, found)
}

fn innermost(error: &Error) -> &Error {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => innermost(error),
        other => other,
    }
}

fn syntax_mend(message: &str) -> &'static str {
    if message.starts_with("unsupported tag") {
        "remove the tag, or quote the value if it begins with `!`"
    } else if message.split_whitespace().any(|word| matches!(word, "tab" | "tabs")) {
        "indent with spaces, YAML does not allow tabs"
    } else {
        "check brackets, quotes, `key: value` and the indentation here and on the line above"
    }
}

/// The last character of the source.
fn end_of(source: &str) -> Position {
    let line = source.lines().count().max(1);
    let column = source.lines().last().map_or(1, |text| text.chars().count().max(1));
    let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Position { line: narrow(line), column: narrow(column), chars: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as `line:column+chars text`, one node per line.
    fn dump(node: &Node, depth: usize, out: &mut String) {
        let Position { line, column, chars } = node.at;
        let pad = "  ".repeat(depth);
        match &node.value {
            Value::Null => out.push_str(&format!("{pad}{line}:{column}+{chars} null\n")),
            Value::Text(text) => out.push_str(&format!("{pad}{line}:{column}+{chars} {text:?}\n")),
            Value::List(items) => {
                out.push_str(&format!("{pad}{line}:{column}+{chars} list\n"));
                items.iter().for_each(|item| dump(item, depth + 1, out));
            }
            Value::Map(entries) => {
                out.push_str(&format!("{pad}{line}:{column}+{chars} map\n"));
                for (key, value) in entries {
                    dump(key, depth + 1, out);
                    dump(value, depth + 2, out);
                }
            }
        }
    }

    fn tree(text: &str) -> String {
        let mut out = String::new();
        match parse(text) {
            Ok(node) => dump(&node, 0, &mut out),
            Err((at, fault)) => out.push_str(&format!("{at:?} {fault:?}")),
        }
        out
    }

    #[test]
    fn scalars_keep_the_text_and_the_place_that_they_have_in_the_file() {
        assert_eq!(
            tree("a: 007\nb: 1.50\nc: yes\nd: \"5\"\ne:\nf: ~\ng: .inf\nh: !!int \"5\"\nä: ö\n"),
            "1:1+1 map\n  1:1+1 \"a\"\n    1:4+3 \"007\"\n  2:1+1 \"b\"\n    2:4+4 \"1.50\"\n  3:1+1 \"c\"\n    \
             3:4+3 \"yes\"\n  4:1+1 \"d\"\n    4:4+3 \"5\"\n  5:1+1 \"e\"\n    5:2+0 null\n  6:1+1 \"f\"\n    \
             6:4+1 null\n  7:1+1 \"g\"\n    7:4+4 \".inf\"\n  8:1+1 \"h\"\n    8:10+3 \"5\"\n  9:1+1 \"ä\"\n    \
             9:4+1 \"ö\"\n"
        );
    }

    #[test]
    fn aliases_and_merges_point_at_where_the_text_stands() {
        assert_eq!(
            tree("h: &h {i: 5s}\ns:\n  - {h: *h}\n  - <<: *h\n    j: 1\n    j: 2\n"),
            "1:1+1 map\n  1:1+1 \"h\"\n    1:8+1 map\n      1:8+1 \"i\"\n        1:11+2 \"5s\"\n  2:1+1 \"s\"\n    \
             3:3+1 list\n      3:6+1 map\n        3:6+1 \"h\"\n          1:8+1 map\n            1:8+1 \"i\"\n              \
             1:11+2 \"5s\"\n      5:5+1 map\n        5:5+1 \"j\"\n          5:8+1 \"1\"\n        6:5+1 \"j\"\n          \
             6:8+1 \"2\"\n        1:8+1 \"i\"\n          1:11+2 \"5s\"\n"
        );
    }

    #[test]
    fn each_refusal_has_a_place_and_a_mend() {
        for (text, place, message) in [
            ("a: [1\nb: 2\n", (2, 2), "not valid YAML"),
            ("a: b: c\n", (1, 5), "not valid YAML"),
            ("a: \"unclosed\n", (2, 1), "not valid YAML"),
            ("a: *nope\n", (1, 4), "alias names no anchor"),
            ("a: &x [*x]\n", (1, 8), "Recursive"),
            ("a: !foo 5\n", (1, 9), "unsupported tag"),
            ("a: 1\n---\nb: 2\n", (3, 1), "second YAML document"),
        ] {
            let (at, found) = parse(text).expect_err(text);
            assert_eq!((at.line, at.column), place, "{text:?}");
            assert!(found.message.contains(message), "{text:?}: {}", found.message);
            assert!(!found.mend.is_empty());
        }
    }
}
