//! Cgroups that systemd makes: a container is a transient unit.
//!
//! ```text
//! create                 systemd                  the container
//!   │── clone ─▶ seat      │                          ·
//!   │── StartTransientUnit(seat's pid, limits) ─▶│    ·
//!   │◀─ JobRemoved: done ──│                          ·
//!   │   limits into the files                         ·
//!   │── clone3 into the cgroup ──────────────────────▶│
//!   │── settle: seat ends, limit of processes         │
//! ```
//!
//! systemd starts no scope without a process, and ends one that is left by the last. The seat is a
//! process that does nothing but hold the place until the container's first process is there; so the
//! latter can be cloned into its cgroup as with the other driver. The limit of processes is set after
//! the seat is gone, since a container with a limit of one could not be entered beside it.

mod annotations;
mod dbus;
mod seat;
mod unit;
mod wire;

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::error::CgroupError;
pub(super) use annotations::{Asked, PREFIX as ANNOTATION_PREFIX, read as read_annotations};
pub use dbus::DBusError;
use dbus::{Connection, Method};
pub(super) use seat::Seat;
use unit::{Property, Unit};
use wire::{Body, Message, Reader, Variant, Writer};

/// A unit as `state.json` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SavedUnit {
    name: String,
    slice: String,
    /// Whether the user's own systemd has it, and not the system's.
    user: bool,
}

impl SavedUnit {
    /// Names the unit of a container, and tells where its cgroup will be below the root of a
    /// hierarchy.
    pub(super) fn resolve(
        cgroups_path: Option<&Path>,
        id: &str,
    ) -> Result<(Self, PathBuf), CgroupError> {
        let user = !geteuid().is_root();
        let default_slice = if user { "user.slice" } else { "system.slice" };
        let text = cgroups_path.map(Path::to_string_lossy).unwrap_or_default();
        let unit = Unit::parse(&text, id, default_slice)?;
        let saved = Self { name: unit.name.clone(), slice: unit.slice.clone(), user };
        let root = if user { saved.user_root()? } else { PathBuf::new() };
        let path = root.join(unit.path());
        Ok((saved, path))
    }

    /// Starts the unit, with all limits but that of processes. What is `asked` for has the last word.
    pub(super) fn start(
        &self,
        id: &str,
        seat: &Seat,
        resources: Option<&LinuxResources>,
        asked: &[Asked],
    ) -> Result<(), CgroupError> {
        let unit = Unit { slice: self.slice.clone(), name: self.name.clone() };
        let mut properties: Vec<(&str, Variant)> = unit.properties(id, seat.pid());
        properties.extend(resources.map(unit::limits).transpose()?.unwrap_or_default());
        properties.extend(asked.iter().map(|one| (one.name.as_str(), one.value.clone())));
        let failed = |cause| self.failed("start", cause);
        let mut bus = self.connect().map_err(failed)?;
        match start_unit(&mut bus, &self.name, &properties) {
            // A unit of this name has failed and was never looked at: clear it away once.
            Err(cause) if cause.is("org.freedesktop.systemd1.UnitExists") => {
                let _ = reset_failed(&mut bus, &self.name);
                start_unit(&mut bus, &self.name, &properties).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// Tells systemd of new limits.
    pub(super) fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let mut properties = unit::limits(resources)?;
        properties.extend(resources.pids().and_then(|pids| unit::tasks_max(pids.limit())));
        self.set(&properties)
    }

    /// Tells systemd of the limit of processes.
    pub(super) fn limit_tasks(&self, limit: i64) -> Result<(), CgroupError> {
        self.set(unit::tasks_max(limit).as_slice())
    }

    fn set(&self, properties: &[Property]) -> Result<(), CgroupError> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Writer::new();
        body.string(&self.name);
        body.bool(true);
        write_properties(&mut body, properties);
        let body = Body { signature: "sba(sv)", bytes: body.into_bytes() };
        self.connect()
            .and_then(|mut bus| bus.call(manager("SetUnitProperties"), body))
            .map(drop)
            .map_err(|cause| self.failed("limit", cause))
    }

    /// Stops the unit, with all processes in it. One that does not exist is stopped already.
    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        let failed = |cause| self.failed("stop", cause);
        let mut bus = self.connect().map_err(failed)?;
        match stop_unit(&mut bus, &self.name) {
            Err(cause) if cause.is("org.freedesktop.systemd1.NoSuchUnit") => {}
            outcome => outcome.map_err(failed)?,
        }
        // Of a unit that never failed there is nothing to reset, and that is refused.
        let _ = reset_failed(&mut bus, &self.name);
        Ok(())
    }

    fn connect(&self) -> Result<Connection, DBusError> {
        if self.user { Connection::user() } else { Connection::system() }
    }

    /// The cgroup below which the user's systemd has its units.
    fn user_root(&self) -> Result<PathBuf, CgroupError> {
        let mut body = Writer::new();
        body.string("org.freedesktop.systemd1.Manager");
        body.string("ControlGroup");
        let body = Body { signature: "ss", bytes: body.into_bytes() };
        let method = Method { interface: "org.freedesktop.DBus.Properties", ..manager("Get") };
        let answer = self
            .connect()
            .and_then(|mut bus| bus.call(method, body))
            .and_then(|answer| {
                let mut reader = Reader::new(&answer.body);
                reader.signature()?;
                reader.string()
            })
            .map_err(|cause| self.failed("find the user's systemd for", cause))?;
        Ok(PathBuf::from(answer.trim_start_matches('/')))
    }

    fn failed(&self, action: &'static str, cause: DBusError) -> CgroupError {
        CgroupError::Systemd { action, unit: self.name.clone(), cause }
    }
}

fn manager(member: &'static str) -> Method {
    Method {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
    }
}

fn start_unit(
    bus: &mut Connection,
    name: &str,
    properties: &[(&str, Variant)],
) -> Result<(), DBusError> {
    let mut body = Writer::new();
    body.string(name);
    body.string("replace");
    write_properties(&mut body, properties);
    // No further units.
    body.array(8, |_| {});
    run_job(
        bus,
        "StartTransientUnit",
        Body { signature: "ssa(sv)a(sa(sv))", bytes: body.into_bytes() },
    )
}

fn stop_unit(bus: &mut Connection, name: &str) -> Result<(), DBusError> {
    let mut body = Writer::new();
    body.string(name);
    body.string("replace");
    run_job(bus, "StopUnit", Body { signature: "ss", bytes: body.into_bytes() })
}

fn reset_failed(bus: &mut Connection, name: &str) -> Result<(), DBusError> {
    let mut body = Writer::new();
    body.string(name);
    bus.call(manager("ResetFailedUnit"), Body { signature: "s", bytes: body.into_bytes() })
        .map(drop)
}

/// Calls what begins a job, and waits for its end.
fn run_job(bus: &mut Connection, member: &'static str, body: Body) -> Result<(), DBusError> {
    bus.listen(
        "type='signal',sender='org.freedesktop.systemd1',\
         interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    )?;
    // systemd sends its signals only to those who subscribe; who has already is refused.
    match bus.call(manager("Subscribe"), Body::empty()) {
        Err(cause) if cause.is("org.freedesktop.systemd1.AlreadySubscribed") => {}
        outcome => drop(outcome?),
    }
    let answer = bus.call(manager(member), body)?;
    let job = Reader::new(&answer.body).string()?;
    let result = bus.wait_for(|signal| result_of(signal, &job))?;
    match result.as_str() {
        "done" | "skipped" => Ok(()),
        _ => Err(DBusError::Job { result }),
    }
}

/// The result that a signal tells of a job.
fn result_of(signal: &Message, job: &str) -> Option<String> {
    if signal.member.as_deref() != Some("JobRemoved") || signal.signature != "uoss" {
        return None;
    }
    let mut reader = Reader::new(&signal.body);
    let (_, path, _) = (reader.number().ok()?, reader.string().ok()?, reader.string().ok()?);
    let result = reader.string().ok()?;
    (path == job).then_some(result)
}

fn write_properties(body: &mut Writer, properties: &[(&str, Variant)]) {
    body.array(8, |array| {
        for (name, value) in properties {
            array.structure();
            array.string(name);
            array.variant(value);
        }
    });
}

#[cfg(test)]
mod tests;
