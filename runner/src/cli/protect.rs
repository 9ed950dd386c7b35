//! Keeps other processes of the same user out of this one, which will hold secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No ptrace, no `/proc/PID/mem`, no core file: for others of the same user, and for the crash
/// handler. Called first in every command; the arguments may hold secrets already.
///
/// # Errors
/// The kernel's; the command must not go on then.
pub fn protect_memory() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Programs that this one starts become dumpable again by exec; the limit stays with them.
    setrlimit(Resource::Core, none)
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    use super::protect_memory;

    #[test]
    fn memory_is_neither_dumped_nor_read_by_others() {
        protect_memory().unwrap();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    }
}
