//! Work that a jailed and filtered process goes on doing.
//!
//! Without the test harness, so that children have what a VMM has when it starts: one thread, the
//! main one, with the C library's first arena.

#[path = "../jail/child.rs"]
mod child;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;

use mayfly_vmm::jail::{JailOptions, ThreadKind, enter_process, filter_thread};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};

use child::{Case, Ended, Start, in_child};

const MAX_FILE: u64 = 1 << 20;

fn main() {
    a_file_longer_than_allowed_is_an_error_and_not_the_end();
    threads_that_exist_work_on_and_end();
    a_fault_ends_the_process_by_its_own_signal();
    println!("jailed work: ok");
}

fn a_file_longer_than_allowed_is_an_error_and_not_the_end() {
    let mut file = tempfile::tempfile().expect("temporary file");
    let ended = in_child(Start::AsIs, |pipe| {
        enter(&[pipe, file.as_raw_fd()])?;
        filter(ThreadKind::Devices)?;
        let written = file
            .write_all_at(b"x", MAX_FILE)
            .map_err(|error| error.raw_os_error());
        check(written == Err(Some(libc::EFBIG)), format!("{written:?}"))?;
        file.write_all_at(b"x", MAX_FILE - 1)
            .map_err(|error| error.to_string())
    });
    assert_eq!(ended, Ended::Well);
    assert_eq!(file.seek(SeekFrom::End(0)).expect("seeks"), MAX_FILE);
}

fn threads_that_exist_work_on_and_end() {
    let file = tempfile::tempfile().expect("temporary file");
    for start in Start::possible() {
        let ended = in_child(start, |pipe| all_threads_work(pipe, &file));
        assert_eq!(ended, Ended::Well, "started as {start:?}");
    }
}

/// The parent must not take a bug, or a snapshot file that became shorter, for an attack.
fn a_fault_ends_the_process_by_its_own_signal() {
    for kind in [ThreadKind::Main, ThreadKind::Devices, ThreadKind::Vcpu] {
        let ended = in_child(Start::AsIs, |pipe| {
            enter(&[pipe])?;
            filter(kind)?;
            // SAFETY: nothing is mapped there, which is the point.
            let byte = unsafe { std::ptr::without_provenance::<u8>(4096).read_volatile() };
            Err(format!("read {byte}"))
        });
        assert_eq!(ended, Ended::BySignal(libc::SIGSEGV), "{kind:?}");
        let ended = in_child(Start::AsIs, |pipe| {
            enter(&[pipe])?;
            filter(kind)?;
            std::process::abort()
        });
        assert_eq!(ended, Ended::BySignal(libc::SIGABRT), "{kind:?}");
    }
}

fn enter(kept: &[RawFd]) -> Case {
    let options = JailOptions {
        max_file_bytes: MAX_FILE,
        max_descriptors: 64,
        max_threads: 3,
    };
    enter_process(kept, &options)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn filter(kind: ThreadKind) -> Case {
    filter_thread(kind).map_err(|error| error.to_string())
}

fn check(right: bool, what: impl Into<String>) -> Case {
    if right { Ok(()) } else { Err(what.into()) }
}

/// Three threads, as in a VMM of one vCPU: filtered, at work at the same time, joined.
fn all_threads_work(pipe: RawFd, file: &File) -> Case {
    enter(&[pipe, file.as_raw_fd()])?;
    let all_exist = &Barrier::new(3);
    let run = move |kind| {
        let events = EventLoop::new().map_err(|error| error.to_string())?;
        all_exist.wait();
        filter(kind)?;
        allocate()?;
        let done = match kind {
            ThreadKind::Main => events.notify().and_then(|()| events.poll()),
            ThreadKind::Devices => events.notify().and_then(|()| events.wait()),
            ThreadKind::Vcpu => events.notify(),
        };
        // Files are not for vCPU threads.
        let file = Some(file).filter(|_| kind != ThreadKind::Vcpu);
        done.and_then(|()| file.map_or(Ok(()), |file| use_file(kind, file)))
            .map_err(|error| format!("{kind:?}: {error}"))
    };
    std::thread::scope(|scope| {
        let devices = scope.spawn(move || run(ThreadKind::Devices));
        let vcpu = scope.spawn(move || run(ThreadKind::Vcpu));
        run(ThreadKind::Main)?;
        devices.join().map_err(|_| "the device thread panicked")??;
        vcpu.join().map_err(|_| "the vCPU thread panicked")?
    })
}

/// 100 MiB from malloc in small and large pieces, grown, shrunk, freed.
fn allocate() -> Case {
    let mut small: Vec<Vec<u8>> = (0..500).map(|index| vec![index as u8; 100 << 10]).collect();
    let mut large = vec![1_u8; 25 << 20];
    large.resize(50 << 20, 2);
    small.truncate(10);
    large.truncate(1 << 20);
    large.shrink_to_fit();
    check(
        large.iter().all(|byte| *byte == 1) && small[9][0] == 9,
        "memory is not what was put in",
    )
}

fn use_file(kind: ThreadKind, file: &File) -> io::Result<()> {
    let offset = 4096 * kind as u64;
    file.write_all_at(b"guest data", offset)?;
    let mut back = [0; 10];
    file.read_exact_at(&mut back, offset)?;
    file.sync_data()?;
    if &back == b"guest data" {
        Ok(())
    } else {
        Err(io::Error::other("read back something else"))
    }
}

/// Descriptors that are made in the jail, but before the filters.
struct EventLoop {
    epoll: OwnedFd,
    event: OwnedFd,
}

impl EventLoop {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let data = epoll::EventData::new_u64(7);
        epoll::add(&epoll, &event, data, epoll::EventFlags::IN)?;
        Ok(Self { epoll, event })
    }

    fn notify(&self) -> io::Result<()> {
        rustix::io::write(&self.event, &1_u64.to_ne_bytes())
            .map(drop)
            .map_err(Into::into)
    }

    fn poll(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        poll(&mut fds, None)?;
        self.taken()
    }

    fn wait(&self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(1);
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut ready),
            None,
        )?;
        self.taken()
    }

    fn taken(&self) -> io::Result<()> {
        let mut count = [0; 8];
        rustix::io::read(&self.event, &mut count)?;
        if u64::from_ne_bytes(count) == 1 {
            Ok(())
        } else {
            Err(io::Error::other("no event"))
        }
    }
}
