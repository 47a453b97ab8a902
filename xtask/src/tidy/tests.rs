use super::docs::{self, Row};
use super::{TextFile, Violation, layers, lexer, rules};

fn file(path: &str, text: &str) -> TextFile {
    TextFile::new(path, text.to_owned())
}

/// Lines and words of what is found.
fn check(found: &[Violation], expected: &[(usize, &str)]) {
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{shown:#?}");
    for (violation, (line, words)) in found.iter().zip(expected) {
        assert!(violation.line == *line && violation.to_string().contains(words), "{line} {words}: {violation}");
    }
}

fn rule(path: &str, text: &str, expected: &[(usize, &str)]) {
    check(&rules::check(&file(path, text)), expected);
}

fn layer(path: &str, text: &str, expected: &[(usize, &str)]) {
    check(&layers::check(&file(path, text)), expected);
}

/// What is left of the code, blanks squeezed.
fn code(text: &str) -> String {
    lexer::split(text).code.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn strings_and_comments_are_no_code() {
    for (text, expected) in [
        ("a // b\nc", "a c"),
        ("a /* b /* c */ d */ e", "a e"),
        (r#"f("a \" b // c") + d"#, "f( ) + d"),
        ("f(r#\"a \" b\"#, br\"c\\\") + d", "f( , ) + d"),
        ("f('\"', '\\'', 'x', b'{') + g::<'a>(&'a x)", "f( , , , b ) + g::<'a>(&'a x)"),
        ("r#fn(var\"x\")", "r#fn(var )"),
        ("\"never closed", ""),
        ("/* never closed", ""),
    ] {
        assert_eq!(code(text), expected, "{text}");
    }
    let source = lexer::split("let a = \"// x\"; // y\n/// z\n");
    assert_eq!(source.comments.split_whitespace().collect::<Vec<_>>(), ["//", "y", "///", "z"]);
    assert_eq!((source.code.lines().count(), source.comments.lines().count()), (2, 2));
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let found = rules::functions(
        "trait T { fn declared(&self); }\nfn one() {}\nimpl X {\n  fn two(x: fn(u8)) -> W<{ A + 1 }>\n  where T: U {\n    \
         if x { y }\n    fn inner() {\n    }\n  }\n}\nmacro_rules! m { () => { fn $name() { } } }",
    );
    let shown: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(shown, [("one", 2, 1), ("two", 4, 6), ("inner", 7, 2), ("$name", 11, 1)]);
}

#[test]
fn long_files_and_functions_are_found_and_those_at_the_limit_are_not() {
    let function = |lines: usize| format!("//! x\nfn f() {{\n{}}}\n", "    x();\n".repeat(lines - 2));
    rule("a/src/b.rs", &function(70), &[]);
    rule("a/src/b.rs", &function(71), &[(2, "`f` has 71 lines")]);
    rule("a/src/b.rs", &format!("//! x\n{}", "\n".repeat(499)), &[]);
    rule("a/src/b.rs", &format!("//! x\n{}", "\n".repeat(500)), &[(501, "501 lines, split it")]);
    // A brace in a string or a comment closes nothing.
    rule("a/src/b.rs", &function(71).replace("x();", "x('}', \"}\"); // }"), &[(2, "71 lines")]);
}

#[test]
fn a_module_says_what_it_serves() {
    rule("a/src/b.rs", "use x;\n", &[(1, "begin it with `//!`")]);
    rule("a/src/b/tests.rs", "use x;\n", &[]);
    rule("a/src/b_tests.rs", "use x;\n", &[]);
    rule("a/build.rs", "use x;\n", &[]);
}

#[test]
fn unfinished_work_is_found_where_it_is_meant() {
    let mark = ["TO", "DO"].concat();
    rule("a/src/b.rs", &format!("//! x\n// {mark}: y\n"), &[(2, "unfinished work")]);
    rule("a/src/b.rs", &format!("//! x\nlet y = \"{mark}\";\n// {mark}S, {mark}_X\n"), &[]);
    rule("a/src/b.rs", "//! x\nfn f() { unimplemented!() }\nfn g() { todo!() }\n", &[(2, "unimpl"), (3, "todo")]);
    rule("a/src/b.rs", "//! x\nfn todo() { unimplemented(\"todo!()\") } // todo!()\n", &[]);
    rule("scripts/x", &format!("# {mark}\n"), &[(1, "unfinished work")]);
    rule("x.md", &format!("no `{mark}` here\nbut\n{mark} there\n"), &[(3, "unfinished work")]);
}

#[test]
fn a_silenced_lint_is_found() {
    rule("a/src/b.rs", "//! x\n#[allow(dead_code)]\n#![allow(x)]\n", &[(2, "for ever"), (3, "for ever")]);
    rule("a/src/b.rs", "//! x\n    #[cfg_attr(test, allow(dead_code))]\n", &[(2, "for ever")]);
    rule("a/src/b.rs", "//! x\n// #[allow(x)]\n#[expect(x, reason = \"#[allow(y)]\")]\nfn f() { allow(x) }\n", &[]);
}

#[test]
fn paths_of_one_machine_are_found() {
    let home = |rest: &str| ["/ho", "me/", rest].concat();
    rule("x.md", &format!("see {}\n", home("me/lb")), &[(1, "one machine")]);
    rule("a/src/b.rs", &format!("//! x\nlet a = \"{}\";\n", home("me")), &[(2, "one machine")]);
    rule("x.md", &format!("see net{0} and ..{0} and /homely/\n", home("x")), &[]);
}

#[test]
fn modules_know_only_those_below_them() {
    layer("lb-agent/src/engine/mod.rs", "use crate::model::x;\nuse crate::slots::y;\n", &[]);
    layer(
        "lb-agent/src/slots/mod.rs",
        "use crate::model::x;\nuse crate::engine::y;\n",
        &[(2, "`slots` knows `engine`")],
    );
    layer("lb-agent/src/model/view.rs", "use crate::config::x;\n", &[(1, "may know no other")]);
    let group = "use crate::{\n  model::{a, api},\n  run::b,\n};\n";
    layer("lb-agent/src/api/mod.rs", group, &[(1, "`api` knows `run`")]);
    // By the way of `super`, too.
    layer("lb-agent/src/slots/mod.rs", "use super::engine;\n", &[(1, "knows `engine`")]);
    layer("lb-agent/src/slots/score.rs", "use super::engine;\nuse super::super::engine;\n", &[(2, "knows `engine`")]);
    layer("lb-agent/src/slots.rs", "use super::engine;\n", &[(1, "knows `engine`")]);
    layer("lb-agent/src/slots/mod.rs", "let a = crate::run::f();\n", &[(1, "knows `run`")]);
    layer("lb-agent/src/slots/mod.rs", "// crate::run\nlet a = \"crate::run\"; other_crate::run();\n", &[]);
    layer("lb-agent/src/lib.rs", "pub mod run;\n", &[]);
    layer("lb-agent/src/novelty/mod.rs", "\n", &[(1, "no place among the modules")]);
}

#[test]
fn tests_may_know_everything() {
    let text = "#[cfg(test)]\nmod tests {\n  use crate::run::x;\n}\nuse crate::api::y;\n";
    layer("lb-agent/src/slots/mod.rs", text, &[(5, "knows `api`")]);
    layer("lb-agent/src/slots/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::api::y;\n", &[(3, "knows `api`")]);
    layer("lb-agent/src/slots/tests.rs", "use crate::run::x;\n", &[]);
}

#[test]
fn the_kernel_is_spoken_to_in_one_place() {
    layer("lb-agent/src/dataplane/kernel/pins.rs", "use aya::maps::Map;\n", &[]);
    layer("lb-agent/src/dataplane/mod.rs", "use aya::maps::Map;\n", &[(1, "`aya` belongs elsewhere")]);
    layer("tests/src/agent.rs", "let a: aya_obj::X;\n", &[(1, "`aya_obj` belongs elsewhere")]);
    layer("lb-ebpf/src/steps.rs", "use aya_ebpf::x;\n", &[(1, "Tables")]);
    layer("lb-ebpf/src/bpf/maps.rs", "use aya_ebpf::x;\n", &[]);
    layer("lb-agent/src/run/mod.rs", "let papaya = \"aya\"; // aya\n", &[]);
}

#[test]
fn what_decides_has_no_clock_and_no_io() {
    layer("lb-agent/src/engine/mod.rs", "let now = Instant::now();\n", &[(1, "only decides")]);
    layer("lb-agent/src/slots/mod.rs", "use std::time::Instant;\nuse tokio::sync::mpsc;\n", &[(2, "`tokio`")]);
    layer("lb-agent/src/health/verdict.rs", "use std::fs::File;\n", &[(1, "`std::fs`")]);
    layer("lb-agent/src/health/prober.rs", "use tokio::x;\nlet a = Instant::now();\n", &[]);
}

#[test]
fn the_table_of_reasons_is_the_codes() {
    let row = |number, name: &str, verdict: &str| Row { number, name: name.into(), verdict: verdict.into() };
    let known = [row(1, "no-backend", "drop"), row(5, "fragment", "pass")];
    let table = |rows: &str| {
        let text = format!("# Reasons\n\n| number | name | verdict | when |\n|---|---|---|---|\n{rows}");
        docs::reasons(&file("docs/packets.md", &text), &known)
    };
    let good = "| 1 | `no-backend` | drop | x |\n| 5 | `fragment` | pass | x |\n";
    check(&table(good), &[]);
    check(&table("| 1 | `no-backend` | drop | x |\n"), &[(1, "5 `fragment` is not described")]);
    check(&table(&good.replace("| pass", "| drop")), &[(6, "`fragment`, drop, is not one")]);
    check(&table(&good.replace("no-backend", "none")), &[(5, "1 `none`, drop, is not one")]);
    check(&table(&format!("{good}| 5 | `fragment` | pass | y |\n")), &[(7, "line 6 already")]);
    check(&table(&format!("{good}| 6 | `vlan` | pass | y |\n")), &[(7, "is not one")]);
}

#[test]
fn metrics_and_commands_must_be_described() {
    let metrics =
        docs::metrics(&file("metrics.rs", "registry.register(\"drops\", \"x\");\nregistry.register(\"up\", y);"));
    assert_eq!(metrics, ["lb_drops", "lb_up"]);
    let mentions = |text: &str| docs::mentions(&file("docs/operate.md", text), "metric", &metrics);
    check(&mentions("`lb_drops_total{reason}` and `lb_up`"), &[]);
    check(&mentions("`lb_drops_total` and `lb_uptime`, lb_up"), &[(1, "`lb_up` is not described")]);
    check(&docs::mentions(&file("docs/operate.md", ""), "metric", &[]), &[(1, "no metric was found")]);
}

#[test]
fn links_lead_somewhere() {
    let links = |text: &str| {
        let other = file("docs/b.md", "# One\n## Two, `three`\n");
        let files = [file("docs/a.md", text), other, file("README.md", "# Top\n"), file("src/x.rs", "//! x\n")];
        let found = super::docs::check(&files);
        found.into_iter().filter(|violation| violation.file == "docs/a.md").collect::<Vec<_>>()
    };
    check(&links("# A\n[b](b.md) [t](../README.md#top) [s](../src/) [s](#a) [w](https://example.org/x)\n"), &[]);
    check(&links("[b](b.md#two-three)\n\n[c](c.md)\n"), &[(3, "`c.md` leads nowhere")]);
    check(&links("[b](b.md#four) [t](README.md)\n"), &[(1, "a heading that is not there"), (1, "leads nowhere")]);
}
