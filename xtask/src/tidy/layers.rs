//! The dependency rule of ARCHITECTURE.md: which module may know which, where the kernel may be spoken to, and which
//! code has neither I/O nor a clock. Tests may know everything.

use super::{TextFile, Violation, is_word, line_of, rules, words};

const AGENT: &str = "lb-agent/src/";

/// Each module of the agent, and the others that it may know.
const MODULES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("slots", &["model"]),
    ("health", &["model"]),
    ("engine", &["model", "slots", "health"]),
    ("policy", &["model"]),
    ("sim", &["model", "config", "policy"]),
    ("os", &["model"]),
    ("dataplane", &["model", "os"]),
    ("api", &["model"]),
    ("decap", &["model", "os", "dataplane"]),
    ("load", &["model"]),
    ("demo_backend", &["model", "load"]),
    ("doctor", &["model", "config", "os"]),
    // The composition root and the command line join the parts.
    ("run", &["model", "config", "slots", "health", "engine", "os", "dataplane", "api", "cli"]),
    ("cli", &["model", "config", "dataplane", "api", "decap", "load", "demo_backend", "doctor", "run", "sim"]),
];

/// Words that only some places may use, and why.
struct Reserved {
    words: &'static [&'static str],
    only_in: &'static [&'static str],
    mend: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["aya", "aya_obj"],
        // The packet rows look into maps behind the agent's back: a test that asked the agent would only hear its opinion.
        // The benchmark loads programs of its own, which the agent does not know.
        only_in: &["lb-agent/src/dataplane/kernel/", "tests/src/packets/", "xtask/src/bench/programs.rs"],
        mend: "give `dataplane::kernel` a function or a type for it",
    },
    Reserved {
        words: &["aya_ebpf"],
        only_in: &["lb-ebpf/src/bpf.rs", "lb-ebpf/src/bpf/", "xtask/ebpf/src/bpf.rs"],
        mend: "ask for it through the trait `Tables`, so that host tests reach the step",
    },
];

/// Code that decides: the same input gives the same result, so it has no I/O, no clock and no randomness of its own.
const PURE: &[&str] = &[
    "lb-common/src/",
    "lb-ebpf/src/answer.rs",
    "lb-ebpf/src/decap.rs",
    "lb-ebpf/src/forward.rs",
    "lb-ebpf/src/icmp.rs",
    "lb-ebpf/src/lib.rs",
    "lb-ebpf/src/reply.rs",
    "lb-ebpf/src/request.rs",
    "lb-ebpf/src/steps.rs",
    "lb-ebpf/src/tables.rs",
    "lb-agent/src/model/",
    "lb-agent/src/engine/",
    "lb-agent/src/slots/",
    "lb-agent/src/policy/",
    "lb-agent/src/health/verdict.rs",
    "lb-agent/src/health/starvation.rs",
    "lb-agent/src/health/schedule.rs",
];
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "rtnetlink",
    "socket2",
    "nix",
    "libc",
    "std::fs",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "rand::rng",
    "TcpStream",
    "UdpSocket",
];

pub(super) fn check(file: &TextFile) -> Vec<Violation> {
    let Some(source) = &file.source else { return Vec::new() };
    if !file.path.contains("src/") || file.path.ends_with("tests.rs") || file.path.contains("/tests/") {
        return Vec::new();
    }
    let code = without_tests(&source.code);
    let mut violations = modules(file, &code);
    for reserved in RESERVED.iter().filter(|reserved| !starts_with_any(&file.path, reserved.only_in)) {
        violations.extend(forbidden(file, &code, reserved.words, "belongs elsewhere", reserved.mend));
    }
    if starts_with_any(&file.path, PURE) {
        let mend = "take what it gives as an argument: deciding is separate from doing";
        violations.extend(forbidden(file, &code, IMPURE, "has no place in code that only decides", mend));
    }
    violations
}

fn starts_with_any(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

fn forbidden(file: &TextFile, code: &str, list: &[&str], what: &str, mend: &str) -> Vec<Violation> {
    let found = list.iter().flat_map(|word| words(code, word).map(move |at| (*word, at)));
    found.map(|(word, at)| file.violation(line_of(code, at), format!("`{word}` {what}"), mend)).collect()
}

/// Which modules of the agent the file knows, against [`MODULES`].
fn modules(file: &TextFile, code: &str) -> Vec<Violation> {
    let Some((own, rest)) = file.path.strip_prefix(AGENT).and_then(|path| path.split_once(['/', '.'])) else {
        return Vec::new();
    };
    // `lib.rs` and `main.rs` are above all modules.
    if rest == "rs" && matches!(own, "lib" | "main") {
        return Vec::new();
    }
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == own) else {
        let mend = "say in xtask/src/tidy/layers.rs which modules it may know";
        return vec![file.violation(1, format!("`{own}` has no place among the modules"), mend)];
    };
    let known = roots(code, depth(&file.path)).into_iter();
    let wrong = known.filter(|(name, _)| *name != own && MODULES.iter().any(|(module, _)| module == name));
    wrong
        .filter(|(name, _)| !allowed.contains(name))
        .map(|(name, at)| {
            let mend = format!("`{own}` may know {}: move the type to `model`, or the work to `run`", list(allowed));
            file.violation(line_of(code, at), format!("`{own}` knows `{name}`"), mend)
        })
        .collect()
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "no other".to_owned() } else { names.join(", ") }
}

/// How many `super` lead from this file's module to the root of its crate.
fn depth(path: &str) -> usize {
    let inside = path.strip_prefix(AGENT).unwrap_or(path);
    let parts = inside.split('/').count();
    if inside.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// The names directly below the crate's root that the code mentions, and where.
pub(super) fn roots(code: &str, depth: usize) -> Vec<(&str, usize)> {
    let up = vec!["super"; depth].join("::") + "::";
    let mut found = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let longer = code[..at].ends_with("::") || code[..at].ends_with(is_word);
            if !longer {
                found.extend(names(&code[at + prefix.len()..]).into_iter().map(|name| (name, at)));
            }
        }
    }
    found
}

/// The first segments of a path, or of each path in `{a::b, c}`.
fn names(path: &str) -> Vec<&str> {
    let first = |path: &str| path.find(|c| !is_word(c)).unwrap_or(path.len());
    if !path.starts_with('{') {
        return vec![&path[..first(path)]];
    }
    let group = &path[1..rules::block(path).saturating_sub(1).max(1)];
    let mut depth = 0_usize;
    let parts = group.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim_start).map(|part| &part[..first(part)]).filter(|name| !name.is_empty()).collect()
}

/// The code with blanks where modules of tests stand.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, marked) = rest.split_at(at);
        out.push_str(before);
        // What it applies to ends with a block or, for `mod tests;`, with a semicolon.
        let end = match marked.find(['{', ';']) {
            Some(open) if marked[open..].starts_with('{') => open + rules::block(&marked[open..]),
            Some(semicolon) => semicolon + 1,
            None => marked.len(),
        };
        out.extend(marked[..end].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &marked[end..];
    }
    out + rest
}
