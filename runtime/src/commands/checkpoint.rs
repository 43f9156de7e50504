//! `checkpoint`: writes a running container to disk, by CRIU.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::Pid;

use super::delete::destroy;
use super::{CommandError, Context};
use crate::cgroup::Cgroup;
use crate::criu::{self, CgroupMode, Common, Criu, Directories, Dump, Notice, external, streams};
use crate::lifecycle::Event;
use crate::log::Log;
use crate::namespaces::NamespaceKind;
use crate::plan::ContainerPlan;
use crate::state_store::{ContainerDir, ContainerId, SavedState};
use crate::sys;

/// Names a file with further options of CRIU's, for one container.
pub(super) const CONFIG_ANNOTATION: &str = "org.criu.config";

/// Such a file for all containers: what people have set up for runc.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// Options that `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub(super) struct CriuOptions {
    /// Directory of the images [default: ./checkpoint].
    #[arg(long, value_name = "DIR", default_value = "checkpoint", hide_default_value = true)]
    pub(super) image_path: PathBuf,
    /// Directory of CRIU's log and statistics [default: that of the images].
    #[arg(long, value_name = "DIR")]
    pub(super) work_path: Option<PathBuf>,
    /// Keep established TCP connections.
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets that lead out of the container.
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a terminal and a session that are the caller's.
    #[arg(long)]
    shell_job: bool,
    /// Transfer memory when it is used (userfaultfd), by `criu lazy-pages`.
    #[arg(long)]
    lazy_pages: bool,
    /// Keep file locks; only if nothing outside of the container holds them.
    #[arg(long)]
    file_locks: bool,
    /// How cgroups are kept [default: soft].
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<CgroupMode>,
    /// Namespace that is made anew and empty; of the network this is always so, see hooks.
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
    /// Remove from the parent's images what these replace.
    #[arg(long)]
    auto_dedup: bool,
}

#[derive(Debug, Args)]
pub(super) struct Checkpoint {
    #[command(flatten)]
    criu: CriuOptions,
    /// Images of an earlier --pre-dump, relative to --image-path.
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on.
    #[arg(long)]
    leave_running: bool,
    /// Write memory only, and let the container go on; a later checkpoint writes what has changed.
    #[arg(long)]
    pre_dump: bool,
    /// Descriptor that gets a NUL byte when pages can be fetched (--lazy-pages).
    #[arg(long, value_name = "FD")]
    status_fd: Option<i32>,
    /// Send memory to a page server instead of writing it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Give names to files that have none, so that they can be kept.
    #[arg(long)]
    link_remap: bool,
    /// Leave out TCP connections that are being made.
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Name of the container.
    id: String,
}

impl CriuOptions {
    pub(super) fn common(&self, plan: &ContainerPlan) -> Common {
        let new_network = plan.namespaces.new.contains(NamespaceKind::Network);
        let flag = NamespaceKind::Network.flag().bits().cast_unsigned();
        // Its devices and addresses are whoever's business made them: hooks, CNI, the caller.
        let empty = new_network || !self.empty_ns.is_empty();
        let config_file = match plan.annotations.get(CONFIG_ANNOTATION) {
            Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
            None => Some(CONFIG_FILE.to_owned()),
        };
        Common {
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            lazy_pages: self.lazy_pages,
            auto_dedup: self.auto_dedup,
            cgroup_mode: self.manage_cgroups_mode.unwrap_or_default(),
            empty_namespaces: if empty { flag } else { 0 },
            config_file,
        }
    }
}

impl Checkpoint {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        let dir = context.store.open_locked(&ContainerId::new(self.id.clone())?)?;
        let state = dir.load_existing()?;
        let lifecycle = dir.observe(&state).apply(Event::Checkpointed)?;
        let init = lifecycle.init().unwrap_or(Pid::from_raw(0));
        let plan = ContainerPlan::from_spec(dir.load_config()?, &state.bundle)
            .map_err(CommandError::Plan)?;
        // What is wrong with the options is told first, whatever CRIU can do here.
        let parent = self.parent()?;
        let page_server = self.page_server.as_deref().map(address_and_port).transpose()?;
        let criu = Criu::find(context.criu.clone()).map_err(CommandError::Checkpoint)?;
        self.dump(&criu, &plan, &state, init, (parent, page_server))?;
        if !self.leave_running && !self.pre_dump {
            end(&dir, &state, log)?;
        }
        Ok(0)
    }

    fn dump(
        &self,
        criu: &Criu,
        plan: &ContainerPlan,
        state: &SavedState,
        init: Pid,
        (parent, page_server): (Option<String>, Option<(String, u16)>),
    ) -> Result<(), CommandError> {
        let mut status = self.status_fd.map(take_descriptor).transpose()?;
        let failed = CommandError::Checkpoint;
        external::check(plan).map_err(failed)?;
        criu::make_directory(&self.criu.image_path).map_err(failed)?;
        let work = self.criu.work_path.as_deref();
        let directories = Directories::open(&self.criu.image_path, work).map_err(failed)?;
        let mut externals = external::of_container(plan, init).map_err(failed)?;
        let streams = streams::of_process(init);
        externals.resources.extend(streams::foreign_files(&streams).cloned());
        let cgroup = state.open_cgroup();
        let freezer = cgroup.as_ref().and_then(Cgroup::freezer_dir);
        if !self.pre_dump {
            streams::save(directories.images(), &streams).map_err(failed)?;
        }
        let dump = Dump {
            common: self.criu.common(plan),
            directories: &directories,
            init,
            root: &plan.rootfs.path,
            externals,
            freezer,
            leave_running: self.leave_running,
            pre_dump: self.pre_dump,
            parent,
            link_remap: self.link_remap,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            page_server,
        };
        criu.dump(dump, CommandError::Checkpoint, |notice| match (notice, status.take()) {
            (Notice::StatusReady, Some(status)) => nix::unistd::write(status, b"\0")
                .map(drop)
                .map_err(CommandError::kernel("write to --status-fd")),
            (_, kept) => {
                status = kept;
                Ok(())
            }
        })
    }

    /// Checks the images of the earlier dump, which CRIU looks for beside the new ones.
    fn parent(&self) -> Result<Option<String>, CommandError> {
        let Some(path) = &self.parent_path else { return Ok(None) };
        let invalid = |expected| CommandError::Option {
            option: "--parent-path",
            value: path.to_string_lossy().into_owned(),
            expected,
        };
        if path.is_absolute() {
            return Err(invalid("a path relative to --image-path"));
        }
        if !self.criu.image_path.join(path).is_dir() {
            return Err(invalid("a directory with images of --pre-dump, relative to --image-path"));
        }
        Ok(Some(path.to_string_lossy().into_owned()))
    }
}

/// The container is on disk and its processes are gone: so goes what is left of it.
fn end(dir: &ContainerDir, state: &SavedState, log: &mut Log) -> Result<(), CommandError> {
    if let Some(cgroup) = state.open_cgroup() {
        // CRIU leaves the freezer as it found it, and a frozen cgroup cannot be removed.
        let _ = cgroup.thaw();
    }
    destroy(dir, state, log)
}

fn address_and_port(text: &str) -> Result<(String, u16), CommandError> {
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Some((address.to_owned(), port.parse().ok()?)).filter(|(address, _)| !address.is_empty())
    });
    parsed.ok_or_else(|| CommandError::Option {
        option: "--page-server",
        value: text.to_owned(),
        expected: "ADDRESS:PORT",
    })
}

/// Takes the descriptor of --status-fd over: closing it tells its reader that nothing will come.
fn take_descriptor(fd: i32) -> Result<OwnedFd, CommandError> {
    let expected = "a descriptor that is open, beyond the standard streams";
    let invalid =
        || CommandError::Option { option: "--status-fd", value: fd.to_string(), expected };
    if fd < 3 {
        return Err(invalid());
    }
    // A second descriptor, since nothing says that the number is nobody else's here.
    let path = Path::new("/proc/self/fd").join(fd.to_string());
    let opened = std::fs::File::options().write(true).open(path).map_err(|_| invalid())?;
    sys::fd::set_cloexec(fd, true).map_err(CommandError::kernel("keep --status-fd"))?;
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        for (text, parsed) in [
            ("127.0.0.1:27", Some(("127.0.0.1", 27))),
            ("[::1]:1", Some(("::1", 1))),
            ("host", None),
            (":1", None),
            ("host:x", None),
            ("host:70000", None),
        ] {
            let parsed = parsed.map(|(address, port)| (address.to_owned(), port));
            assert_eq!(address_and_port(text).ok(), parsed, "{text}");
        }
    }
}
