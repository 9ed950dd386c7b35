//! Gets a vCPU thread out of `KVM_RUN`, whenever it is.
//!
//! First `immediate_exit` is set, then a signal is sent: a thread inside `KVM_RUN` is interrupted
//! by the signal, one that is about to enter finds the flag. There is no moment between the two.

use std::{
    io,
    os::unix::thread::JoinHandleExt,
    ptr::NonNull,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::JoinHandle,
};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Access to `immediate_exit` of one vCPU, from any thread.
#[derive(Debug)]
pub struct Kick {
    /// `None` once the vCPU thread is about to drop the mapping that this points into.
    immediate_exit: Mutex<Option<NonNull<AtomicU8>>>,
}

// SAFETY: the pointer is dereferenced only under the mutex and while it is `Some`, which is as long
// as the mapping lives (see `disarm`); its target is accessed atomically.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// The signal needs a handler, or it would end the process; the handler needs to do nothing.
fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        result = register_signal_handler(SIGRTMIN(), nothing).map_err(io::Error::from);
    });
    result
}

impl Kick {
    /// Access to the flag of `vcpu`, whose thread calls [`Self::disarm`] before it drops it.
    pub fn new(vcpu: &mut VcpuFd) -> io::Result<Self> {
        install_handler()?;
        let flag = NonNull::from(&mut vcpu.get_kvm_run().immediate_exit).cast();
        Ok(Self {
            immediate_exit: Mutex::new(Some(flag)),
        })
    }

    /// Gets `thread` out of `KVM_RUN`.
    pub fn kick(&self, thread: &JoinHandle<()>) {
        self.set(1);
        // SAFETY: `thread` is not joined yet, so its pthread identifier is valid even if the
        // thread has ended; the signal has a handler.
        unsafe {
            libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN());
        }
    }

    /// Takes the flag back; called by the vCPU thread before it looks for commands, so that a
    /// command sent after this sets it again.
    pub fn acknowledge(&self) {
        self.set(0);
    }

    /// Forgets the flag; called by the vCPU thread before the mapping goes.
    pub fn disarm(&self) {
        *self.lock() = None;
    }

    fn set(&self, value: u8) {
        if let Some(flag) = *self.lock() {
            // SAFETY: the pointer is into the vCPU's mapped `kvm_run`, which lives while it is
            // `Some`; KVM and other threads access the byte, hence atomically. `AtomicU8` has the
            // size and alignment of the byte.
            unsafe { flag.as_ref() }.store(value, Ordering::SeqCst);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<NonNull<AtomicU8>>> {
        self.immediate_exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
