//! Ids as options take them.

use crate::event::is_fhir_id;

/// The id of a tenant, a patient or a device, as an option takes it.
pub(super) fn id(text: &str) -> Result<String, String> {
    let is_one = is_fhir_id(text).then(|| text.to_owned());
    is_one.ok_or_else(|| {
        "an id is 1 to 64 letters, digits, dashes and dots, and not . or ..".to_owned()
    })
}
