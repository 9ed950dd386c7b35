//! A guest that means harm: broken chains, rings and registers against every device.
//!
//! `rig` sets a device up with its host side and watches guest memory: nothing next to it changes,
//! and inside of it only used rings and what the driver made writable. `chains` has one test per
//! way to break a chain; `sequences` has random sequences, run a bounded number of times.
//! `PROPTEST_CASES=100000 cargo test -p mayfly-vmm hostile` runs longer.

mod chains;
mod rig;
mod sequences;
