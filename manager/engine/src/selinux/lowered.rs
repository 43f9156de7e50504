//! Programs that hold the other end of a container's streams run without categories.
//!
//! A pipe has the level of the process that makes it. Of a daemon that was started by hand that is
//! `s0-s0:c0.c1023`, and no container may write to what has categories that it has not. Daemons of
//! the system have none.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::sync::OnceLock;

use tokio::process::{Child, Command};

use super::context::Context;

/// The label of this process.
const OWN: &str = "/proc/self/attr/current";
/// The label of the program that this thread executes next, and of those that it spawns.
const NEXT: &str = "/proc/thread-self/attr/exec";

/// Spawns a program at the daemon's lowest level; as it is, where that is the same or not allowed.
///
/// # Errors
/// As [`Command::spawn`].
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    static LABEL: OnceLock<Option<String>> = OnceLock::new();

    let own = || fs::exists(super::ENABLED).unwrap_or(false).then(|| fs::read_to_string(OWN).ok());
    let Some(label) = LABEL.get_or_init(|| lowered(&own().flatten()?)) else {
        return command.spawn();
    };
    if set(label).is_err() {
        return command.spawn();
    }
    let spawned = command.spawn();
    // An empty line takes it back. What this thread spawns otherwise would have it too, but it is a
    // label that was allowed a moment ago.
    let _ = set("\n");
    match spawned {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => command.spawn(),
        outcome => outcome,
    }
}

fn set(label: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(NEXT)?.write_all(label.as_bytes())
}

/// The same label without categories; `None` if it has none.
fn lowered(own: &str) -> Option<String> {
    let own = Context::parse(own.trim_end_matches(['\0', '\n']))?;
    let lowered = own.without_categories();
    (lowered != own).then(|| lowered.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_with_categories_is_lowered() {
        let high = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0";

        assert_eq!(lowered(high).as_deref(), Some("unconfined_u:unconfined_r:unconfined_t:s0"));
        assert_eq!(lowered("system_u:system_r:container_engine_t:s0\n"), None);
        assert_eq!(lowered("kernel"), None);
        assert_eq!(lowered("u:r:t"), None);
    }
}
