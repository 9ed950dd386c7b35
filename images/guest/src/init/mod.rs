//! PID 1 of a sandbox: brings the machine up, then serves the worker until it is told to end.
//!
//! Each part of coming up is a file here. What fails is said on the console, and the machine is
//! reset, which the VMM reports as a guest that panicked: there is nobody to repair it.

mod activation;
mod boot;
mod identity;
mod modules;
mod mounts;
mod network;
mod serve;
mod settings;
mod vsock;

use rustix::system::{RebootCommand, reboot};

/// Runs the machine; never returns. Only for process 1 of a virtual machine that holds nothing.
pub fn run() -> ! {
    let error = match boot::boot() {
        Ok(machine) => serve::serve(machine),
        Err(error) => error,
    };
    eprintln!("mayfly-guest: {error}; resetting the machine");
    end(RebootCommand::Restart)
}

/// Powers off. Nothing is written back: the disk ends with the machine.
fn power_off() -> ! {
    eprintln!("mayfly-guest: powering off");
    end(RebootCommand::PowerOff)
}

fn end(command: RebootCommand) -> ! {
    let result = reboot(command);
    // The call returns only if the kernel cannot do it. The end of PID 1 makes it panic, and reset.
    eprintln!("mayfly-guest: the kernel does not end the machine: {result:?}");
    std::process::exit(1)
}
