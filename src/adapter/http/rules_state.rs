//! What the routes of rules stand on, and who is trying one.
//!
//! Guarantees that a tenant tries one rule at a time while an answer waits for it, and that
//! there is room for others.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::problem::Problem;
use crate::clock::Clock;
use crate::jobs::Jobs;
use crate::log::Log;

/// So many at once in a process, each of another tenant.
const TRIALS_AT_ONCE_MAX: usize = 4;

/// What these routes stand on.
#[derive(Clone)]
pub struct RulesState {
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) jobs: Jobs,
    pub(super) trying: Trying,
}

/// Whose rules are being tried right now by this process.
#[derive(Clone, Default)]
pub struct Trying(Arc<Mutex<HashSet<Arc<str>>>>);

/// One trial; dropped, it is over.
pub(super) struct Turn {
    trying: Trying,
    tenant: Arc<str>,
}

impl Trying {
    pub(super) fn begin(&self, tenant: &Arc<str>) -> Result<Turn, Problem> {
        let mut all = self.all();
        if all.contains(tenant) || all.len() >= TRIALS_AT_ONCE_MAX {
            metrics::counter!("vitals_trials_refused_total").increment(1);
            let detail = "another rule is being tried: send this one again when that is answered";
            return Err(Problem::unavailable("trials_busy", detail));
        }
        all.insert(tenant.clone());
        Ok(Turn { trying: self.clone(), tenant: tenant.clone() })
    }

    fn all(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.0.lock()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.trying.all().remove(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_trial_at_a_time_and_leaves_room_for_others() {
        let (trying, one): (Trying, Arc<str>) = (Trying::default(), "one".into());
        let turn = trying.begin(&one).expect("nobody else");
        assert!(trying.begin(&one).is_err());
        let others: Vec<Turn> = (1..TRIALS_AT_ONCE_MAX)
            .map(|n| trying.begin(&format!("other {n}").into()).expect("there is room"))
            .collect();
        assert!(trying.begin(&"one more".into()).is_err());
        drop(turn);
        assert!(trying.begin(&one).is_ok());
        drop(others);
        assert!(trying.all().is_empty());
    }
}
