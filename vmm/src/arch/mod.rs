//! What differs from one processor architecture to the next; today there is x86-64.

mod x86_64;

pub use x86_64::*;
