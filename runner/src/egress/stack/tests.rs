//! The stack against a guest: smoltcp on the other end of the link, and frames by hand.

mod answers;
mod flows;
mod frames;
mod guest;
mod hostile;
mod relaying;
