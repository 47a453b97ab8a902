//! The admin socket's file: made for root and its group only, taken over from an agent that died, never from one
//! that lives, and removed at the end.

use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Connecting needs write permission: the owner and the group have it.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;
const BACKLOG: i32 = 128;

/// Why the admin socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another agent answers on {path}{}; stop it first, or give this one another `api.socket` and `pin_dir`",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning { path: PathBuf, pid: Option<i32> },
    #[error("{path} is not a socket; move it away, or set another `api.socket`")]
    NotASocket { path: PathBuf },
    #[error("another agent is starting on {path} at this moment; wait for it, or give this one another `api.socket`")]
    Starting { path: PathBuf },
    #[error("could not {what} {path}: {source}; check `api.socket` and the rights on its directory")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Bound and listening; [`super::serve_unix`] answers on it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminSocket {
    /// Takes the path, or says who has it. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |what| move |source| BindError::Io { what, path: path.to_owned(), source };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut directory = DirBuilder::new();
        directory.recursive(true).mode(DIRECTORY_MODE).create(parent).map_err(io("create the directory of"))?;
        // Of two agents that find the same stale socket, the slower one must not remove the faster one's new one.
        let lock = File::open(parent).map_err(io("open the directory of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BindError::Starting { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock the directory of")(source)),
        }
        remove_stale(path)?;
        let listener = listen(path).map_err(io("listen on"))?;
        let metadata = fs::symlink_metadata(path).map_err(io("look at"))?;
        let file = SocketFile { path: path.to_owned(), identity: identity(&metadata) };
        // The umask may have taken the group's right away.
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(io("set the mode of"))?;
        let listener = UnixListener::from_std(listener).map_err(io("listen on"))?;
        Ok(Self { listener, file })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Removes the socket when dropped, unless another agent has put its own there since.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the admin socket");
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn listen(path: &Path) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file the mode of the unbound socket: there is no moment at which others could connect.
    fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(StdListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io = |what| move |source| BindError::Io { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at")(error)),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io("connect to"))?;
    // A frozen agent with a full backlog would otherwise hold this one up for ever.
    socket.set_nonblocking(true).map_err(io("connect to"))?;
    match SockAddr::unix(path).and_then(|address| socket.connect(&address)) {
        Ok(()) => {
            let pid = getsockopt(&socket, sockopt::PeerCredentials).ok().map(|peer| peer.pid());
            Err(BindError::AlreadyRunning { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove the stale")(error)),
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(BindError::AlreadyRunning { path: path.to_owned(), pid: None })
        }
        Err(error) => Err(io("connect to")(error)),
    }
}
