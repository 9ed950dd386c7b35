//! `softkvm COMMAND`: runs a command on an emulated machine that has KVM.

use std::process::ExitCode;

use mayfly_vmm::softkvm::args::{self, Action, EXIT_MACHINE_FAILED};
use mayfly_vmm::softkvm::{self, SoftkvmError};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "--inside") {
        return softkvm::inside::main().into();
    }
    let action = match args::parse(arguments) {
        Ok(action) => action,
        Err(error) => {
            eprintln!("softkvm: {error}");
            return ExitCode::from(EXIT_MACHINE_FAILED);
        }
    };
    match perform(&action) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("softkvm: {error}");
            ExitCode::from(EXIT_MACHINE_FAILED)
        }
    }
}

fn perform(action: &Action) -> Result<u8, SoftkvmError> {
    match action {
        Action::Help => print!("{}", args::HELP),
        Action::Version => println!("softkvm {}", env!("CARGO_PKG_VERSION")),
        Action::Setup { verbose } => softkvm::set_up(*verbose)?,
        Action::Run(request) => {
            let supervisor = std::env::current_exe().map_err(|cause| SoftkvmError::Process {
                what: "find this program's own path",
                cause,
            })?;
            return softkvm::run(request, &supervisor);
        }
    }
    Ok(0)
}
