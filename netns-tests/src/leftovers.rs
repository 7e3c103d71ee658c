use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::cleanup::NETNS_FILES;

/// Set in every process that is started here, and so in all that it starts: the id of the process that has to end it.
pub(crate) const OWNER: &str = "WEFT_TEST_OWNER";

/// What these tests and the demo have on the machine: namespaces, temporary folders, processes, links of the machine's own
/// namespace, each with the process that has to remove it. Several runs may be under way at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// By what it is in words, the owner's process id; none for what nobody can be asked about.
    things: BTreeMap<String, Option<u32>>,
}

impl Machine {
    /// Looks now.
    pub fn look() -> Result<Self> {
        let mut things = BTreeMap::new();
        for (kind, folder) in [
            ("namespace", Path::new("/run/netns")),
            ("files of namespace", Path::new(NETNS_FILES)),
            ("folder", &std::env::temp_dir()),
        ] {
            for name in entries(folder)? {
                if let Some(owner) = owner_by_name(&name) {
                    things.insert(format!("{kind} {name}"), Some(owner));
                }
            }
        }
        for name in entries(Path::new("/sys/class/net"))?.filter(|name| name.starts_with("weft")) {
            things.insert(format!("link {name}"), None);
        }
        for (pid, owner) in processes()? {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            things.insert(format!("process {pid} ({})", name.trim()), Some(owner));
        }
        Ok(Self { things })
    }

    /// What is here now, was not there before, and is this process's or nobody's any more.
    pub fn left_since(&self, before: &Self) -> Vec<String> {
        let new = self.things.iter().filter(|(thing, _)| !before.things.contains_key(*thing));
        let left = new.filter(|(_, owner)| owner.is_none_or(|pid| pid == std::process::id() || !is_alive(pid)));
        left.map(|(thing, _)| thing.clone()).collect()
    }
}

/// Whose a namespace or folder is: `weft-PID-…`.
pub(crate) fn owner_by_name(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix("weft-")?.split_once('-')?;
    pid.parse().ok()
}

/// Whether there is such a process.
pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// All processes that were started by these tests or by what they started, with their owners.
pub(crate) fn processes() -> Result<Vec<(i32, u32)>> {
    let mut found = Vec::new();
    let variable = format!("{OWNER}=");
    for pid in entries(Path::new("/proc"))?.filter_map(|name| name.parse::<i32>().ok()) {
        // It may have ended since, or be a kernel thread: those have no environment.
        let Ok(environment) = fs::read(PathBuf::from(format!("/proc/{pid}/environ"))) else { continue };
        let owner = environment.split(|byte| *byte == 0).find_map(|word| word.strip_prefix(variable.as_bytes()));
        if let Some(owner) =
            owner.and_then(|owner| std::str::from_utf8(owner).ok()).and_then(|owner| owner.parse().ok())
        {
            found.push((pid, owner));
        }
    }
    Ok(found)
}

/// The names in a folder; one that does not exist has none.
pub(crate) fn entries(folder: &Path) -> Result<impl Iterator<Item = String> + use<>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", folder.display())),
    };
    Ok(entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()))
}
