use std::{
    fs::{self, File},
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::OFlag,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::{dup2, dup3},
};

use crate::pause;

/// The first descriptor that is passed (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Sockets that can be kept.
const KEPT_MAX: usize = 32;

/// How long it looks for messages before it looks for the end of its program.
const LOOK: Duration = Duration::from_millis(10);

/// What systemd waits before it starts a program again (`RestartSec=`, systemd.service(5)).
const RESTART: Duration = Duration::from_millis(100);

/// Plays as much of a service manager as a program's listening sockets need: runs `words`, writes its process id to `pid_file`,
/// keeps the sockets that it sends to `NOTIFY_SOCKET`, and starts it again with them whenever it ends. For ever.
pub fn manage(pid_file: &Path, notify: &Path, words: &[&str]) -> Result<()> {
    // The descriptors that the program will find its sockets at are taken now, so that nothing else gets them.
    let null = File::open("/dev/null").context("/dev/null cannot be opened")?;
    let mut places: Vec<OwnedFd> = Vec::new();
    for number in 0..KEPT_MAX {
        // The first one of these is 4 already.
        let place = OwnedFd::from(File::open("/dev/null")?);
        ensure!(place.as_raw_fd() >= FIRST, "descriptor {number} is {place:?}");
        places.push(place);
    }
    let mut first = OwnedFd::from(null);
    ensure!(first.as_raw_fd() == FIRST, "this process has files open that it should not have");
    let null = File::open("/dev/null")?;
    let _ = fs::remove_file(notify);
    let socket = UnixDatagram::bind(notify).context("the notification socket cannot be made")?;
    socket.set_read_timeout(Some(LOOK))?;
    let mut kept: Vec<(String, OwnedFd)> = Vec::new();
    loop {
        for (number, place) in std::iter::once(&mut first).chain(&mut places).enumerate() {
            match kept.get(number) {
                Some((_, socket)) => dup2(socket, place)?,
                None => dup3(&null, place, OFlag::O_CLOEXEC)?,
            }
        }
        let mut child = start(words, notify, &kept)?;
        // Whole or not at all, for whoever reads it.
        let new = pid_file.with_extension("new");
        fs::write(&new, child.id().to_string())?;
        fs::rename(&new, pid_file)?;
        while child.try_wait()?.is_none() {
            listen(&socket, &mut kept)?;
        }
        // What it sent before it ended.
        while listen(&socket, &mut kept)? {}
        eprintln!("the program has ended; {} sockets are kept for the next one", kept.len());
        pause(RESTART);
    }
}

fn start(words: &[&str], notify: &Path, kept: &[(String, OwnedFd)]) -> Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"]).args(words).env("NOTIFY_SOCKET", notify);
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
    if !kept.is_empty() {
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    command.spawn().context("the program cannot be started")
}

/// Takes one message, if one comes.
fn listen(socket: &UnixDatagram, kept: &mut Vec<(String, OwnedFd)>) -> Result<bool> {
    let mut bytes = [0; 4096];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 4]);
    let (len, sockets) =
        match recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => {
                let mut sockets = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(numbers) = control {
                        #[expect(
                            unsafe_code,
                            reason = "recvmsg(2) has made these descriptors for us and tells their numbers"
                        )]
                        sockets.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                    }
                }
                (message.bytes, sockets)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno).context("the notification socket fails"),
        };
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
        kept.retain(|(known, _)| known != name);
    } else if text.lines().any(|line| line == "FDSTORE=1") {
        ensure!(kept.len() + sockets.len() <= KEPT_MAX, "more than {KEPT_MAX} sockets");
        kept.extend(sockets.into_iter().map(|socket| (name.to_owned(), socket)));
    }
    Ok(true)
}
