//! The project's own rules are a test too: whoever runs `cargo test` alone meets them.

use std::path::Path;

#[path = "../xtask/src/tidy/mod.rs"]
mod tidy;

#[test]
fn the_tree_is_tidy() {
    let report = tidy::check(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("the tree can be read");
    let found: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert!(report.files > 20, "only {} files were looked at: are the folders still where they were?", report.files);
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
}
