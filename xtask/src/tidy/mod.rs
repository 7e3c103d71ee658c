//! The project's own rules, held by a tool: what may import what, where a third-party protocol may be named, what no
//! file may contain, how long it may be. The rules are data (`rules`); this file applies them and reports each violation
//! with its place and the reason for the rule. Nothing but the standard library, so that `tests/tidy.rs` can include it.

mod rules;
mod source;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rules::{DIRECTION, FORBIDDEN, LINES_MAX, LINES_WARN, OWNED_CRATES, PROMISED_TASKS};
use source::Source;

/// What was found in the whole tree.
pub(crate) struct Report {
    /// Breaks the build.
    pub(crate) violations: Vec<Violation>,
    /// Worth a look.
    pub(crate) warnings: Vec<Violation>,
    /// How many Rust files were read.
    pub(crate) files: usize,
}

/// One place that breaks one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Relative to the root.
    path: String,
    /// From 1; 0 means the file or folder as a whole.
    line: usize,
    /// What is wrong.
    what: String,
    /// Why that is a rule.
    why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    why: {}", self.path, self.line, self.what, self.why)
    }
}

/// Applies every rule to the tree under `root`.
pub(crate) fn check(root: &Path) -> io::Result<Report> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "netns-tests", "bench", "xtask"] {
        rust_files(&root.join(folder), &mut paths)?;
    }
    paths.sort();
    let mut report = Report { violations: Vec::new(), warnings: Vec::new(), files: paths.len() };
    for path in &paths {
        let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let text = fs::read_to_string(path)?;
        check_file(&relative, &text, &mut report);
    }
    check_headers(root, &paths, &mut report);
    check_readme(root, &mut report);
    Ok(report)
}

/// Every rule that looks at one file alone.
fn check_file(path: &str, text: &str, report: &mut Report) {
    let source = Source::parse(path, text);
    check_direction(path, &source, &mut report.violations);
    check_crates(path, &source, &mut report.violations);
    check_words(path, text, &source, &mut report.violations);
    check_length(path, text, report);
}

fn check_direction(path: &str, source: &Source, violations: &mut Vec<Violation>) {
    let Some(folder) = top_module(path) else { return };
    let Some((_, allowed, why)) = DIRECTION.iter().find(|(name, ..)| *name == folder) else {
        // Once a module is enough.
        if path != format!("src/{folder}/mod.rs") && path != format!("src/{folder}.rs") {
            return;
        }
        violations.push(Violation {
            path: path.to_owned(),
            line: 0,
            what: format!("the module `{folder}` has no row in the table of import directions"),
            why: "a new module says what it may see before it sees it: xtask/src/tidy/rules.rs",
        });
        return;
    };
    for import in source.own_imports() {
        if import.module != folder && !allowed.contains(&import.module.as_str()) {
            violations.push(Violation {
                path: path.to_owned(),
                line: import.line,
                what: format!("`{folder}` imports `{}`", import.module),
                why,
            });
        }
    }
}

fn check_crates(path: &str, source: &Source, violations: &mut Vec<Violation>) {
    if !path.starts_with("src/") {
        return;
    }
    for name in source.path_roots() {
        for (prefix, homes, why) in OWNED_CRATES {
            let named = match prefix.strip_suffix('*') {
                Some(stem) => name.text.starts_with(stem),
                None => name.text == *prefix,
            };
            if named && !homes.iter().any(|home| path.starts_with(home)) {
                violations.push(Violation {
                    path: path.to_owned(),
                    line: name.line,
                    what: format!("the crate `{}` is named outside {}", name.text, homes.join(", ")),
                    why,
                });
            }
        }
    }
}

fn check_words(path: &str, text: &str, source: &Source, violations: &mut Vec<Violation>) {
    for rule in FORBIDDEN {
        let here = rule.places.iter().any(|place| path.starts_with(place));
        if !here || rule.except.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        let lines: Vec<usize> = if rule.also_in_comments == rules::Comments::Read {
            text.lines().zip(1..).filter(|(line, _)| line.contains(rule.text)).map(|(_, number)| number).collect()
        } else {
            source.code_lines().filter(|(_, line)| line.contains(rule.text)).map(|(number, _)| number).collect()
        };
        for line in lines {
            let what = format!("`{}`", rule.text.trim());
            violations.push(Violation { path: path.to_owned(), line, what, why: rule.why });
        }
    }
}

fn check_length(path: &str, text: &str, report: &mut Report) {
    let lines = text.lines().count();
    if !path.starts_with("src/") || lines <= LINES_WARN {
        return;
    }
    let found = Violation {
        path: path.to_owned(),
        line: 0,
        what: format!("{lines} lines; over {LINES_WARN} is suspicious, over {LINES_MAX} is refused"),
        why: "a long file has grown two subjects: split it by subject",
    };
    if lines > LINES_MAX { report.violations.push(found) } else { report.warnings.push(found) }
}

/// Every folder of `src` opens with a `//!` header in its `mod.rs`, `lib.rs` or sibling file.
fn check_headers(root: &Path, paths: &[PathBuf], report: &mut Report) {
    let source_root = root.join("src");
    let mut folders: Vec<&Path> =
        paths.iter().filter_map(|path| path.parent()).filter(|folder| folder.starts_with(&source_root)).collect();
    folders.dedup();
    for folder in folders {
        let heads = [folder.join("mod.rs"), folder.with_extension("rs"), folder.join("lib.rs")];
        let has_header = heads
            .iter()
            .filter_map(|head| fs::read_to_string(head).ok())
            .any(|text| text.lines().next().is_some_and(|line| line.starts_with("//!")));
        if !has_header {
            report.violations.push(Violation {
                path: folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned(),
                line: 0,
                what: "the folder has no `//!` header on the first line of its mod.rs".to_owned(),
                why: "a module opens with how it lives: its tasks, who cancels them, what may be lost",
            });
        }
    }
}

/// The README names the two commands, and every task that it names exists.
fn check_readme(root: &Path, report: &mut Report) {
    const COMMAND: &str = "cargo xtask ";
    const WHY: &str = "the README's commands are the first thing a stranger types";
    let mut violate = |line, what: String| {
        report.violations.push(Violation { path: "README.md".to_owned(), line, what, why: WHY });
    };
    let Ok(text) = fs::read_to_string(root.join("README.md")) else {
        violate(0, "the file is missing".to_owned());
        return;
    };
    for task in PROMISED_TASKS {
        if !text.contains(&format!("{COMMAND}{task}")) {
            violate(0, format!("`{COMMAND}{task}` is not named"));
        }
    }
    for (line, number) in text.lines().zip(1..) {
        for rest in line.split(COMMAND).skip(1) {
            let task: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            let file = root.join("xtask/src").join(&task);
            if !file.with_extension("rs").is_file() && !file.join("mod.rs").is_file() {
                violate(number, format!("`{COMMAND}{task}` is no task of xtask"));
            }
        }
    }
}

/// The top-level module that a file of the library belongs to: `src/kernel/nft/mod.rs` is `kernel`. The roots belong to none.
fn top_module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    match inside.split_once('/') {
        Some((folder, _)) => Some(folder),
        None if inside == "lib.rs" || inside == "main.rs" => None,
        None => inside.strip_suffix(".rs"),
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                rust_files(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say of one file, as `line: what`.
    fn violations(path: &str, text: &str) -> Vec<String> {
        let mut report = Report { violations: Vec::new(), warnings: Vec::new(), files: 1 };
        check_file(path, text, &mut report);
        report.violations.iter().map(|found| format!("{}: {}", found.line, found.what)).collect()
    }

    #[test]
    fn imports_against_the_direction_are_found_however_they_are_written() {
        let cases = [
            ("src/plan/mod.rs", "use crate::model::Cluster;", vec![]),
            ("src/plan/mod.rs", "use crate::kernel::Kernel;", vec!["1: `plan` imports `kernel`"]),
            ("src/plan/mod.rs", "\nfn f() { crate::store::open() }", vec!["2: `plan` imports `store`"]),
            ("src/plan/mod.rs", "use crate::{\n    model,\n    agent::Agent,\n};", vec!["3: `plan` imports `agent`"]),
            ("src/plan/mod.rs", "use {crate::{model::{L4, Name}, dns}};", vec!["1: `plan` imports `dns`"]),
            ("src/plan/mod.rs", "use super::store::Store;", vec!["1: `plan` imports `store`"]),
            ("src/plan/step.rs", "use super::store::Store;", vec![]),
            ("src/plan/step.rs", "use super::super::store::Store;", vec!["1: `plan` imports `store`"]),
            ("src/plan/step.rs", "mod a { use super::super::super::cli; }", vec!["1: `plan` imports `cli`"]),
            ("src/kernel/nft/mod.rs", "use crate::{model::Vip, plan::Step};", vec![]),
            ("src/kernel/nft/mod.rs", "use crate::store::Store;", vec!["1: `kernel` imports `store`"]),
            ("src/cli/mod.rs", "use weft::model::Name;", vec!["1: `cli` imports `model`"]),
            ("src/cli/mod.rs", "use crate::api::client;", vec![]),
            ("src/agent/mod.rs", "use crate::{api, kernel, store, desired};", vec![]),
            ("src/model/mod.rs", "// use crate::store;\n/* crate::store:: */\nlet a = \"crate::store\";", vec![]),
            ("src/main.rs", "use weft::{agent, cli};", vec![]),
            ("src/odd/mod.rs", "", vec!["0: the module `odd` has no row in the table of import directions"]),
        ];
        for (path, text, expected) in cases {
            assert_eq!(violations(path, text), expected, "{path}: {text}");
        }
    }

    #[test]
    fn a_protocol_crate_is_named_in_its_own_folder_only() {
        let cases = [
            ("src/kernel/netlink/mod.rs", "use rtnetlink::Handle;", 0),
            ("src/agent/mod.rs", "use rtnetlink::Handle;", 1),
            ("src/agent/mod.rs", "fn f(m: netlink_packet_route::RouteNetlinkMessage) {}", 1),
            ("src/agent/mod.rs", "use ::redb::Database;", 1),
            ("src/store/embedded/mod.rs", "use redb::Database;", 0),
            ("src/store/record/mod.rs", "use serde::Serialize;", 0),
            ("src/model/mod.rs", "use serde::Serialize;", 1),
            ("src/model/mod.rs", "use crate::model::serde::X; self.serde.x()", 0),
            ("tests/stores.rs", "use redb::Database;", 0),
        ];
        for (path, text, count) in cases {
            assert_eq!(violations(path, text).len(), count, "{path}: {text}");
        }
    }

    #[test]
    fn marks_of_unfinished_work_and_guesses_are_found() {
        let cases = [
            ("src/model/mod.rs", "fn f() { todo!() }", 1),
            ("src/model/mod.rs", "fn f() { unimplemented!() }", 1),
            ("src/model/mod.rs", "// FIXME later", 1),
            ("src/model/mod.rs", "let text = \"todo!()\";", 0),
            ("tests/a.rs", "#[ignore]\nfn f() {}", 1),
            ("tests/a.rs", "#[ignore = \"slow\"]\nfn f() {}", 1),
            ("netns-tests/tests/scenario_01.rs", "tokio::time::sleep(second).await;", 1),
            ("src/agent/mod.rs", "Command::new(\"nft\")", 1),
            ("src/cli/run.rs", "Command::new(words)", 0),
            ("src/model/mod.rs", "println!(\"{x}\")", 1),
            ("src/cli/print.rs", "println!(\"{x}\")", 0),
        ];
        for (path, text, count) in cases {
            assert_eq!(violations(path, text).len(), count, "{path}: {text}");
        }
    }

    #[test]
    fn long_files_are_refused_only_in_the_library() {
        let long = "\n".repeat(LINES_MAX + 1);
        assert_eq!(violations("src/model/mod.rs", &long).len(), 1);
        assert_eq!(violations("src/model/mod.rs", &"\n".repeat(LINES_MAX)).len(), 0);
        assert_eq!(violations("tests/big.rs", &long).len(), 0);
    }
}
