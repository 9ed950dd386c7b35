//! The serial ports to the host, found by name: nothing like udev runs here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::wire::PORT_NAMES;
use super::InsideError;

/// The driver announces the ports within milliseconds of its start.
const LIMIT: Duration = Duration::from_secs(30);

/// Opens the ports in the order of [`PORT_NAMES`].
pub(super) fn open() -> Result<[File; 4], InsideError> {
    let deadline = Instant::now() + LIMIT;
    let [control, stdin, stdout, stderr] = PORT_NAMES;
    Ok([
        open_port(control, deadline)?,
        open_port(stdin, deadline)?,
        open_port(stdout, deadline)?,
        open_port(stderr, deadline)?,
    ])
}

fn open_port(name: &'static str, deadline: Instant) -> Result<File, InsideError> {
    loop {
        let opened =
            find(name).and_then(|device| OpenOptions::new().read(true).write(true).open(device));
        match opened {
            Ok(port) => return Ok(port),
            Err(cause) if Instant::now() > deadline => {
                return Err(InsideError::Port { name, cause });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn find(wanted: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == wanted {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}
