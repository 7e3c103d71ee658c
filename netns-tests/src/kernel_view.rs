use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::Netns;

/// What a host's kernel holds of weft's, as the ordinary tools show it: a set of lines, each with its kind in front.
///
/// Left out is what changes by itself: counters, ages, the state of conntrack, and what weft does not own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelView {
    lines: BTreeSet<String>,
}

/// The route and rule protocol number that marks weft's rows.
const PROTOCOL: &str = "77";

impl KernelView {
    /// Looks into a namespace: `weft.*` links with their addresses, FDB, neighbours, routes and rules of weft's protocol
    /// number, and the table `inet weft`.
    pub fn of(netns: &Netns) -> Result<Self> {
        netns.enter(|| {
            let mut lines = BTreeSet::new();
            for link in rows(&["ip", "-j", "-d", "addr", "show"])? {
                let name = text(&link, "ifname");
                if name.starts_with("weft.") {
                    let flags = link["flags"].as_array().into_iter().flatten().any(|flag| flag == "UP");
                    let addresses: Vec<String> =
                        link["addr_info"].as_array().into_iter().flatten().map(|row| text(row, "local")).collect();
                    let (mac, mtu, alias) = (text(&link, "address"), &link["mtu"], text(&link, "ifalias"));
                    let data = &link["linkinfo"]["info_data"];
                    let vxlan = format!("{}/{}/{}", data["id"], data["local"], data["port"]);
                    lines.insert(format!("link {name} up={flags} {mac} mtu {mtu} {addresses:?} {vxlan} {alias}"));
                }
            }
            for row in rows(&["bridge", "-j", "fdb", "show"])? {
                let device = text(&row, "ifname");
                if device.starts_with("weft.") {
                    lines.insert(format!(
                        "fdb {device} {} {} {}",
                        text(&row, "mac"),
                        text(&row, "dst"),
                        text(&row, "state")
                    ));
                }
            }
            for row in rows(&["ip", "-j", "neigh", "show", "nud", "permanent"])? {
                let device = text(&row, "dev");
                if device.starts_with("weft.") {
                    lines.insert(format!("neighbour {device} {} {}", text(&row, "dst"), text(&row, "lladdr")));
                }
            }
            for family in ["-4", "-6"] {
                for row in rows(&["ip", "-j", "-N", family, "route", "show", "table", "all", "proto", PROTOCOL])? {
                    let words =
                        ["type", "dst", "gateway", "dev", "table", "scope", "prefsrc"].map(|key| text(&row, key));
                    lines.insert(format!("route {family} {} {}", words.join(" "), row["flags"]));
                }
                for row in rows(&["ip", "-j", "-N", family, "rule", "show"])? {
                    if text(&row, "protocol") == PROTOCOL {
                        lines.insert(format!("rule {family} {row}"));
                    }
                }
            }
            lines.extend(table()?);
            Ok(Self { lines })
        })
    }

    /// Only lines that begin with `kind`.
    pub fn only(&self, kind: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.starts_with(kind)).collect()
    }

    /// Fails with the first few lines that the other has and this has not, or the other way round.
    pub fn must_equal(&self, wanted: &Self) -> Result<()> {
        let missing: Vec<String> = wanted.lines.difference(&self.lines).map(|line| format!("- {line}")).collect();
        let extra: Vec<String> = self.lines.difference(&wanted.lines).map(|line| format!("+ {line}")).collect();
        let count = missing.len() + extra.len();
        let shown: Vec<String> = missing.into_iter().chain(extra).take(12).collect();
        ensure!(count == 0, "the kernel differs in {count} rows:\n{}", shown.join("\n"));
        Ok(())
    }

    /// Whether nothing of weft's is there.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// The lines of `table inet weft` without counters, each with its chain or set in front; none if there is no such table.
fn table() -> Result<Vec<String>> {
    let output = Command::new("nft").args(["-s", "-j", "list", "table", "inet", "weft"]).output().context("nft")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(errors.contains("No such file"), "nft cannot list the table: {}", errors.trim());
        return Ok(Vec::new());
    }
    let listing: Value = serde_json::from_slice(&output.stdout).context("nft printed no JSON")?;
    let objects = listing["nftables"].as_array().ok_or_else(|| anyhow!("nft printed no list"))?;
    let mut lines = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        for (kind, body) in object.as_object().into_iter().flatten().filter(|(kind, _)| *kind != "metainfo") {
            let mut body = body.clone();
            strip(&mut body);
            // One line an element, so that a difference names it.
            let elements = body.as_object_mut().and_then(|body| body.remove("elem"));
            let (name, chain) = (text(&body, "name"), text(&body, "chain"));
            // Rules keep their order, so their place in the chain is part of them.
            let place = places.entry(chain).and_modify(|place| *place += 1).or_insert(1_usize);
            let place = if kind == "rule" { format!(" {place}") } else { String::new() };
            lines.push(format!("nft {kind}{place} {body}"));
            // What the kernel remembers of clients is its own and comes and goes by itself.
            let elements = elements.filter(|_| !name.starts_with("sticky"));
            for element in elements.iter().filter_map(Value::as_array).flatten() {
                lines.push(format!("nft element {name} {element}"));
            }
        }
    }
    Ok(lines)
}

/// Takes out what the kernel numbers or counts.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in ["handle", "packets", "bytes", "expires"] {
                fields.remove(key);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What a tool of iproute2 prints as a JSON list; it prints nothing at all where there is nothing.
fn rows(words: &[&str]) -> Result<Vec<Value>> {
    let (program, arguments) = words.split_first().ok_or_else(|| anyhow!("an empty command line"))?;
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("`{program}` cannot be run"))?;
    let (line, errors) = (words.join(" "), String::from_utf8_lossy(&output.stderr));
    // Asking for a table or family that does not exist is no failure here.
    if !output.status.success() && errors.contains("does not exist") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "`{line}` failed: {}", errors.trim());
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` printed no JSON list"))
}

/// A field as a word, empty if it is not there.
fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
