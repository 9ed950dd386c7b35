//! The stack against a guest: smoltcp on the other end of the link, and frames by hand.

mod answers;
mod flows;
mod guest;
