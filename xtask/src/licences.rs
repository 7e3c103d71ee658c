//! Licences, bans and sources of every dependency, judged offline from `cargo metadata` by the tables of deny.toml.
//!
//! cargo-deny does the same and more, but takes minutes to build; the tests cannot wait for it and may not skip it.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::root;

/// Fails with every package that deny.toml does not allow.
pub(crate) fn check() -> Result<()> {
    let text = fs::read_to_string(root().join("deny.toml")).context("deny.toml cannot be read")?;
    let rules: toml::Table = text.parse().context("deny.toml is malformed")?;
    let words = |table: &str, key: &str| -> BTreeSet<String> {
        let list = rules.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
        list.into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let allowed = words("licenses", "allow");
    let registries = words("sources", "allow-registry");
    ensure!(!allowed.is_empty() && !registries.is_empty(), "deny.toml allows no licence or no registry at all");
    let bans = bans(&rules)?;

    let packages = packages()?;
    let mut found = Vec::new();
    for package in &packages {
        let field = |key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, version) = (field("name"), field("version"));
        if !is_allowed(field("license"), &allowed) {
            found.push(format!("{name} {version}: its licence {:?} is not one of deny.toml's", field("license")));
        }
        // Members of the workspace have no source.
        if let Some(source) = package.get("source").and_then(Value::as_str)
            && !registries.contains(source.trim_start_matches("registry+"))
        {
            found.push(format!("{name} {version}: its source {source} is not one of deny.toml's"));
        }
        for ban in bans.iter().filter(|ban| ban.name == name) {
            let users = users_of(name, &packages);
            if ban.wrappers.is_empty() || users.iter().any(|user| !ban.wrappers.contains(user)) {
                found.push(format!("{name} {version} (by {}): banned: {}", join(&users), ban.reason));
            }
        }
    }
    if found.is_empty() {
        println!("    {} packages: every licence and source allowed, none banned", packages.len());
        return Ok(());
    }
    bail!("{} packages are not allowed\n{}", found.len(), found.join("\n"));
}

/// A crate that may not come in, unless brought by one of its wrappers.
struct Ban {
    name: String,
    wrappers: BTreeSet<String>,
    reason: String,
}

fn bans(rules: &toml::Table) -> Result<Vec<Ban>> {
    let list = rules.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    list.into_iter()
        .flatten()
        .map(|row| {
            let text = |key| row.get(key).and_then(toml::Value::as_str).map(str::to_owned);
            let wrappers = row.get("wrappers").and_then(toml::Value::as_array).into_iter().flatten();
            Ok(Ban {
                name: text("crate").context("a row of [bans] deny names no crate")?,
                wrappers: wrappers.filter_map(|wrapper| wrapper.as_str().map(str::to_owned)).collect(),
                reason: text("reason").context("a row of [bans] deny gives no reason")?,
            })
        })
        .collect()
}

/// Every package of the lock file that builds for Linux.
fn packages() -> Result<Vec<Value>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .context("`cargo metadata` cannot be run")?;
    ensure!(output.status.success(), "`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` printed no JSON")?;
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().into_iter().flatten().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().context("`cargo metadata` named no packages")?;
    Ok(all.iter().filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id))).cloned().collect())
}

fn users_of(name: &str, packages: &[Value]) -> BTreeSet<String> {
    packages
        .iter()
        .filter(|package| {
            let dependencies = package["dependencies"].as_array();
            // Development dependencies of other people's crates are not built here.
            dependencies.into_iter().flatten().any(|d| d["name"] == name && d["kind"] != "dev" && d["optional"] != true)
        })
        .filter_map(|package| package["name"].as_str().map(str::to_owned))
        .collect()
}

fn join(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether an SPDX licence expression (SPDX 2.3, annex D) can be met with `allowed` alone. `A/B` is the old way to write
/// `A OR B`. An expression that cannot be read is not met.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    met == Some(true) && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = all(words, at, allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed)?;
    }
    Some(met)
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = one(words, at, allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed)?;
    }
    Some(met)
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed)?;
        *at += 1;
        return (words.get(*at - 1) == Some(&")")).then_some(met);
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1)?;
        *at += 2;
        return Some(allowed.contains(&format!("{word} WITH {exception}")));
    }
    Some(allowed.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_met_or_not() {
        let allowed: BTreeSet<String> =
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned).into();
        let cases = [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("MIT OR (GPL-3.0 AND Unicode-3.0)", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("Apache-2.0 WITH Some-exception", false),
            ("", false),
            ("MIT MIT", false),
            ("(MIT", false),
        ];
        for (expression, met) in cases {
            assert_eq!(is_allowed(expression, &allowed), met, "{expression:?}");
        }
    }
}
