//! What goes wrong in a command.

/// What goes wrong in a command, already said for a person.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
