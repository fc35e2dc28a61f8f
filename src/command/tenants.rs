//! What there is, for those who look where nothing is.
//!
//! Guarantees nothing about what is found; it reads names only.

use super::error::Error;
use crate::log::Log;
use crate::query::patients;

/// Tenants that are named to somebody who looked for another.
const TENANTS_NAMED_MAX: usize = 20;

/// A sentence about a tenant that has nothing in the log; `None` when it has something.
pub(super) async fn nothing_of(log: &Log, tenant: &str) -> Result<Option<String>, Error> {
    let tenants = patients::tenants(log).await?;
    if tenants.iter().any(|name| name == tenant) {
        return Ok(None);
    }
    Ok(Some(format!("the tenant {tenant} has nothing in this log: {}", what_there_is(&tenants))))
}

/// Says it of a log that has nothing at all, to somebody who has all of it looked at.
pub(super) async fn say_if_empty(log: &Log) -> Result<(), Error> {
    let tenants = patients::tenants(log).await?;
    if tenants.is_empty() {
        eprintln!("{}", what_there_is(&tenants));
    }
    Ok(())
}

fn what_there_is(tenants: &[String]) -> String {
    let named = tenants.iter().take(TENANTS_NAMED_MAX).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match tenants.len().saturating_sub(TENANTS_NAMED_MAX) {
        _ if tenants.is_empty() => {
            "the log is empty; is it the right database, or the right --data-dir?".to_owned()
        }
        0 => format!("there is {named} (--tenant)"),
        more => format!("there is {named} and {more} more (--tenant)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_in_vain_is_told_what_there_is() {
        let names = |n: usize| (0..n).map(|n| format!("t{n}")).collect::<Vec<_>>();
        assert!(what_there_is(&[]).contains("--data-dir"));
        assert_eq!(what_there_is(&names(2)), "there is t0, t1 (--tenant)");
        assert!(what_there_is(&names(23)).ends_with("t19 and 3 more (--tenant)"));
    }
}
