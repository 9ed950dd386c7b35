//! Git repositories behind a real `git http-backend` on loopback: what a mirror of actions is in tests.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use tempfile::TempDir;

/// Longest request body; those of fetches are short.
const MAX_BODY: usize = 1 << 20;

/// A server with repositories of its own, until the process ends.
#[derive(Debug)]
pub struct GitServer {
    folder: TempDir,
    port: u16,
}

impl GitServer {
    /// Starts a server without repositories.
    ///
    /// # Panics
    /// When there is no port or no `git http-backend`.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (root, backend) = (folder.path().to_owned(), backend());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, backend) = (root.clone(), backend.clone());
                thread::spawn(move || {
                    // A client that hung up is none of the server's business.
                    let _ = serve(stream, &root, &backend);
                });
            }
        });
        Self { folder, port }
    }

    /// Where the server is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Commits files to a repository, which is made if it is not there, and forces tags to the commit,
    /// whose id is returned.
    ///
    /// # Panics
    /// When git fails.
    pub fn commit(&self, name: &str, files: &[(&str, &str)], tags: &[&str]) -> String {
        let folder = self.folder.path().join(format!("{name}.git"));
        if !folder.exists() {
            fs::create_dir_all(&folder).expect("our own folder");
            git(&folder, &["init", "-q", "-b", "main"]);
        }
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("our own folder");
            fs::write(path, text).expect("our own folder");
        }
        git(&folder, &["add", "-A"]);
        git(&folder, &["commit", "-q", "--allow-empty", "-m", "release"]);
        for tag in tags {
            git(&folder, &["tag", "-f", tag]);
        }
        git(&folder, &["rev-parse", "HEAD"])
    }
}

/// Runs git in a folder and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("git is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn backend() -> PathBuf {
    let path = git(Path::new("/"), &["--exec-path"]);
    let backend = Path::new(&path).join("git-http-backend");
    assert!(
        backend.is_file(),
        "{} is missing (package git)",
        backend.display()
    );
    backend
}

/// Answers one request by way of CGI.
fn serve(mut stream: TcpStream, root: &Path, backend: &Path) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = headers(&mut reader)?;
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    let length: usize = header("content-length").parse().unwrap_or_default();
    let mut body = vec![0; length.min(MAX_BODY)];
    reader.read_exact(&mut body)?;
    let mut child = Command::new(backend)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", length.to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&body)?;
    }
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&output[..end.unwrap_or_default()]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    write!(
        stream,
        "HTTP/1.1 {}\r\nConnection: close\r\n",
        status.unwrap_or("200 OK")
    )?;
    stream.write_all(&output)?;
    stream.flush()
}

/// The headers of a request, their names in lower case.
fn headers(reader: &mut impl BufRead) -> io::Result<HashMap<String, String>> {
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(headers);
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}
