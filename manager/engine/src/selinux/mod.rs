//! SELinux: the labels of containers' processes and files, where the host has it.
//!
//! | module | part |
//! | --- | --- |
//! | [`context`] | contexts taken apart |
//! | `lowered` | the level of programs that hold containers' streams |
//! | `levels` | the pairs of categories that keep containers apart |
//! | `relabel` | labels of what is bound: `:z`, `:Z`, volumes, files of `/etc` |
//!
//! What a container gets is decided when it is made, and is in its record:
//!
//! | | process | files |
//! | --- | --- | --- |
//! | nothing said | the policy's `container_t`, and a pair of categories that is its own | the same categories |
//! | `label=type:…` and so on | as asked for | as asked for |
//! | joins another's processes or IPC | the other's | the other's |
//! | `label=disable`, `--privileged`, the host's processes or IPC | none | a pair that no container has |
//!
//! Files that the runtime mounts get their label with the mount and keep their own on the disk; only
//! what is bound from the host is relabelled, and only if somebody asks, or if it is ours.

pub mod context;
pub(crate) mod levels;
pub(crate) mod lowered;
mod relabel;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::context::Context;
use self::levels::{Hold, Levels};
use crate::engine::{Engine, file_error};
use crate::error::EngineError;
use crate::model::{HostConfig, NamespaceMode, Record, Relabel};

/// There if SELinux is enabled.
const ENABLED: &str = "/sys/fs/selinux/enforce";
/// Says whether the policy has a context that is written to it.
const CHECK: &str = "/sys/fs/selinux/context";
/// Which policy the host has.
const CONFIG: &str = "/etc/selinux/config";
/// The policy where that does not say.
const DEFAULT_POLICY: &str = "targeted";
/// What container-selinux calls containers' processes and files.
const CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
/// Contexts where no file says.
const DEFAULT_PROCESS: &str = "system_u:system_r:container_t:s0";
const DEFAULT_FILE: &str = "system_u:object_r:container_file_t:s0";
/// Name of the program for `--init` in the daemon's runtime directory.
const INIT: &str = "keg-init";

/// Labels that a container has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxLabels {
    /// Of its processes; empty: none of their own.
    pub process: String,
    /// Of its files.
    pub mount: String,
}

/// What the policy calls containers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Policy {
    process: Context,
    file: Context,
}

/// Whether containers get labels here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// The kernel has no SELinux, or it is not enabled.
    Absent,
    /// The daemon's settings say no.
    SwitchedOff,
    /// The policy has nothing for containers.
    Unfit { problem: String },
    /// They do.
    On(Box<Policy>),
}

/// What the engine knows of SELinux.
#[derive(Debug)]
pub(crate) struct Selinux {
    standing: Standing,
    warning: Option<String>,
    levels: Arc<Levels>,
}

/// Labels for a container that is being made.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) labels: SelinuxLabels,
    /// Keeps others from the categories until the container is known.
    _hold: Option<Hold>,
}

impl Selinux {
    /// Asks the host; `wanted` is what the settings say.
    pub(crate) fn ask(wanted: Option<bool>) -> Self {
        let is_enabled = fs::exists(ENABLED).unwrap_or(false);
        let standing = match (is_enabled, wanted) {
            (false, _) => Standing::Absent,
            (true, Some(false)) => Standing::SwitchedOff,
            (true, _) => match Policy::find().and_then(|policy| policy.check().map(|()| policy)) {
                Ok(policy) => Standing::On(Box::new(policy)),
                Err(problem) => Standing::Unfit { problem },
            },
        };
        let warning = match (&standing, wanted) {
            (Standing::Absent, Some(true)) => Some(
                "selinux = true, but SELinux is not enabled in this kernel, so that containers \
                 have no labels; enable it, or take the line out of kegd.toml"
                    .to_owned(),
            ),
            (Standing::Unfit { problem }, _) => Some(format!(
                "SELinux is enabled, but containers have no labels: {problem}; install a policy \
                 with container_t (Debian: selinux-policy-default, Fedora: container-selinux) and \
                 start kegd anew"
            )),
            _ => None,
        };
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        Self { standing, warning, levels: Arc::default() }
    }

    /// Whether containers get labels.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.standing, Standing::On(_))
    }

    /// Why they do not, if an operator should know.
    pub(crate) fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    /// Decides on a new container's labels; `joined` are those of the containers whose processes and
    /// IPC namespace it joins.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a label that cannot be had.
    fn choose(
        &self,
        host: &HostConfig,
        joined: &[SelinuxLabels],
    ) -> Result<Option<Chosen>, EngineError> {
        let Standing::On(policy) = &self.standing else {
            return self.refuse_labels(host).map(|()| None);
        };
        let options = &host.selinux_options;
        let hosts_own = [&host.pid_mode, &host.ipc_mode].contains(&&NamespaceMode::Host);
        let lifted = match options.is_empty() {
            true => host.privileged || hosts_own,
            false => options.iter().any(|option| option == "disable"),
        };
        if lifted {
            let mount = levels::of_nobody().map(|pair| policy.file.with_categories(pair));
            let mount = mount.as_ref().unwrap_or(&policy.file).to_string();
            let labels = SelinuxLabels { process: String::new(), mount };
            return Ok(Some(Chosen { labels, _hold: None }));
        }
        if let (true, Some(labels)) = (options.is_empty(), one_of(joined)?) {
            return Ok(Some(Chosen { _hold: self.hold(&labels), labels }));
        }
        let (pair, drawn) = Levels::draw(&self.levels)?;
        let mut process = policy.process.with_categories(pair);
        let mut file = policy.file.with_categories(pair);
        for option in options {
            change(&mut process, &mut file, option)?;
        }
        if !options.is_empty() {
            for context in [&process, &file] {
                known(context).map_err(|problem| invalid(format!("label: {problem}")))?;
            }
        }
        let hold = match process.categories() {
            own if own == Some(pair) => Some(drawn),
            other => other.map(|pair| Levels::hold(&self.levels, pair)),
        };
        let labels = SelinuxLabels { process: process.to_string(), mount: file.to_string() };
        Ok(Some(Chosen { labels, _hold: hold }))
    }

    /// A label that somebody relies on is never left out in silence.
    fn refuse_labels(&self, host: &HostConfig) -> Result<(), EngineError> {
        let Some(option) = host.selinux_options.iter().find(|option| *option != "disable") else {
            return Ok(());
        };
        let why = match &self.standing {
            Standing::SwitchedOff => "SELinux is switched off in kegd.toml",
            Standing::Unfit { problem } => problem,
            Standing::Absent | Standing::On(_) => "SELinux is not enabled in this kernel",
        };
        Err(invalid(format!("label={option}: {why}; leave it out")))
    }

    fn hold(&self, labels: &SelinuxLabels) -> Option<Hold> {
        Some(Levels::hold(&self.levels, Context::parse(&labels.process)?.categories()?))
    }

    /// Makes sure that nobody else gets a container's categories.
    pub(crate) fn adopt(&self, record: &Record) {
        record.categories().into_iter().for_each(|pair| self.levels.take(pair));
    }

    /// Lets others have a container's categories.
    pub(crate) fn release(&self, record: &Record) {
        record.categories().into_iter().for_each(|pair| self.levels.give_back(pair));
    }

    /// The labels that a container runs with: what it was made with, as long as the host has SELinux.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] if it relies on a label that cannot be had any more.
    pub(crate) fn of<'a>(
        &self,
        record: &'a Record,
    ) -> Result<Option<&'a SelinuxLabels>, EngineError> {
        if !self.is_on() {
            self.refuse_labels(&record.host)?;
            return Ok(None);
        }
        Ok(record.selinux.as_ref())
    }

    /// Labels the source of a mount as its user asked.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a place that the host needs as it is; [`EngineError::File`].
    pub(crate) fn relabel_source(
        &self,
        record: &Record,
        path: &Path,
        wanted: Relabel,
    ) -> Result<(), EngineError> {
        match self.label_for(record, wanted) {
            Some(label) => relabel::relabel(path, &label),
            None => Ok(()),
        }
    }

    /// Labels a volume: shared between containers, unless one asks for it alone.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn relabel_volume(
        &self,
        record: &Record,
        data: &Path,
        wanted: Relabel,
    ) -> Result<(), EngineError> {
        let kind = if wanted == Relabel::None { Relabel::Shared } else { wanted };
        match self.label_for(record, kind) {
            // Not every policy gives files the level of their directory: those that another container
            // has made may have that one's.
            Some(label) => relabel::relabel(data, &label),
            None => Ok(()),
        }
    }

    /// Lets what is put into a new directory of a volume have the volumes' label.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn label_new_volume(&self, directory: &Path) -> Result<(), EngineError> {
        match &self.standing {
            Standing::On(policy) => {
                relabel::label_one(directory, &policy.file.without_categories().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Gives files of ours that a container sees to it, or to all containers that see them.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn label_files(
        &self,
        record: &Record,
        files: &[PathBuf],
        shared: bool,
    ) -> Result<(), EngineError> {
        let kind = if shared { Relabel::Shared } else { Relabel::Private };
        let Some(label) = self.label_for(record, kind) else { return Ok(()) };
        files.iter().try_for_each(|path| relabel::label_one(path, &label))
    }

    fn label_for(&self, record: &Record, wanted: Relabel) -> Option<String> {
        let Standing::On(policy) = &self.standing else { return None };
        let shared = || policy.file.without_categories().to_string();
        match (wanted, &record.selinux) {
            (Relabel::None, _) => None,
            (Relabel::Private, Some(labels)) => Some(labels.mount.clone()),
            (Relabel::Private, None) | (Relabel::Shared, _) => Some(shared()),
        }
    }

    /// Gives a container's root its label: with the mount, or, where every container has a copy of
    /// its image, file by file.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub(crate) fn label_root(
        &self,
        record: &Record,
        mounts: &mut [keg_store::Mount],
    ) -> Result<(), EngineError> {
        let Some(labels) = self.of(record)? else { return Ok(()) };
        for mount in mounts {
            if mount.type_ != "bind" && !mount.options.iter().any(|option| option == "bind") {
                // Quoted, since a level has commas.
                mount.options.push(format!("context=\"{}\"", labels.mount));
            } else if !relabel::has(&mount.source, &labels.mount) {
                relabel::relabel(&mount.source, &labels.mount)?;
            }
        }
        Ok(())
    }

    /// Returns a copy of the program for `--init` that containers may execute: the policy lets them
    /// begin with files of their own only. If it cannot be made, who asks for it is told by the start.
    pub(crate) fn own_init(&self, program: PathBuf, state: &Path) -> PathBuf {
        let Standing::On(policy) = &self.standing else { return program };
        let (new, copy) = (state.join(format!("{INIT}.new")), state.join(INIT));
        let label = policy.file.without_categories().to_string();
        // Renamed into its place: the old one may be running.
        let made = fs::copy(&program, &new)
            .map_err(file_error("copy", &program))
            .and_then(|_| relabel::label_one(&new, &label))
            .and_then(|()| fs::rename(&new, &copy).map_err(file_error("rename", &new)));
        match made {
            Ok(()) => copy,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "containers cannot begin with --init");
                program
            }
        }
    }
}

impl Engine {
    /// Decides on the labels of a container that is being made.
    ///
    /// # Errors
    /// [`EngineError::InvalidField`] for a label that cannot be had, or for containers to join whose
    /// labels differ.
    pub(crate) fn choose_labels(&self, host: &HostConfig) -> Result<Option<Chosen>, EngineError> {
        let mut joined = Vec::new();
        for mode in [&host.pid_mode, &host.ipc_mode] {
            if let NamespaceMode::Container(id) = mode {
                joined.extend(self.find(id)?.record().selinux.clone());
            }
        }
        self.shared.selinux.choose(host, &joined)
    }

    /// Security modules that confine containers here.
    pub fn security_modules(&self) -> Vec<&'static str> {
        let apparmor = crate::labels::Modules::ask().is_enabled().then_some("apparmor");
        let selinux = self.shared.selinux.is_on().then_some("selinux");
        apparmor.into_iter().chain(selinux).collect()
    }
}

impl Record {
    /// The categories of its label, if they are a pair.
    fn categories(&self) -> Option<context::Pair> {
        Context::parse(&self.selinux.as_ref()?.process)?.categories()
    }
}

impl Policy {
    /// Reads what the policy calls containers; says what is wrong with that.
    fn find() -> Result<Self, String> {
        let config = fs::read_to_string(CONFIG).unwrap_or_default();
        let of_policy = Path::new("/etc/selinux").join(policy_name(&config));
        let files = [PathBuf::from(CONTEXTS), of_policy.join("contexts/lxc_contexts")];
        let text = files.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let context = |key: &str, default: &str| {
            let text = value(text, key).unwrap_or(default);
            Context::parse(text).ok_or_else(|| format!("{key} = {text:?} is no context"))
        };
        Ok(Self {
            process: context("process", DEFAULT_PROCESS)?,
            file: context("file", DEFAULT_FILE)?,
        })
    }

    fn check(&self) -> Result<(), String> {
        [&self.process, &self.file].into_iter().try_for_each(known)
    }
}

/// Asks the kernel whether its policy has a context.
fn known(context: &Context) -> Result<(), String> {
    let text = context.to_string();
    let asked = fs::OpenOptions::new().write(true).open(CHECK);
    asked.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => format!("the host's policy has no context {text}"),
        _ => format!("the kernel cannot be asked for the context {text}: {error}"),
    })
}

/// The one label of those who are joined.
fn one_of(joined: &[SelinuxLabels]) -> Result<Option<SelinuxLabels>, EngineError> {
    let mut labelled = joined.iter().filter(|labels| !labels.process.is_empty());
    let Some(first) = labelled.next() else { return Ok(None) };
    match labelled.find(|other| *other != first) {
        None => Ok(Some(first.clone())),
        Some(other) => Err(invalid(format!(
            "the containers of --pid and --ipc have different labels of SELinux, {} and {}: join \
             one container, or say which by label=level:…",
            first.process, other.process
        ))),
    }
}

/// Changes the labels as one option says.
fn change(process: &mut Context, file: &mut Context, option: &str) -> Result<(), EngineError> {
    let given = option.split_once(':').filter(|(_, value)| !value.is_empty());
    let Some((key, value)) = given else { return Err(bad_option(option)) };
    let value = value.to_owned();
    match key {
        "user" => (process.user, file.user) = (value.clone(), value),
        "role" => process.role = value,
        "type" => process.kind = value,
        "level" => (process.level, file.level) = (Some(value.clone()), Some(value)),
        "filetype" => file.kind = value,
        _ => return Err(bad_option(option)),
    }
    Ok(())
}

fn bad_option(option: &str) -> EngineError {
    invalid(format!(
        "label={option}: give user:, role:, type:, level: or filetype: and a value, or \"disable\""
    ))
}

fn invalid(problem: String) -> EngineError {
    EngineError::InvalidField { field: "security_opt", problem }
}

/// `SELINUXTYPE` of the host's configuration.
fn policy_name(config: &str) -> &str {
    let mut value = config.lines().filter_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    value.next_back().map(str::trim).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_POLICY)
}

/// The value of `key = "value"`.
fn value<'a>(contexts: &'a str, key: &str) -> Option<&'a str> {
    let pairs = contexts.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value)
}

/// The options of a tmpfs of ours with the label that it is to have.
pub(crate) fn tmpfs_options(options: String, labels: Option<&SelinuxLabels>) -> String {
    match labels {
        Some(labels) => format!("{options},context=\"{}\"", labels.mount),
        None => options,
    }
}

#[cfg(test)]
mod tests;
