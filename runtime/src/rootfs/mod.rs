//! The container's file system, from the host's mounts to the changed root.
//!
//! ```text
//! prepare     host's mounts stop talking back · root tree attached
//! populate    mounts in order · devices · terminal on /dev/console
//!             (hooks run here: both trees are visible)
//! seal        masks · read-only paths · read-only mounts · pivot
//! ```
//!
//! The root tree is a detached clone of the rootfs that the parent opened; it is attached on top of
//! "/", so the path of the bundle need not be reachable for the container's user, and is looked up
//! once, before anything of the container runs. Only hooks want to see and change it where the bundle
//! has it: for them it is attached there, see [`RootPlace`]. Sources of bind mounts are opened by the parent
//! too, with the host's rights, but for those whose turn must come ([`Opener`]). Each phase takes what the one before returned.

pub mod cgroups;
mod copy_up;
pub mod devices;
pub mod label;
mod masks;
pub mod mount;
mod pivot;
pub mod resolve;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use self::cgroups::{Hierarchy, mount_cgroups};
use self::label::MountLabel;
use self::mount::{attach, clone_at, clone_tree, set_propagation};
use self::resolve::{Missing, Root, lexically_clean};
use crate::namespaces::NamespaceKind;
use crate::plan::ContainerPlan;
use crate::plan::mounts::{MountSource, Opener, Propagation};
use crate::stage::failure::{AtStep, Failure, Step};
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// What the parent opened with the host's rights, before the container's process was made.
#[derive(Debug, Default)]
pub struct Sources {
    /// A detached clone of the rootfs, or what the caller passed; absent where the parent lacks the
    /// privilege.
    pub rootfs: Option<OwnedFd>,
    /// A detached clone per bind mount, in the order of the plan; absent likewise, and where init opens
    /// it.
    pub binds: Vec<Option<OwnedFd>>,
}

impl Sources {
    /// Opens what the plan names. The `passed` root, a detached mount, is taken instead of a clone.
    ///
    /// # Errors
    /// The step that failed. That the caller may not clone mounts is no error: the process inside,
    /// which owns its mount namespace, then does.
    pub fn open(plan: &ContainerPlan, passed: Option<OwnedFd>) -> Result<Self, Failure> {
        if !plan.namespaces.has(NamespaceKind::Mount) {
            return Ok(Self::default());
        }
        let rootfs = match passed.map_or_else(|| clone_tree(&plan.rootfs.path, true), Ok) {
            Err(rustix::io::Errno::PERM) => return Ok(Self::default()),
            result => Some(result.at(Step::RootBind)?),
        };
        let mut binds = Vec::with_capacity(plan.rootfs.mounts.len());
        for (index, mount) in plan.rootfs.mounts.iter().enumerate() {
            binds.push(match &mount.source {
                MountSource::Bind { path, recursive }
                    if !mount.remount && mount.opener == Opener::Runtime =>
                {
                    Some(clone_tree(path, *recursive).at_index(Step::MountSource, index)?)
                }
                _ => None,
            });
        }
        Ok(Self { rootfs, binds })
    }
}

/// Where the root tree is attached until it becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootPlace {
    /// Over the host's root.
    OverHost,
    /// Over the rootfs itself, as hooks know it from other runtimes: they enter the mount namespace, and
    /// mount below the bundle's `root.path`. Where the container's user may not go there, it is as above.
    InBundle,
}

impl RootPlace {
    /// Decides for a plan. `no_pivot` leaves the host's tree in place, and what procfs is in it must be
    /// told from the container's; a shared root is refused by the kernel unless what is below it is
    /// known not to be shared.
    #[must_use]
    pub fn of(plan: &ContainerPlan, no_pivot: bool) -> Self {
        let hooks = &plan.hooks;
        #[allow(deprecated, reason = "prestart hooks are still in use and in the specification")]
        let look = hooks.prestart().is_some()
            || hooks.create_runtime().is_some()
            || hooks.create_container().is_some();
        let shared = plan.rootfs.propagation.kind == libc::MS_SHARED;
        if look && !no_pivot && !shared { Self::InBundle } else { Self::OverHost }
    }
}

/// A root whose mounts are being put in place.
#[derive(Debug)]
pub struct Prepared {
    root: Root,
    old_root: OwnedFd,
}

/// A root with everything in place, but not entered yet.
#[derive(Debug)]
pub struct Populated {
    prepared: Prepared,
    readonly_later: Vec<OwnedFd>,
}

/// Cuts the mount namespace off the host's, as far as the plan says, and attaches the rootfs.
///
/// # Errors
/// The step that failed.
pub fn prepare(
    plan: &ContainerPlan,
    rootfs: Option<OwnedFd>,
    place: RootPlace,
) -> Result<Prepared, Failure> {
    let base = base_propagation(plan.rootfs.propagation);
    let old_root = pivot::open_current_root()?;
    set_propagation(&old_root, base).at(Step::RootPropagation)?;
    if base.kind == libc::MS_SHARED {
        // pivot_root(2) wants the mount below the new root not to be shared.
        set_propagation(&old_root, Propagation { kind: libc::MS_PRIVATE, recursive: false })
            .at(Step::RootPropagation)?;
    }
    let tree = match rootfs {
        Some(tree) => tree,
        None => clone_tree(&plan.rootfs.path, true).at(Step::RootBind)?,
    };
    set_propagation(&tree, base).at(Step::RootPropagation)?;
    if base.kind == libc::MS_SHARED {
        // Nor may the new root be shared; it becomes so again behind the door.
        set_propagation(&tree, Propagation { kind: libc::MS_PRIVATE, recursive: false })
            .at(Step::RootPropagation)?;
    }
    match place {
        RootPlace::OverHost => attach(&tree, &old_root),
        RootPlace::InBundle => match open_directory(&plan.rootfs.path) {
            Err(Errno::EACCES) => attach(&tree, &old_root),
            result => attach(&tree, &result.at(Step::RootBind)?),
        },
    }
    .at(Step::RootBind)?;
    Ok(Prepared { root: Root::new(tree), old_root })
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
}

/// What cannot be cloned cannot become a root, so `unbindable` waits until the end.
fn base_propagation(propagation: Propagation) -> Propagation {
    if propagation.kind == libc::MS_UNBINDABLE {
        Propagation { kind: libc::MS_PRIVATE, ..propagation }
    } else {
        propagation
    }
}

impl Prepared {
    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Puts the mounts and devices in place.
    ///
    /// # Errors
    /// The step that failed.
    pub fn populate(
        self,
        plan: &ContainerPlan,
        mut binds: Vec<Option<OwnedFd>>,
        hierarchies: &[Hierarchy],
    ) -> Result<Populated, Failure> {
        let base = base_propagation(plan.rootfs.propagation);
        let text = label_of(plan);
        let label = mount_label(plan, text.as_deref());
        let mut readonly_later = Vec::new();
        for (index, entry) in plan.rootfs.mounts.iter().enumerate() {
            if entry.source == MountSource::Cgroups {
                let own_root = plan.namespaces.has(NamespaceKind::Cgroup);
                mount_cgroups(&self.root, index, entry, hierarchies, own_root, label)?;
                continue;
            }
            let opened = binds.get_mut(index).and_then(Option::take);
            let mounted = mount::mount(&self.root, index, entry, opened, base, label)?;
            readonly_later.extend(mounted.readonly_later);
        }
        if !brings_own_dev(plan) {
            devices::create_devices(&self.root, &plan.rootfs.devices)?;
        }
        Ok(Populated { prepared: self, readonly_later })
    }
}

fn label_of(plan: &ContainerPlan) -> Option<CString> {
    plan.rootfs.mount_label.as_deref().map(label::kernel_text)
}

fn mount_label<'a>(plan: &ContainerPlan, label: Option<&'a CStr>) -> MountLabel<'a> {
    MountLabel { label, in_user_namespace: plan.namespaces.has(NamespaceKind::User) }
}

/// Devices that are the host's own are not touched.
fn brings_own_dev(plan: &ContainerPlan) -> bool {
    plan.rootfs.mounts.iter().any(|mount| {
        matches!(mount.source, MountSource::Bind { .. })
            && lexically_clean(&mount.destination) == Path::new("/dev")
    })
}

impl Populated {
    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.prepared.root
    }

    /// Shows the terminal `peer` as `/dev/console`. The mount is made from the descriptor, not from
    /// its name in `/dev/pts`, and never onto what a link leads to: an image could have the terminal
    /// cover a path that is masked later (CVE-2025-52565).
    ///
    /// # Errors
    /// [`Step::ConsoleMount`]; `ELOOP` if the place is a link.
    pub fn mount_console(&self, peer: impl AsFd) -> Result<(), Failure> {
        let console = Path::new("/dev/console");
        let place = match self.root().open_plain(console, OFlag::O_PATH) {
            Err(Errno::ENOENT) => self.root().open_or_create(console, Missing::File),
            result => result,
        };
        let place = place.at(Step::ConsoleMount)?;
        let tree = clone_at(peer, false).at(Step::ConsoleMount)?;
        attach(tree, place).at(Step::ConsoleMount)
    }

    /// Takes away what the container may not see or change, and makes the root the root.
    ///
    /// # Errors
    /// The step that failed.
    pub fn seal(self, plan: &ContainerPlan, no_pivot: bool) -> Result<(), Failure> {
        let Self { prepared: Prepared { root, old_root }, readonly_later } = self;
        masks::make_readonly(&root, &plan.rootfs.readonly_paths)?;
        let text = label_of(plan);
        masks::mask(&root, &plan.rootfs.masked_paths, mount_label(plan, text.as_deref()))?;
        let readonly = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        for mount in &readonly_later {
            mount_setattr(mount, false, &readonly).at(Step::ReadonlyRoot)?;
        }
        if plan.rootfs.readonly {
            mount_setattr(&root, false, &readonly).at(Step::ReadonlyRoot)?;
        }
        if no_pivot {
            pivot::hide_host(&old_root)?;
            pivot::change_root(&root)?;
        } else {
            pivot::pivot(&root, old_root)?;
        }
        let propagation = plan.rootfs.propagation;
        if propagation.kind == libc::MS_UNBINDABLE {
            set_propagation(&root, propagation).at(Step::RootPropagation)?;
        } else if propagation.kind == libc::MS_SHARED {
            let own = Propagation { recursive: false, ..propagation };
            set_propagation(&root, own).at(Step::RootPropagation)?;
        }
        Ok(())
    }
}

/// Enters the rootfs of a container that shares the host's mount namespace.
///
/// # Errors
/// [`Step::RootBind`] or [`Step::Pivot`].
pub fn enter_shared(plan: &ContainerPlan) -> Result<(), Failure> {
    let root = open_directory(&plan.rootfs.path).at(Step::RootBind)?;
    pivot::change_root(&Root::new(root))
}
