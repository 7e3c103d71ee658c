use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};

/// What of ours is on the machine: named namespaces, links of the machine's own namespace, processes, temporary folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    things: BTreeSet<String>,
}

impl Machine {
    /// Looks now. Only what carries weft's name counts: other things come and go without us.
    pub fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        things.extend(named(Path::new("/run/netns"))?.map(|name| format!("namespace {name}")));
        things.extend(named(Path::new("/sys/class/net"))?.map(|name| format!("link {name}")));
        things.extend(named(&std::env::temp_dir())?.map(|name| format!("folder {name}")));
        for entry in fs::read_dir("/proc").context("/proc cannot be read")?.flatten() {
            // A process may end between the two reads.
            let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
            if name.starts_with("weft") {
                things.insert(format!("process {} ({})", entry.file_name().to_string_lossy(), name.trim()));
            }
        }
        Ok(Self { things })
    }

    /// Each thing in words: `namespace weft-1-0-h1`.
    pub fn things(&self) -> impl Iterator<Item = &str> {
        self.things.iter().map(String::as_str)
    }

    /// What is here now and was not there before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.things.difference(&before.things).cloned().collect()
    }
}

/// The entries of a folder that begin with `weft`; a folder that does not exist has none.
fn named(folder: &Path) -> Result<impl Iterator<Item = String> + use<>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", folder.display())),
    };
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("weft")))
}
