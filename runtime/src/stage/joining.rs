//! Namespaces that exist already: opened by the runtime, joined by whoever has the right to.
//!
//! | joined | together with | joined by |
//! | --- | --- | --- |
//! | pid | – | the runtime, around the clone: it concerns children only |
//! | user | – | the first of two processes, with all others |
//! | the rest | a new user namespace | the runtime, around the clone: inside, the right is gone |
//! | the rest | – | init itself |

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::setns;
use nix::sys::stat::Mode;

use super::failure::{AtStep, Failure, Step};
use crate::namespaces::{NamespaceKind, is_own, open_namespace};
use crate::plan::namespaces::{JoinedNamespace, NamespacePlan};

/// Why a namespace cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its file cannot be opened, or is none of a namespace.
    #[error("open the {} namespace {path:?} (linux.namespaces)", kind.file_name())]
    Open {
        /// Which kind.
        kind: NamespaceKind,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The runtime cannot enter it, or cannot come back.
    #[error("join the {} namespace {path:?}", kind.file_name())]
    Join {
        /// Which kind.
        kind: NamespaceKind,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

/// A namespace to join.
#[derive(Debug)]
pub struct Opened {
    /// Position in [`NamespacePlan::joined`].
    index: usize,
    kind: NamespaceKind,
    path: PathBuf,
    file: OwnedFd,
}

impl Opened {
    fn join(&self) -> Result<(), Errno> {
        setns(&self.file, self.kind.flag())
    }

    fn join_error(&self, errno: Errno) -> JoinError {
        JoinError::Join { kind: self.kind, path: self.path.clone(), errno }
    }
}

/// The namespaces to join, by who joins them.
#[derive(Debug, Default)]
pub struct Joins {
    /// By the runtime, around the clone.
    around: Vec<Opened>,
    /// By the process that is cloned.
    inside: Vec<Opened>,
    /// Whether one of these is a user namespace.
    pub user: bool,
}

impl Joins {
    /// Opens what the plan names. A user namespace that the runtime is in already is left out: the
    /// kernel refuses to join it again.
    ///
    /// # Errors
    /// [`JoinError::Open`].
    pub fn open(plan: &NamespacePlan) -> Result<Self, JoinError> {
        let mut joins = Self::default();
        let mut opened = Vec::with_capacity(plan.joined.len());
        for (index, JoinedNamespace { kind, path }) in plan.joined.iter().enumerate() {
            let error = |errno| JoinError::Open { kind: *kind, path: path.clone(), errno };
            let file = open_namespace(path).map_err(error)?;
            if *kind == NamespaceKind::User {
                if is_own(*kind, &file).map_err(error)? {
                    continue;
                }
                joins.user = true;
            }
            opened.push(Opened { index, kind: *kind, path: path.clone(), file });
        }
        let new_user = plan.new.contains(NamespaceKind::User);
        for namespace in opened {
            let around = !joins.user && (new_user || namespace.kind == NamespaceKind::Pid);
            if around { &mut joins.around } else { &mut joins.inside }.push(namespace);
        }
        Ok(joins)
    }

    /// Joins what the runtime joins itself, so that a clone inherits it. The answer leads back.
    ///
    /// # Errors
    /// [`JoinError::Join`].
    pub fn enter(&self) -> Result<WayBack, JoinError> {
        let mut back = WayBack { cwd: None, own: Vec::new() };
        for namespace in &self.around {
            let own = open_own(namespace.kind).map_err(|errno| namespace.join_error(errno))?;
            if namespace.kind == NamespaceKind::Mount {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let cwd = open(".", flags, Mode::empty());
                back.cwd = Some(cwd.map_err(|errno| namespace.join_error(errno))?);
            }
            if let Err(errno) = namespace.join() {
                back.go()?;
                return Err(namespace.join_error(errno));
            }
            back.own.push((namespace.kind, own));
        }
        Ok(back)
    }

    /// Joins the rest; for the process that is cloned. Where a user namespace is among them, what
    /// the host's rights reach comes before it, and what only its rights reach after it.
    ///
    /// # Errors
    /// [`Step::JoinNamespace`] with the position in the plan.
    pub fn join_inside(&self) -> Result<(), Failure> {
        let (user, others): (Vec<&Opened>, Vec<&Opened>) =
            self.inside.iter().partition(|namespace| namespace.kind == NamespaceKind::User);
        let mut later = Vec::new();
        for namespace in others {
            match namespace.join() {
                Err(Errno::EPERM) if !user.is_empty() => later.push(namespace),
                result => result.at_index(Step::JoinNamespace, namespace.index)?,
            }
        }
        for namespace in user.into_iter().chain(later) {
            namespace.join().at_index(Step::JoinNamespace, namespace.index)?;
        }
        Ok(())
    }
}

fn open_own(kind: NamespaceKind) -> Result<OwnedFd, Errno> {
    let name = if kind == NamespaceKind::Pid { "pid_for_children" } else { kind.file_name() };
    let path = std::path::Path::new("/proc/self/ns").join(name);
    open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The runtime's own namespaces while it is in others.
#[derive(Debug)]
#[must_use = "the runtime stays in the container's namespaces otherwise"]
pub struct WayBack {
    cwd: Option<OwnedFd>,
    own: Vec<(NamespaceKind, OwnedFd)>,
}

impl WayBack {
    /// Returns to the runtime's own namespaces.
    ///
    /// # Errors
    /// [`JoinError::Join`].
    pub fn go(self) -> Result<(), JoinError> {
        for (kind, file) in self.own.into_iter().rev() {
            let error = |errno| JoinError::Join { kind, path: "/proc/self/ns".into(), errno };
            setns(&file, kind.flag()).map_err(error)?;
        }
        if let Some(cwd) = self.cwd {
            let error = |errno| JoinError::Join {
                kind: NamespaceKind::Mount,
                path: "/proc/self/cwd".into(),
                errno,
            };
            nix::unistd::fchdir(cwd.as_fd()).map_err(error)?;
        }
        Ok(())
    }
}
