//! The table's text, compared with what is committed. `UPDATE_GOLDENS=1 cargo test --test ruleset_goldens` writes it anew;
//! `netns-tests/tests/kernel_nft.rs` proves that the kernel takes it and that it says what the expressions do.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{env, fs, path::Path};

use weft::{kernel::nft::render, model::Ruleset};

#[path = "goldens/rulesets.rs"]
mod rulesets;

fn check(name: &str, ruleset: &Ruleset) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.nft"));
    let text = render(ruleset);
    if env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (number, (found, wanted)) in (1..).zip(text.lines().zip(golden.lines())) {
        assert_eq!(found, wanted, "{}, line {number}", file.display());
    }
    assert_eq!(text, golden, "{}", file.display());
}

#[test]
fn everything() {
    check("everything", &rulesets::everything());
}

#[test]
fn sticky() {
    check("sticky", &rulesets::sticky(300_000));
}

#[test]
fn bare() {
    check("bare", &rulesets::bare());
}
