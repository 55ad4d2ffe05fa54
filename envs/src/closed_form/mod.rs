//! Environments so plain that the expected return of a simple policy, and its derivatives, are closed forms: what estimators
//! can be checked against.

mod lqr;
mod two_state;

pub use lqr::Lqr;
pub use two_state::TwoState;

use crate::EnvEntry;

/// Their lines in the registry.
pub(crate) const ENTRIES: [EnvEntry; 2] = [lqr::ENTRY, two_state::ENTRY];
