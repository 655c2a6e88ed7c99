//! A TCP port or a unix socket to accept on.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::warn;

use crate::Error;

/// The socket answers whoever may open it with what all tenants of the node do: root only.
const SOCKET_MODE: u32 = 0o600;

/// Besides the agent's own user, who may ask. The mode says it already; the kernel's word on who
/// connected (SO_PEERCRED) holds also where somebody has changed the mode since.
const ROOT: u32 = 0;

/// Where to listen.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// An accepted connection of either kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    /// Itself, if it came by the unix socket.
    fn into_unix(self: Box<Self>) -> Option<UnixStream>;
}

impl Socket for TcpStream {
    fn into_unix(self: Box<Self>) -> Option<UnixStream> {
        None
    }
}

impl Socket for UnixStream {
    fn into_unix(self: Box<Self>) -> Option<UnixStream> {
        Some(*self)
    }
}

impl Listener {
    pub(super) async fn open(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Tcp(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok(Self::Tcp(listener)),
                Err(source) => Err(Error::Bind { address: *address, source }),
            },
            Place::Unix(path) => {
                let (listener, file) = open_unix(path).await?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// A predecessor's listening socket, if it is at this place.
    pub(super) fn inherit(place: &Place, door: OwnedFd) -> Option<Self> {
        match place {
            Place::Tcp(address) => {
                let listener = TcpListener::from_std(door.into()).ok()?;
                (listener.local_addr().ok()? == *address).then_some(Self::Tcp(listener))
            }
            // It was bound under its draft's name, so only who asked there knows its place.
            Place::Unix(path) => {
                let listener = UnixListener::from_std(door.into()).ok()?;
                let mut inherited = Self::Unix(listener, SocketFile::of(path).ok()?);
                // The predecessor's until we serve.
                inherited.leave_file();
                Some(inherited)
            }
        }
    }

    /// Another descriptor of the socket.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        let descriptor = match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        };
        descriptor.try_clone_to_owned()
    }

    /// Does not remove the file, because somebody else serves it now.
    pub(super) fn leave_file(&mut self) {
        if let Self::Unix(_, file) = self {
            file.left = true;
        }
    }

    /// Removes the file at the end, because we serve it.
    pub(super) fn own_file(&mut self) {
        if let Self::Unix(_, file) = self {
            file.left = false;
        }
    }

    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Socket>> {
        match self {
            Self::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Unix(listener, file) => loop {
                let (socket, _) = listener.accept().await?;
                match socket.peer_cred()?.uid() {
                    uid if uid == ROOT || uid == file.owner => return Ok(Box::new(socket)),
                    uid => warn!(uid, "a stranger on the admin socket is sent away"),
                }
            },
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(error) => write!(f, "unknown address: {error}"),
            },
            Self::Unix(_, file) => file.path.display().fmt(f),
        }
    }
}

/// Makes the socket under a name of our own, closes it to others and only then moves it to its
/// place: nobody can reach it in between, and a stale file is replaced in one step.
async fn open_unix(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    check_replaceable(path).await?;

    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    // Left over by a process of the same id which died on the next lines.
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    let moved = fs::set_permissions(&draft, Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| fs::rename(&draft, path))
        .and_then(|()| SocketFile::of(path));
    match moved {
        Ok(file) => Ok((listener, file)),
        Err(source) => {
            let _ = fs::remove_file(&draft);
            Err(failed(source))
        }
    }
}

/// Only a socket that nobody answers on may be replaced.
async fn check_replaceable(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        // A full backlog is somebody's too.
        Ok(_) => Err(Error::SocketInUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Error::SocketInUse { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the socket when dropped, unless a successor has it, or has put its own there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// The agent's user.
    owner: u32,
    left: bool,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let owner = fs::symlink_metadata(path)?.uid();
        Ok(Self { path: path.to_owned(), identity: identity(path)?, owner, left: false })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.left && identity(&self.path).is_ok_and(|there| there == self.identity) {
            // It may be gone by now, which is just as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
