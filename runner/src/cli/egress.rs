//! `mayfly egress`: what the policy says, and a policy from what jobs did.

mod args;
mod check;
mod suggest;

use clap::{Args, Subcommand};

use super::CommandResult;

pub use args::{EgressArgs, line};

/// Asks the egress policy, and makes one from records.
#[derive(Debug, Args)]
pub struct EgressCommandArgs {
    #[command(subcommand)]
    command: EgressCommand,
}

#[derive(Debug, Subcommand)]
enum EgressCommand {
    Check(check::CheckArgs),
    Suggest(suggest::SuggestArgs),
}

pub fn egress(args: &EgressCommandArgs) -> CommandResult {
    match &args.command {
        EgressCommand::Check(args) => check::check(args),
        EgressCommand::Suggest(args) => suggest::suggest(args),
    }
}
