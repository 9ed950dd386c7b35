//! A long time without jobs: neither memory nor descriptors grow.

use std::{fs, time::Instant};

use libtest_mimic::{Failed, Trial};
use mayfly::supervisor::state::WorkerState;
use mayfly_tests::processes;
use std::time::Duration;

use crate::rig::Rig;

/// Polls of a day, each held for 50 seconds.
const POLLS: u64 = 24 * 3600 / 50;
/// How much the memory may grow, in KiB: allocators keep some, leaks know no bound.
const GROWTH: u64 = 2048;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "a_day_of_idle_polling_costs_no_memory_and_no_descriptors",
        a_day,
    )]
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Sample {
    kib: u64,
    descriptors: usize,
    threads: usize,
}

fn sample(process: u32) -> Result<Sample, Failed> {
    let count = |what: &str| fs::read_dir(format!("/proc/{process}/{what}")).map(Iterator::count);
    Ok(Sample {
        kib: processes::resident_kib(process),
        descriptors: count("fd")?,
        threads: count("task")?,
    })
}

/// The supervisor polls a scale set's queue and a worker polls its broker; a thousandth of the time.
fn a_day() -> Result<(), Failed> {
    let mut rig = Rig::new("mode = \"scale-set\"\ncapacity = 2\nmin_idle = 1")?;
    rig.faster(1000);
    rig.github.hold(Duration::from_millis(4));
    rig.github.remember(500);
    // As many tokens as in a day: one in 17 minutes, one in an hour.
    let begun = Instant::now();
    rig.start()?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    let worker = rig.in_state(WorkerState::Idle)[0];
    let polls = |part: u64| POLLS * part / 4;
    let mut samples = Vec::new();
    for part in 1..=4 {
        rig.until("a quarter of a day", |rig| {
            rig.github.queue_polls() >= polls(part)
        })?;
        rig.github.expire_queue_tokens();
        samples.push((sample(rig.pid())?, sample(worker)?));
    }
    let (first, last) = (samples[0], samples[3]);
    println!(
        "{} polls of the queue in {:?}; supervisor {:?} then {:?}; worker {:?} then {:?}",
        rig.github.queue_polls(),
        begun.elapsed(),
        first.0,
        last.0,
        first.1,
        last.1,
    );
    for (before, after) in [(first.0, last.0), (first.1, last.1)] {
        assert!(after.kib <= before.kib + GROWTH, "{samples:?}");
        assert!(after.descriptors <= before.descriptors + 2, "{samples:?}");
        assert!(after.threads <= before.threads + 1, "{samples:?}");
    }
    assert_eq!(
        rig.in_state(WorkerState::Idle),
        [worker],
        "it waits all day"
    );
    rig.end()
}
