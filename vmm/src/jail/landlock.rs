//! A landlock domain that handles every right and grants none.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Journal, Layer};

/// The newest interface whose rights are asked for; an older kernel handles what it knows.
const NEWEST: ABI = ABI::V6;

/// Gives up opening files, TCP, abstract Unix sockets of others and signals to others. What is
/// already open is not affected.
pub(super) fn restrict(journal: &mut Journal) {
    match restrict_self() {
        Ok(status) => match (&status.ruleset, &status.landlock) {
            (RulesetStatus::FullyEnforced, _) => {
                journal.applied(
                    Layer::Landlock,
                    "files, TCP, abstract sockets, signals; no rules",
                );
            }
            (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
                let newest = NEWEST;
                journal.applied(
                    Layer::Landlock,
                    format!("what interface {effective_abi} of {newest} knows; no rules"),
                );
            }
            (_, landlock) => journal.unavailable(Layer::Landlock, format!("{landlock:?}")),
        },
        Err(error) => journal.unavailable(Layer::Landlock, error.to_string()),
    }
}

fn restrict_self() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}
