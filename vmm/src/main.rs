//! `mayfly-vmm --config-fd N`: one microVM, described by one document on an inherited descriptor.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    process::ExitCode,
    sync::Arc,
};

use kvm_ioctls::Kvm;
use mayfly_vmm::{
    config::VmmConfig,
    control::{ControlSocket, Message},
    exit::ExitReason,
    jail::{self, JailOptions, ThreadKind},
    machine::Machine,
    process::SPAWNED_AT,
    server,
    statistics::{Timeline, mark},
};

/// Longest configuration in bytes.
const CONFIG_MAX: u64 = 1 << 20;
/// Descriptors for eventfds, vCPUs and vsock connections, beside those of the configuration.
const DESCRIPTORS_MAX: u64 = 1024;
const USAGE: &str = "usage: mayfly-vmm --config-fd N\n\
    Started by mayfly, not by hand: N is a descriptor with a configuration document.";

fn main() -> ExitCode {
    let timeline = Arc::new(Timeline::default());
    mark(&timeline.process_started);
    if let Some(instant) = std::env::var(SPAWNED_AT)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        let _ = timeline.spawned.set(instant);
    }
    let reason = match arguments().and_then(read_config) {
        Ok(config) => {
            mark(&timeline.configured);
            run_reporting(&config, timeline)
        }
        Err(message) => ExitReason::BadConfiguration { message },
    };
    if reason != ExitReason::GuestShutDown {
        // The parent may be gone, and with it who reads this: no reason to end otherwise.
        let _ = writeln!(std::io::stderr(), "mayfly-vmm: {reason}");
    }
    ExitCode::from(&reason)
}

/// Descriptor of the configuration.
fn arguments() -> Result<RawFd, String> {
    let mut arguments = std::env::args().skip(1);
    let mut config = None;
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match name.as_str() {
            "--config-fd" => config = value.parse().ok(),
            _ => return Err(USAGE.into()),
        }
    }
    config.filter(|fd| *fd > 2).ok_or_else(|| USAGE.into())
}

fn read_config(fd: RawFd) -> Result<VmmConfig, String> {
    let file = File::from(take(fd)?);
    let mut document = Vec::new();
    file.take(CONFIG_MAX)
        .read_to_end(&mut document)
        .map_err(|error| format!("reading the configuration: {error}"))?;
    VmmConfig::parse(&document).map_err(|error| error.to_string())
}

/// Takes ownership of an inherited descriptor that nothing in this process owns yet.
fn take(fd: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: F_GETFD takes no pointer; an unknown number is answered with EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(format!(
            "descriptor {fd} is not open; the parent must pass it on"
        ));
    }
    // SAFETY: the descriptor is open. It is that of the configuration, before anything else is
    // opened, or that of the control socket, which the configuration names once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the machine and tells the parent why it ended.
fn run_reporting(config: &VmmConfig, timeline: Arc<Timeline>) -> ExitReason {
    let control = match take(config.control_fd) {
        Ok(socket) => ControlSocket::new(socket),
        Err(message) => return ExitReason::BadConfiguration { message },
    };
    let reason = run(config, &control, timeline);
    let message = Message::Exited {
        reason: reason.clone(),
    };
    // The exit code says the same to a parent that does not listen.
    let _ = control.send(&message, &[]);
    reason
}

fn run(config: &VmmConfig, control: &ControlSocket, timeline: Arc<Timeline>) -> ExitReason {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            return ExitReason::internal(format!(
                "opening /dev/kvm: {error}; `mayfly doctor` tells what is missing"
            ));
        }
    };
    if config.jail.enabled
        && let Err(error) = enter_jail(config, &kvm, &timeline)
    {
        return ExitReason::internal(error);
    }
    let mut machine = match Machine::new(&kvm, config, timeline) {
        Ok(machine) => machine,
        Err(error) if error.is_configuration() => {
            return ExitReason::BadConfiguration {
                message: error.to_string(),
            };
        }
        Err(error) => return ExitReason::internal(error),
    };
    if config.jail.enabled
        && let Err(error) = jail::filter_thread(ThreadKind::Main)
    {
        return ExitReason::internal(error);
    }
    // The threads hold the descriptors of their vCPUs; nobody needs to make another VM.
    drop(kvm);
    machine.resume();
    let reason = server::serve(&mut machine, control);
    machine.stop();
    reason
}

fn enter_jail(config: &VmmConfig, kvm: &Kvm, timeline: &Timeline) -> Result<(), jail::JailError> {
    let mut kept = config.descriptors();
    // Standard error takes the last words of a VMM that cannot reach its parent otherwise.
    kept.extend([2, kvm.as_raw_fd()]);
    let options = JailOptions {
        max_file_bytes: config.max_file_bytes(),
        max_descriptors: DESCRIPTORS_MAX,
        max_threads: u64::from(config.machine.vcpus) + 2,
    };
    let report = jail::enter_process(&kept, &options)?;
    mark(&timeline.jailed);
    // Nobody else sets it.
    let _ = timeline.jail.set(report);
    Ok(())
}
