//! Stopping all processes of a container where they are, and letting them go on.
//!
//! v1's freezer has a weakness: a process that forks while its cgroup freezes can be missed for a
//! while, and the state stays `FREEZING`. Thawing for a moment and freezing again resolves it. v2
//! freezes reliably, but asynchronously, and tells when it is done by `cgroup.events`.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::Cgroup;
use super::dir::Dir;
use super::error::CgroupError;

const DEADLINE: Duration = Duration::from_secs(10);
/// How often a freezing cgroup of v1 is looked at before it is thawed for a moment.
const LOOKS_PER_ROUND: u32 = 50;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_micros(100);
const PAUSE_WHILE_THAWED: Duration = Duration::from_millis(10);

/// Whether the processes of a container run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezerState {
    /// They run, or would.
    Thawed,
    /// They are stopped, or about to be.
    Frozen,
}

/// The place from which a container is frozen.
enum Freezer {
    V1(Dir),
    V2(Dir),
}

impl Cgroup {
    /// Stops all processes of the container, and returns when all stand still.
    ///
    /// # Errors
    /// [`CgroupError::NoFreezer`], or [`CgroupError::FreezeTimedOut`] after ten seconds; the
    /// processes run on then.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        match self.freezer()?.ok_or(CgroupError::NoFreezer)? {
            Freezer::V1(dir) => freeze_v1(&dir),
            Freezer::V2(dir) => switch_v2(&dir, FreezerState::Frozen),
        }
    }

    /// Lets all processes of the container run.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.freezer()?.ok_or(CgroupError::NoFreezer)? {
            Freezer::V1(dir) => dir.write("freezer.state", "THAWED"),
            Freezer::V2(dir) => switch_v2(&dir, FreezerState::Thawed),
        }
    }

    /// Whether the container is frozen; one without a freezer, or whose cgroup is gone, is not.
    ///
    /// # Errors
    /// [`CgroupError::Read`] if the kernel does not tell.
    pub fn freezer_state(&self) -> Result<FreezerState, CgroupError> {
        let text = match self.freezer()? {
            Some(Freezer::V1(dir)) => dir.read_if_present("freezer.state")?,
            Some(Freezer::V2(dir)) => dir.read_if_present("cgroup.freeze")?,
            None => None,
        };
        Ok(match text.as_deref().map(str::trim) {
            None | Some("THAWED" | "0") => FreezerState::Thawed,
            Some(_) => FreezerState::Frozen,
        })
    }

    /// Takes a process that somebody has moved into a frozen cgroup of v1 back into this one, which lets it
    /// run, or die: there, a frozen process does not even see that it was killed.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn take_back(&self, process: Pid) -> Result<(), CgroupError> {
        match self.freezer()? {
            Some(Freezer::V1(dir)) => dir.write("cgroup.procs", &process.to_string()),
            Some(Freezer::V2(_)) | None => Ok(()),
        }
    }

    /// Where the freezer is: a directory of v1's hierarchy, or the one of v2.
    #[must_use]
    pub fn freezer_dir(&self) -> Option<&Path> {
        let group = self.v1_group("freezer").or(self.saved.v2.as_ref())?;
        Some(&group.dir)
    }

    /// The freezer, unless there is none or the cgroup is gone.
    fn freezer(&self) -> Result<Option<Freezer>, CgroupError> {
        if let Some(group) = self.v1_group("freezer") {
            return Ok(Dir::open_existing(&group.dir)?.map(Freezer::V1));
        }
        match &self.saved.v2 {
            Some(group) => Ok(Dir::open_existing(&group.dir)?.map(Freezer::V2)),
            None => Ok(None),
        }
    }
}

fn freeze_v1(dir: &Dir) -> Result<(), CgroupError> {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        for _ in 0..LOOKS_PER_ROUND {
            dir.write("freezer.state", "FROZEN")?;
            if dir.read("freezer.state")?.trim() == "FROZEN" {
                return Ok(());
            }
            std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
        dir.write("freezer.state", "THAWED")?;
        std::thread::sleep(PAUSE_WHILE_THAWED);
    }
    dir.write("freezer.state", "THAWED")?;
    Err(timed_out(dir, "freeze"))
}

fn switch_v2(dir: &Dir, state: FreezerState) -> Result<(), CgroupError> {
    let (switch, event, what) = match state {
        FreezerState::Frozen => ("1", "frozen 1", "freeze"),
        FreezerState::Thawed => ("0", "frozen 0", "thaw"),
    };
    // Opened before the switch, so that no notification is missed.
    let events = dir.open_for_read("cgroup.events")?;
    let started = Instant::now();
    dir.write("cgroup.freeze", switch)?;
    loop {
        if dir.read("cgroup.events")?.lines().any(|line| line == event) {
            return Ok(());
        }
        let left = DEADLINE.saturating_sub(started.elapsed());
        if left.is_zero() {
            if state == FreezerState::Frozen {
                dir.write("cgroup.freeze", "0")?;
            }
            return Err(timed_out(dir, what));
        }
        let mut wait = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut wait, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                let file = dir.path().join("cgroup.events");
                return Err(CgroupError::Read { file, errno });
            }
        }
    }
}

fn timed_out(dir: &Dir, what: &'static str) -> CgroupError {
    CgroupError::FreezeTimedOut { dir: dir.path().into(), what, deadline_secs: DEADLINE.as_secs() }
}
