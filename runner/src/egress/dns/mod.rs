//! Name service of the sandbox's network: the gateway answers, and remembers what it said.
//!
//! `gateway` takes questions of either transport and answers them, `question` is what may be asked,
//! `reply` what is answered, `upstream` the host's resolver, `names` which address has which name,
//! `bounds` how much may be asked (names carry data out as well as in).

mod bounds;
mod gateway;
mod names;
mod question;
mod reply;
#[cfg(test)]
mod tests;
mod upstream;

pub use gateway::{Gateway, MayResolve};
pub use names::Names;
pub use upstream::{ResolverError, Upstream};
