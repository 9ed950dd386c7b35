//! The socket behind `mayfly status`: what the supervisor knows, as JSON, for its own user and root.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::state::{State, StateView};

/// The socket's name in the supervisor's folder.
const NAME: &str = "status.sock";
/// Most questions at the same time; others wait in the kernel.
const CONNECTIONS: usize = 8;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read: a thousand workers and a hundred jobs are one megabyte.
const MAX_ANSWER: u64 = 16 << 20;
/// How long to wait where the kernel gives no connection, as when descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// Why nobody can ask for the status.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the status socket {}: {cause}; may this user write there?", .path.display())]
pub struct StatusSocketError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum AskStatusError {
    /// Nobody listens.
    #[error(
        "no `mayfly serve` runs on {}; start it with `systemctl start mayfly`, or name its state folder with MAYFLY_STATE",
        .0.display()
    )]
    Nobody(PathBuf),
    /// Only its own user and root may ask.
    #[error("{} is another user's; ask as that user (`sudo -u mayfly mayfly status`) or as root", .0.display())]
    Denied(PathBuf),
    /// It listens and does not answer.
    #[error("`mayfly serve` on {} does not answer: {cause}; see its log", .path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The path of the socket in the supervisor's folder.
#[must_use]
pub fn socket_path(serve_folder: &Path) -> PathBuf {
    serve_folder.join(NAME)
}

impl StatusSocket {
    /// Opens it. The caller holds the lock of the folder: a socket that lies there is of one that is gone.
    ///
    /// # Errors
    /// [`StatusSocketError`] when it cannot be made.
    pub fn bind(serve_folder: &Path) -> Result<Self, StatusSocketError> {
        let path = socket_path(serve_folder);
        let failed = |cause| StatusSocketError {
            path: path.clone(),
            cause,
        };
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(failed(cause)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Before that, the folder's own mode (0700) keeps others out, and so does the check of each peer.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, state: Arc<State>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let state = Arc::clone(&state);
                    tokio::spawn(async move {
                        if let Ok(Err(error)) = timeout(LIMIT, answer(stream, &state)).await {
                            tracing::debug!(%error, "a question for the status broke off");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "no question for the status could be taken");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // A socket that stays is removed by the next supervisor.
        fs::remove_file(&self.path).ok();
    }
}

async fn answer(mut stream: UnixStream, state: &State) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        tracing::warn!(uid = peer, "another user asked for the status and got none");
        return Ok(());
    }
    let json = serde_json::to_vec(&state.view())?;
    stream.write_all(&json).await?;
    stream.shutdown().await
}

/// Asks the supervisor behind `path` what it knows.
///
/// # Errors
/// [`AskStatusError`] tells whether there is none, it may not be asked, or it does not answer.
pub async fn ask(path: &Path) -> Result<StateView, AskStatusError> {
    let silent = |cause| AskStatusError::Silent {
        path: path.to_owned(),
        cause,
    };
    let stream = UnixStream::connect(path).await.map_err(|cause| {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskStatusError::Nobody(path)
            }
            io::ErrorKind::PermissionDenied => AskStatusError::Denied(path),
            _ => AskStatusError::Silent { path, cause },
        }
    })?;
    let mut json = Vec::new();
    let mut bounded = stream.take(MAX_ANSWER);
    let read = timeout(2 * LIMIT, bounded.read_to_end(&mut json)).await;
    read.map_err(|_| silent(io::ErrorKind::TimedOut.into()))?
        .map_err(silent)?;
    serde_json::from_slice(&json).map_err(|cause| silent(cause.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn what_is_asked_is_what_the_supervisor_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_path(folder.path());
        let nobody = ask(&path).await.unwrap_err();
        assert!(matches!(nobody, AskStatusError::Nobody(_)), "{nobody}");

        // One that a killed supervisor left.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let nobody = ask(&path).await.unwrap_err();
        assert!(matches!(nobody, AskStatusError::Nobody(_)), "{nobody}");

        let state = State::new("https://github.com/octo".into(), &[], Vec::new());
        let state = Arc::new(state);
        let socket = StatusSocket::bind(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let serving = tokio::spawn(socket.serve(Arc::clone(&state)));
        assert_eq!(ask(&path).await.unwrap(), state.view());
        state.drain();
        assert!(ask(&path).await.unwrap().draining);
        serving.abort();
        serving.await.unwrap_err();
        assert!(!path.exists());
    }
}
