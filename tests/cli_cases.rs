//! The command line as a person sees it: the real binary against a fake agent, case by case from the files in
//! `tests/cli_cases`. A case is a line `$ weft WORDS...`, then what it prints, with `2> ` before lines on standard error and
//! `? N` for an exit code other than 0. The usage that clap adds below
//! an error is left out.
//! `WEFT_BLESS=1 cargo test --test cli_cases` writes the files anew; read the difference before it is committed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod api_fake;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use api_fake::{Fake, RunningFake};

#[test]
fn tables_for_people() {
    check("tables", &RunningFake::start(Fake::default()));
}

#[test]
fn json_for_programs() {
    check("json", &RunningFake::start(Fake::default()));
}

#[test]
fn refusals() {
    check("refusals", &RunningFake::start(Fake::default()));
}

#[test]
fn outside_a_cluster() {
    check("outside", &RunningFake::start(Fake::outside()));
}

#[test]
fn a_member_that_does_not_run() {
    check("stopped", &RunningFake::start(Fake::stopped()));
}

#[test]
fn wrong_usage_asks_the_agent_nothing() {
    let agent = RunningFake::start(Fake::default());
    check("usage", &agent);
    assert_eq!(agent.fake.take_calls(), Vec::<String>::new());
}

/// The words of each command arrive as what was meant: `$ weft WORDS...` and below it the agent's note of the call.
#[test]
fn words_become_requests() {
    let agent = RunningFake::start(Fake::default());
    compare("requests", |words| {
        let run = weft(&agent, words);
        assert!(run.ends_with('\n') && !run.contains("? "), "{words}: {run}");
        without_folder(&agent, &agent.fake.take_calls().join("\n"))
    });
}

fn check(file: &str, agent: &RunningFake) {
    compare(file, |words| weft(agent, words));
}

/// Runs every case of a file and compares what came out with what stands there.
fn compare(file: &str, run: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli_cases").join(file).with_extension("txt");
    let expected = fs::read_to_string(&path).unwrap();
    let mut actual = String::new();
    let mut cases = 0;
    for words in expected.lines().filter_map(|line| line.strip_prefix("$ weft")) {
        if cases > 0 {
            actual.push('\n');
        }
        cases += 1;
        writeln!(actual, "$ weft{words}\n{}", run(words.trim()).trim_end()).unwrap();
    }
    assert_ne!(cases, 0, "{file} has no cases");
    if env::var_os("WEFT_BLESS").is_some() {
        fs::write(&path, actual).unwrap();
    } else {
        assert!(actual == expected, "{}: what came out is\n{actual}", path.display());
    }
}

/// Runs the binary and returns what it did, as a case tells it.
fn weft(agent: &RunningFake, words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(words.split_whitespace().map(|word| word.replace("''", "")))
        .env("WEFT_SOCKET", agent.socket())
        .current_dir(agent.folder())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| without_folder(agent, &String::from_utf8(bytes).unwrap());
    let mut told = text(output.stdout);
    let code = output.status.code().unwrap();
    // clap's message ends with an empty line; the usage follows.
    for line in text(output.stderr).lines().take_while(|line| !line.is_empty()) {
        writeln!(told, "2> {line}").unwrap();
    }
    if code != 0 {
        writeln!(told, "? {code}").unwrap();
    }
    told
}

/// The temporary folder has another name in each run.
fn without_folder(agent: &RunningFake, text: &str) -> String {
    text.replace(agent.folder().to_str().unwrap(), "FOLDER")
}

#[test]
fn every_shell_gets_a_completion_script() {
    let agent = RunningFake::start(Fake::default());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = weft(&agent, &format!("completion {shell}"));
        assert!(script.contains("weft") && script.contains("network") && !script.contains("? "), "{shell}: {script}");
    }
}
