//! Making a cgroup and limiting it, before anything of the container is inside.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkdir};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::devices::Policy;
use super::dir::Dir;
use super::error::CgroupError;
use super::systemd::{SavedUnit, Seat};
use super::{Cgroup, Progress, SavedGroup, Unsettled, remove, v1, v2};

/// A controller that a bundle asks for: its name in v1 and in v2 (`None` where there is none), and
/// the field that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demand {
    v1: &'static str,
    v2: Option<&'static str>,
    field: &'static str,
}

impl Cgroup {
    /// Makes the cgroup in every hierarchy, with its limits and its policy about devices.
    ///
    /// An unprivileged user who names no path and asks for no limit goes without a cgroup where the
    /// kernel denies one: such a hierarchy is dropped from `self`.
    ///
    /// With systemd, [`Cgroup::settle`] must follow once the first process is inside.
    ///
    /// # Errors
    /// [`CgroupError::ControllerAbsent`] and its kin for limits that cannot be had,
    /// [`CgroupError::Occupied`] if the cgroup is in use. What was made is removed again.
    pub fn create(&mut self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        self.begin(resources)?;
        self.finish(resources).inspect_err(|_| self.discard())
    }

    /// As [`Cgroup::create`], but leaves to [`Cgroup::finish`] what the first process need not be
    /// born in: the hierarchies of v1, which are many and are entered later. Which they are is
    /// certain afterwards.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn begin(&mut self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let before = self.saved.clone();
        self.made.clear();
        let outcome = match self.saved.unit.clone() {
            None => self.begin_ourselves(resources),
            Some(unit) => self.create_by_systemd(&unit, resources),
        };
        match outcome {
            Ok(progress) => {
                self.progress = progress;
                Ok(())
            }
            Err(error) => {
                self.undo();
                self.unsettled = None;
                self.saved = before;
                Err(error)
            }
        }
    }

    /// Makes what [`Cgroup::begin`] left. The process that is inside by then may not go on before
    /// it has entered the rest ([`Cgroup::v1_entrance`]).
    ///
    /// # Errors
    /// As [`Cgroup::create`], but what was made stays: [`Cgroup::discard`] removes it when the
    /// process is gone.
    pub fn finish(&mut self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let Progress::Begun(v2_controllers) = self.progress.clone() else { return Ok(()) };
        self.make_all_v1()?;
        self.limit(resources, &v2_controllers)?;
        self.progress = Progress::Whole;
        Ok(())
    }

    /// Removes the cgroup of a container that could not be made: the whole if it was whole, else no
    /// directory that was there before, since others may be in it. What cannot be removed stays.
    pub fn discard(&self) {
        match self.progress {
            Progress::Resolved => {}
            Progress::Begun(_) => self.undo(),
            Progress::Whole => {
                let _ = self.destroy();
            }
        }
    }

    /// The first error is the one to tell; a directory that is in use by now stays.
    fn undo(&self) {
        if self.unsettled.is_some() {
            let _ = self.saved.unit.as_ref().map(SavedUnit::stop);
        }
        for dir in self.made.iter().rev() {
            let _ = remove::remove_empty(dir);
        }
    }

    /// Does what can be done only when the container's first process is in its cgroup. Does nothing
    /// unless systemd made it.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`], or those of a limit of processes.
    pub fn settle(&mut self) -> Result<(), CgroupError> {
        let Some(Unsettled { seat, resources }) = self.unsettled.take() else { return Ok(()) };
        drop(seat);
        let (Some(resources), Some(unit)) = (resources, &self.saved.unit) else { return Ok(()) };
        if let Some(pids) = resources.pids() {
            unit.limit_tasks(pids.limit())?;
        }
        self.write_limits(&resources)
    }

    fn create_by_systemd(
        &mut self,
        unit: &SavedUnit,
        resources: Option<&LinuxResources>,
    ) -> Result<Progress, CgroupError> {
        let mut early = resources.cloned();
        if let Some(early) = &mut early {
            early.set_pids(None);
        }
        let seat = Seat::take().map_err(CgroupError::Seat)?;
        unit.start(&self.name(), &seat, early.as_ref(), &self.asked)?;
        self.unsettled = Some(Unsettled { seat, resources: resources.cloned() });
        self.create_all(early.as_ref())
    }

    /// The last component of the path, for people.
    fn name(&self) -> String {
        let dir = self.groups().next().and_then(|group| group.dir.file_name());
        dir.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn begin_ourselves(
        &mut self,
        resources: Option<&LinuxResources>,
    ) -> Result<Progress, CgroupError> {
        // What is denied and can be done without is known only when all was tried.
        if self.saved.v1.is_empty() || is_unprivileged() {
            return self.create_all(resources);
        }
        let demands = self.demands(resources);
        self.check_unified(resources)?;
        Policy::from_rules(device_rules(resources))?;
        let (v2_controllers, denied) = self.make_v2_if_any(&demands)?;
        self.check_demands(&demands, &v2_controllers, denied)?;
        Ok(Progress::Begun(v2_controllers))
    }

    fn create_all(&mut self, resources: Option<&LinuxResources>) -> Result<Progress, CgroupError> {
        let demands = self.demands(resources);
        self.check_unified(resources)?;
        let v1_denied = self.make_all_v1()?;
        let (v2_controllers, v2_denied) = self.make_v2_if_any(&demands)?;
        self.check_demands(&demands, &v2_controllers, v1_denied || v2_denied)?;
        self.limit(resources, &v2_controllers)?;
        Ok(Progress::Whole)
    }

    fn demands(&self, resources: Option<&LinuxResources>) -> Vec<Demand> {
        let pure = self.saved.v1.is_empty();
        resources.map(|resources| demands(resources, pure)).unwrap_or_default()
    }

    /// Returns whether a hierarchy was denied, and dropped.
    fn make_all_v1(&mut self) -> Result<bool, CgroupError> {
        let (mut groups, mut denied) = (Vec::with_capacity(self.saved.v1.len()), false);
        for group in self.saved.v1.clone() {
            match make_v1(&group, self.unsettled.is_none(), &mut self.made) {
                Err(error) if self.may_do_without(&error) => denied = true,
                outcome => {
                    outcome?;
                    groups.push(group);
                }
            }
        }
        self.saved.v1 = groups;
        self.is_partial |= denied;
        Ok(denied)
    }

    /// Returns the controllers that the container has in v2, and whether that was denied, and
    /// dropped.
    fn make_v2_if_any(&mut self, demands: &[Demand]) -> Result<(Vec<String>, bool), CgroupError> {
        let Some(group) = self.saved.v2.clone() else { return Ok((Vec::new(), false)) };
        match self.make_v2(&group, demands) {
            Err(error) if self.may_do_without(&error) => {
                self.saved.v2 = None;
                self.is_partial = true;
                Ok((Vec::new(), true))
            }
            outcome => outcome.map(|controllers| (controllers, false)),
        }
    }

    /// `denied`: whether a hierarchy was dropped.
    fn check_demands(
        &self,
        demands: &[Demand],
        v2_controllers: &[String],
        denied: bool,
    ) -> Result<(), CgroupError> {
        for Demand { v1: controller, v2, field } in demands.iter().copied() {
            let on_v2 = v2.is_some_and(|name| v2_controllers.iter().any(|own| own == name));
            if on_v2 || self.v1_group(controller).is_some() {
                continue;
            }
            return Err(if denied {
                CgroupError::NotPermitted { field }
            } else {
                CgroupError::ControllerAbsent { controller, field }
            });
        }
        Ok(())
    }

    fn limit(
        &self,
        resources: Option<&LinuxResources>,
        v2_controllers: &[String],
    ) -> Result<(), CgroupError> {
        if let Some(resources) = resources {
            self.apply(resources, v2_controllers)?;
        }
        let rules = device_rules(resources);
        self.restrict_devices(&Policy::from_rules(rules)?, !rules.is_empty())
    }

    /// Changes the limits of a cgroup that exists. Devices stay as they are.
    ///
    /// # Errors
    /// As [`Cgroup::create`]; limits that were written before the failing one stay.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if let (Some(group), Some(memory)) = (&self.saved.v2, resources.memory())
            && self.v1_group("memory").is_none()
        {
            v2::check_usage(&Dir::open(&group.dir)?, memory)?;
        }
        if let Some(unit) = &self.saved.unit {
            unit.update(resources)?;
        }
        self.write_limits(resources)
    }

    fn write_limits(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.check_unified(Some(resources))?;
        let v2_controllers = match &self.saved.v2 {
            Some(group) => names(&Dir::open(&group.dir)?.read("cgroup.controllers")?),
            None => Vec::new(),
        };
        for Demand { v1: controller, v2, field } in demands(resources, self.saved.v1.is_empty()) {
            let on_v2 = v2.is_some_and(|name| v2_controllers.iter().any(|own| own == name));
            if !on_v2 && self.v1_group(controller).is_none() {
                return Err(CgroupError::ControllerAbsent { controller, field });
            }
        }
        self.apply(resources, &v2_controllers)
    }

    fn apply(
        &self,
        resources: &LinuxResources,
        v2_controllers: &[String],
    ) -> Result<(), CgroupError> {
        for group in &self.saved.v1 {
            let mut asked = group.controllers.iter().filter(|name| concerns(name, resources));
            let Some(first) = asked.next() else { continue };
            let dir = Dir::open(&group.dir)?;
            for controller in std::iter::once(first).chain(asked) {
                v1::apply(&dir, controller, resources)?;
            }
        }
        let unified = resources.unified().as_ref().is_some_and(|unified| !unified.is_empty());
        let asked = unified || v2_controllers.iter().any(|name| concerns(name, resources));
        if let Some(group) = self.saved.v2.as_ref().filter(|_| asked) {
            let dir = Dir::open(&group.dir)?;
            for controller in v2_controllers {
                v2::apply(&dir, controller, resources)?;
            }
            v2::apply_unified(&dir, resources)?;
        }
        Ok(())
    }

    fn check_unified(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let unified = resources.and_then(|resources| resources.unified().as_ref());
        let Some(unified) = unified.filter(|unified| !unified.is_empty()) else { return Ok(()) };
        if self.saved.v2.is_none() {
            return Err(CgroupError::Limit {
                field: "unified".into(),
                why: "needs cgroup v2, which is not mounted here".into(),
            });
        }
        unified.keys().try_for_each(|key| v2::check_unified_key(key))
    }

    /// Whether an unprivileged user may run without the cgroup that the kernel just denied.
    fn may_do_without(&self, error: &CgroupError) -> bool {
        error.is_permission() && !self.saved.explicit && is_unprivileged()
    }

    /// Makes the directory in the hierarchy of v2, and returns the controllers that it has.
    fn make_v2(
        &mut self,
        group: &SavedGroup,
        demands: &[Demand],
    ) -> Result<Vec<String>, CgroupError> {
        let fresh = make_dirs(group, &mut self.made)?;
        if fresh == Fresh::No && self.unsettled.is_none() {
            refuse_occupied(&Dir::open(&group.dir)?)?;
        }
        // Where v1 is beside it and has what is asked for, its controllers do not matter.
        let pure = self.saved.v1.is_empty();
        if !pure && demands.iter().all(|demand| self.v1_group(demand.v1).is_some()) {
            return Ok(Vec::new());
        }
        let available = names(&Dir::open(&group.mount)?.read("cgroup.controllers")?);
        // Where v1 is beside it, the hierarchy of v2 is left as it is but for what is needed.
        let wanted: Vec<_> = available
            .into_iter()
            .filter(|name| pure || demands.iter().any(|demand| demand.v2 == Some(name)))
            .collect();
        let dir = Dir::open(&group.dir)?;
        let have = names(&dir.read("cgroup.controllers")?);
        if wanted.iter().all(|name| have.contains(name)) {
            return Ok(have);
        }
        delegate(group, &wanted)?;
        Ok(names(&dir.read("cgroup.controllers")?))
    }

    fn restrict_devices(&self, policy: &Policy, asked: bool) -> Result<(), CgroupError> {
        let outcome = if let Some(group) = self.v1_group("devices") {
            Dir::open(&group.dir).and_then(|dir| policy.write_v1(&dir))
        } else if let Some(group) = &self.saved.v2 {
            Dir::open(&group.dir).and_then(|dir| policy.attach_v2(&dir))
        } else if asked && !is_unprivileged() {
            let (controller, field) = ("devices", "devices");
            Err(CgroupError::ControllerAbsent { controller, field })
        } else {
            Ok(())
        };
        match outcome {
            // In a user namespace no device can be made and none of the host's opened beyond what
            // its owner gave, and the kernel leaves this controller to the host's root.
            Err(error) if error.is_permission() && is_unprivileged() => Ok(()),
            outcome => outcome,
        }
    }
}

/// The controllers that the limits need. With v2 alone, what that has no counterpart of needs none.
fn demands(resources: &LinuxResources, pure: bool) -> Vec<Demand> {
    let mut demands = Vec::new();
    let mut demand = |asked: bool, v1, v2, field| {
        if asked {
            demands.push(Demand { v1, v2, field });
        }
    };
    if let Some(memory) = resources.memory() {
        let limited = [memory.limit(), memory.reservation(), memory.swap(), memory.kernel_tcp()]
            .into_iter()
            .flatten()
            .any(|bytes| bytes != 0);
        let behaviour =
            !pure && (memory.swappiness().is_some() || memory.disable_oom_killer() == Some(true));
        demand(limited || behaviour, "memory", Some("memory"), "memory");
    }
    if let Some(cpu) = resources.cpu() {
        let (realtime_period, realtime_runtime) =
            if pure { (None, None) } else { (cpu.realtime_period(), cpu.realtime_runtime()) };
        let scheduled = [cpu.shares(), cpu.period(), realtime_period, cpu.burst()]
            .into_iter()
            .flatten()
            .any(|number| number != 0);
        let limited = [cpu.quota(), realtime_runtime, cpu.idle()]
            .into_iter()
            .flatten()
            .any(|number| number != 0);
        demand(scheduled || limited, "cpu", Some("cpu"), "cpu");
        let placed = [cpu.cpus(), cpu.mems()].into_iter().flatten().any(|set| !set.is_empty());
        demand(placed, "cpuset", Some("cpuset"), "cpu");
    }
    let pids = resources.pids().as_ref().is_some_and(|pids| pids.limit() != 0);
    demand(pids, "pids", Some("pids"), "pids");
    if let Some(io) = resources.block_io() {
        let weighed = io.weight().is_some_and(|weight| weight != 0)
            || io.weight_device().as_ref().is_some_and(|devices| !devices.is_empty());
        let throttled = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ]
        .into_iter()
        .flatten()
        .any(|devices| !devices.is_empty());
        demand(weighed || throttled, "blkio", Some("io"), "blockIO");
    }
    let huge = resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty());
    demand(huge, "hugetlb", Some("hugetlb"), "hugepageLimits");
    let rdma = resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty());
    demand(rdma, "rdma", Some("rdma"), "rdma");
    if let Some(network) = resources.network() {
        let class = network.class_id().is_some_and(|class| class != 0);
        demand(class, "net_cls", None, "network.classID");
        let priorities = network.priorities().as_ref().is_some_and(|list| !list.is_empty());
        demand(priorities, "net_prio", None, "network.priorities");
    }
    demands
}

fn device_rules(resources: Option<&LinuxResources>) -> &[LinuxDeviceCgroup] {
    resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default()
}

/// Whether any field belongs to a controller, which may have different names in v1 and v2. One that
/// has none is not even opened.
fn concerns(controller: &str, resources: &LinuxResources) -> bool {
    match controller {
        "memory" => resources.memory().is_some(),
        "cpu" | "cpuset" => resources.cpu().is_some(),
        "pids" => resources.pids().is_some(),
        "blkio" | "io" => resources.block_io().is_some(),
        "hugetlb" => resources.hugepage_limits().is_some(),
        "rdma" => resources.rdma().is_some(),
        "net_cls" | "net_prio" => resources.network().is_some(),
        _ => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

/// Makes a directory and those above it, below the root of the hierarchy, and keeps account.
fn make_dirs(group: &SavedGroup, made: &mut Vec<PathBuf>) -> Result<Fresh, CgroupError> {
    let mode = Mode::from_bits_truncate(0o755);
    let mut missing = vec![group.dir.as_path()];
    let mut fresh = Fresh::Yes;
    while let Some(dir) = missing.last().copied() {
        match mkdir(dir, mode) {
            Ok(()) => {
                made.push(dir.into());
                missing.pop();
            }
            Err(Errno::EEXIST) => {
                if missing.len() == 1 {
                    fresh = Fresh::No;
                }
                missing.pop();
            }
            Err(Errno::ENOENT) => match dir.parent() {
                Some(parent) if parent.starts_with(&group.mount) => missing.push(parent),
                _ => return Err(CgroupError::Make { dir: dir.into(), errno: Errno::ENOENT }),
            },
            Err(errno) => return Err(CgroupError::Make { dir: dir.into(), errno }),
        }
    }
    Ok(fresh)
}

/// `must_be_empty`: whether a directory that exists already must have no process.
fn make_v1(
    group: &SavedGroup,
    must_be_empty: bool,
    made: &mut Vec<PathBuf>,
) -> Result<(), CgroupError> {
    let already = made.len();
    if make_dirs(group, made)? == Fresh::No && must_be_empty {
        refuse_occupied(&Dir::open(&group.dir)?)?;
    }
    if group.has("cpuset") {
        let below = group.dir.strip_prefix(&group.mount).unwrap_or(Path::new(""));
        let mut parent = Dir::open(&group.mount)?;
        let mut path = group.mount.clone();
        for name in below {
            path.push(name);
            let dir = Dir::open(&path)?;
            let made_now = made.iter().skip(already).any(|made| *made == path);
            v1::inherit_cpuset(&parent, &dir, made_now)?;
            parent = dir;
        }
    }
    Ok(())
}

/// Refuses a cgroup in which others live or in which no one can.
fn refuse_occupied(dir: &Dir) -> Result<(), CgroupError> {
    let text = dir.read("cgroup.procs")?;
    if let Some(process) = text.lines().next().and_then(|line| line.parse().ok()) {
        return Err(CgroupError::Occupied { dir: dir.path().into(), process });
    }
    let v1 = dir.read_if_present("freezer.state")?;
    let v2 = dir.read_if_present("cgroup.freeze")?;
    if v1.is_some_and(|state| state.trim() != "THAWED") || v2.is_some_and(|one| one.trim() == "1") {
        return Err(CgroupError::Frozen { dir: dir.path().into() });
    }
    Ok(())
}

/// Hands controllers down from the root of v2 to the parent of the cgroup. What a parent does not
/// have, or cannot give since it has processes, is not given: whoever needs it says so later.
fn delegate(group: &SavedGroup, wanted: &[String]) -> Result<(), CgroupError> {
    let below = group.dir.strip_prefix(&group.mount).unwrap_or(Path::new(""));
    let mut path = group.mount.clone();
    for name in below {
        let dir = Dir::open(&path)?;
        let given = names(&dir.read("cgroup.subtree_control")?);
        let missing: Vec<_> = wanted.iter().filter(|name| !given.contains(name)).collect();
        let all = missing.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        if !missing.is_empty() && dir.try_write("cgroup.subtree_control", &all).is_err() {
            for name in missing {
                // One refusal must not keep the others away.
                let _ = dir.try_write("cgroup.subtree_control", &format!("+{name}"));
            }
        }
        path.push(name);
    }
    Ok(())
}

/// The names in a list of controllers.
fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(Into::into).collect()
}

/// Whether this process is not the root of the machine: another user, or in a user namespace.
fn is_unprivileged() -> bool {
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    !geteuid().is_root() || !std::fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}
