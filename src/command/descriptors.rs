//! The process's open files: as many as the system lets it have.
//!
//! Guarantees that connections from outside never take the descriptors that pages, the
//! database and files need, whatever the system's limit is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections from outside leave: deliveries under way, the database's
/// connections, files. Of a process that may have few, half of them.
const DESCRIPTORS_KEPT: u64 = 512;

/// Raises this process's limit of open files to what the system allows. `None`: none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit of open files was not raised");
        return current;
    }
    maximum
}

/// How many connections from outside this process takes, where `asked` are meant.
pub fn connections(asked: usize) -> usize {
    let Some(descriptors) = raise() else { return asked };
    let left = descriptors - DESCRIPTORS_KEPT.min(descriptors / 2);
    let connections = usize::try_from(left).unwrap_or(usize::MAX).min(asked).max(1);
    if connections < asked {
        tracing::warn!(
            connections,
            descriptors,
            "fewer connections than --connections {asked}: raise the process's limit of open files \
             (ulimit -n, LimitNOFILE)"
        );
    }
    connections
}
