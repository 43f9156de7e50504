//! Reaps every child and orphan, and tells who waits for them.
//!
//! ```text
//! SIGCHLD ─▶ wait for any child, until there is none ─┬─▶ watched: its watcher is told
//!                                                     ├─▶ not watched, but someone adopts: kept
//!                                                     └─▶ not watched: forgotten
//! ```
//!
//! The container's processes are no children but orphans: the runtime makes them and ends, and the
//! kernel hands them to the shim as the nearest subreaper. Such a process may end before the shim
//! has read its id from the runtime's pid file; while an [`Adoption`] lives, unknown exits are kept
//! for that reason, and only then, so that ids which the kernel uses again are never mixed up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use tokio::io::Interest;
use tokio::sync::oneshot;

use crate::sys;

/// A process id on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pid(pub(crate) i32);

impl Pid {
    /// The id as the interfaces count it.
    pub(crate) fn number(self) -> u32 {
        u32::try_from(self.0).unwrap_or(0)
    }
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) cause: Cause,
    pub(crate) at: SystemTime,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The status that shells and daemons use: the code, or 128 + signal.
    pub(crate) fn status(self) -> u32 {
        let status = match self.cause {
            Cause::Code(code) => code,
            Cause::Signal(signal) => 128 + signal,
        };
        u32::try_from(status).unwrap_or(u32::MAX)
    }

    /// The signal that ended the process, if one did.
    pub(crate) fn signal(self) -> Option<i32> {
        match self.cause {
            Cause::Code(_) => None,
            Cause::Signal(signal) => Some(signal),
        }
    }
}

/// The one place that waits for children.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    watchers: HashMap<Pid, oneshot::Sender<Exit>>,
    unclaimed: HashMap<Pid, Exit>,
    adoptions: usize,
}

impl Reaper {
    /// Returns a channel that gets the exit of `pid`, at once if it was kept.
    pub(crate) fn watch(&self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        match state.unclaimed.remove(&pid) {
            // The receiver is right here, so that sending cannot fail.
            Some(exit) => drop(sender.send(exit)),
            None => drop(state.watchers.insert(pid, sender)),
        }
        receiver
    }

    /// Keeps the exits of unknown processes while the result lives.
    pub(crate) fn adopt(self: &Rc<Self>) -> Adoption {
        self.state.borrow_mut().adoptions += 1;
        Adoption(Rc::clone(self))
    }

    /// Reaps for ever.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub(crate) async fn run(self: Rc<Self>) -> io::Result<()> {
        let notices = sys::watch_descriptor(sys::notices_of_children()?, Interest::READABLE)?;
        let mut count = [0; 8];
        loop {
            self.reap_all();
            // One notice may stand for many children, so all are asked for each time.
            let read = |fd: &_| Ok(nix::unistd::read(fd, &mut count)?);
            notices.async_io(Interest::READABLE, read).await?;
        }
    }

    fn reap_all(&self) {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (Pid(pid.as_raw_nonzero().get()), status),
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => return,
            };
            let cause = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Cause::Code(code),
                (None, Some(signal)) => Cause::Signal(signal),
                // Stops are not asked for.
                (None, None) => continue,
            };
            self.note(pid, Exit { cause, at: SystemTime::now() });
        }
    }

    fn note(&self, pid: Pid, exit: Exit) {
        let mut state = self.state.borrow_mut();
        match state.watchers.remove(&pid) {
            // Nobody may listen any more: then nobody needs to know.
            Some(watcher) => drop(watcher.send(exit)),
            None if state.adoptions > 0 => drop(state.unclaimed.insert(pid, exit)),
            None => {}
        }
    }
}

/// While it lives, exits of unknown processes are kept.
#[derive(Debug)]
pub(crate) struct Adoption(Rc<Reaper>);

impl Drop for Adoption {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.adoptions -= 1;
        if state.adoptions == 0 {
            state.unclaimed = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { cause: Cause::Code(code), at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn an_exit_before_the_watch_is_told_while_someone_adopts() {
        let reaper = Rc::new(Reaper::default());
        let adoption = reaper.adopt();
        reaper.note(Pid(7), exit(3));

        let told = reaper.watch(Pid(7)).try_recv();

        assert_eq!(told, Ok(exit(3)));
        drop(adoption);
        reaper.note(Pid(7), exit(4));
        assert!(reaper.watch(Pid(7)).try_recv().is_err(), "the old owner of the id is forgotten");
    }

    #[test]
    fn unclaimed_exits_are_forgotten_with_the_last_adoption() {
        let reaper = Rc::new(Reaper::default());
        let (first, second) = (reaper.adopt(), reaper.adopt());
        reaper.note(Pid(7), exit(3));

        drop(first);
        assert_eq!(reaper.state.borrow().unclaimed.len(), 1);
        drop(second);

        assert!(reaper.state.borrow().unclaimed.is_empty());
    }

    #[test]
    fn a_signal_is_reported_as_128_and_the_signal() {
        let killed = Exit { cause: Cause::Signal(9), at: SystemTime::UNIX_EPOCH };

        assert_eq!((killed.status(), killed.signal()), (137, Some(9)));
        assert_eq!((exit(3).status(), exit(3).signal()), (3, None));
    }
}
