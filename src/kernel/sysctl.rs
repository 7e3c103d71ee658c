//! Kernel settings under `/proc/sys`, of the calling thread's network namespace. Reads and writes are plain system calls
//! on memory-backed files: microseconds, so that they are done where they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use super::KernelError;
use crate::model::{LinkName, Sysctl};

/// The settings that the agent always has a wish for, and so those that are observed, with those that the caller names besides. A
/// wish for another one would be written in every pass, for it would never be seen as fulfilled.
///
/// Forwarding is what makes a host a router. The reverse path filter has to be loose or off on the tunnel: replies to
/// another node's client leave there, and requests from clients arrive there (ip-sysctl.rst, `rp_filter`).
pub(super) const MANAGED: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv4/conf/weft.vx/rp_filter"];

/// The managed settings and `more` as they are. One that is not there, such as a device's while there is no device, is left out.
pub(super) fn observe(more: &BTreeSet<Sysctl>) -> Result<BTreeMap<Sysctl, String>, KernelError> {
    let mut settings = BTreeMap::new();
    for key in MANAGED.map(|key| Sysctl(key.to_owned())).into_iter().chain(more.iter().cloned()) {
        if let Some(value) = read(&key)? {
            settings.insert(key, value);
        }
    }
    Ok(settings)
}

/// The devices, but for those whose names begin with `weft.`, on which this host heeds router advertisements: by `accept_ra` 2, or
/// by 1 as long as the device does not forward (ip-sysctl.rst). None where the kernel has no IPv6.
pub(super) fn advertised_to() -> Result<BTreeSet<String>, KernelError> {
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(KernelError::new(format!("list {}", folder.display()), error)),
    };
    let mut devices = BTreeSet::new();
    for device in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if ["all", "default", "lo"].contains(&device.as_str()) || device.starts_with(LinkName::PREFIX) {
            continue;
        }
        let heeds = match read(&Sysctl::accept_ra(&device))?.as_deref() {
            Some("2") => true,
            Some("1") => read(&Sysctl(format!("net/ipv6/conf/{device}/forwarding")))?.as_deref() == Some("0"),
            _ => false,
        };
        if heeds {
            devices.insert(device);
        }
    }
    Ok(devices)
}

/// One setting without the white space around it; nothing if there is no such setting.
pub(super) fn read(key: &Sysctl) -> Result<Option<String>, KernelError> {
    match fs::read_to_string(path(key)?) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::new(format!("read the kernel setting {}", key.0), error)),
    }
}

/// Sets one setting. What has the value already is not written, so that a read-only `/proc/sys` with the right values in it
/// is good enough.
pub(super) fn write(key: &Sysctl, value: &str) -> Result<(), KernelError> {
    if read(key)?.as_deref() == Some(value.trim()) {
        return Ok(());
    }
    fs::write(path(key)?, value).map_err(|error| {
        let action = format!("set the kernel setting {} to {value}", key.0);
        match error.kind() {
            ErrorKind::NotFound => {
                KernelError::new(action, "this kernel has no such setting, or its device is not there")
            }
            ErrorKind::ReadOnlyFilesystem => KernelError::new(
                action,
                format!("/proc/sys is mounted read-only here; run `sysctl -w {}={value}` on the host", key.0),
            ),
            _ => KernelError::new(action, error),
        }
    })
}

/// The setting's file. Every part of the key is a directory's name as it stands: a device `weft.vx` keeps its dot, which
/// sysctl(8) would take for a separator.
fn path(key: &Sysctl) -> Result<PathBuf, KernelError> {
    let relative = Path::new(&key.0);
    if key.0.is_empty() || relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(KernelError::new(
            format!("use the kernel setting {:?}", key.0),
            "it is not a path under /proc/sys such as net/ipv4/ip_forward",
        ));
    }
    Ok(Path::new("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_leads_out_of_proc_sys() {
        for key in ["", "/etc/passwd", "../etc/passwd", "net/../../etc/passwd"] {
            assert!(path(&Sysctl(key.to_owned())).is_err(), "{key:?}");
        }
        let dotted = path(&Sysctl("net/ipv4/conf/weft.vx/rp_filter".to_owned())).unwrap();
        assert_eq!(dotted, Path::new("/proc/sys/net/ipv4/conf/weft.vx/rp_filter"));
    }

    #[test]
    fn what_is_not_there_reads_as_nothing() {
        assert_eq!(read(&Sysctl("net/ipv4/conf/no-such-device/rp_filter".to_owned())).unwrap(), None);
    }
}
