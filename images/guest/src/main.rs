//! The guest agent: PID 1 of a sandbox, or the same requests on a Unix socket of a host.

use std::{path::Path, process::ExitCode};

use mayfly_guest::{agent, init, launch};

const USAGE: &str = "\
mayfly-guest is PID 1 of a Mayfly sandbox; elsewhere it only serves a Unix socket.

usage: mayfly-guest --serve-unix SOCKET [--root FOLDER]
       mayfly-guest --launch FILE
       mayfly-guest --version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Before it looks which process it is: in a container it is the first one, too.
    if let ["--launch", file] = arguments[..] {
        let error = launch::launch(Path::new(file));
        eprintln!("{error}");
        return ExitCode::from(error.code());
    }
    if std::process::id() == 1 {
        init::run();
    }
    let (socket, root) = match arguments[..] {
        ["--serve-unix", socket] => (socket, "/"),
        ["--serve-unix", socket, "--root", root] => (socket, root),
        ["--version"] => {
            println!("mayfly-guest {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match agent::serve_unix(Path::new(socket), Path::new(root), None) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("mayfly-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
