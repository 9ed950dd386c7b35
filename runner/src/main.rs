//! Mayfly: a self-hosted GitHub Actions runner that gives every job a fresh microVM.

mod sandbox;

fn main() {}
