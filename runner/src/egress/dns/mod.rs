//! Name service of the sandbox's network: the gateway answers, and remembers what it said.

mod names;

pub use names::Names;
