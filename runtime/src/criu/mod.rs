//! Checkpoints and restores, by CRIU (<https://criu.org>).
//!
//! ```text
//! checkpoint ─▶ Criu::dump ────▶ criu ─▶ IMAGES/*.img, descriptors.json      processes end, or go on
//! restore    ─▶ Criu::restore ─▶ criu ─▶ the processes, children of this one
//!                  ▲ notices: namespaces made, terminal, processes made
//! ```
//!
//! What comes from outside the container CRIU can neither dump nor make: bind mounts, joined
//! namespaces, the streams that the caller gave. Both sides give each a name (`external`,
//! `streams`), by which the restore finds its replacement. The names, and `descriptors.json`, are
//! those of runc, so that a checkpoint of either runtime is restored by the other.

pub(crate) mod external;
mod guard;
mod lazy;
mod private_mounts;
mod rpc;
mod session;
pub(crate) mod streams;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;

pub(crate) use self::external::Externals;
pub(crate) use self::private_mounts::PrivateMounts;
use self::rpc::{Features, Kind, Options, PageServer, Request, Response};
use self::session::Session;
pub(crate) use self::session::{Notice, Place};

/// The oldest version that is used: the first that restores everything asked for here.
const OLDEST: Version = Version { major: 3, minor: 16, sublevel: 0 };

/// What CRIU logs: all but what helps its own developers only.
const LOG_LEVEL: i32 = 4;

/// How many errors of CRIU's log are repeated.
const REPEATED_ERRORS: usize = 2;

/// Why a checkpoint or a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// CRIU is not there.
    #[error(
        "execute {program:?}: checkpoint and restore need CRIU (Debian's package is \"criu\"); --criu names another one"
    )]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// CRIU is there, and cannot work here.
    #[error(
        "CRIU {version} does not work with this kernel{}; `criu check` tells more, and a newer CRIU may work (from Linux 6.13 on it takes 4.1)",
        in_words(said)
    )]
    Unusable {
        /// Its version.
        version: Version,
        /// What it said.
        said: String,
    },
    /// CRIU is too old.
    #[error("CRIU {version} is too old: {OLDEST} or newer is needed")]
    TooOld {
        /// Its version.
        version: Version,
    },
    /// An option that the kernel or CRIU does not support.
    #[error("{option}: CRIU says that this kernel lacks what it needs ({needs})")]
    Unsupported {
        /// The option.
        option: &'static str,
        /// A part of the kernel.
        needs: &'static str,
    },
    /// Memory cannot be kept until it is asked for.
    #[error(
        "--lazy-pages: CRIU keeps memory in pipes of {0} bytes, which this machine does not allow; raise the limit (sysctl -w fs.pipe-max-size={0})",
        lazy::PIPE_BYTES
    )]
    SmallPipes,
    /// The conversation with CRIU cannot be had.
    #[error("{what}")]
    Talk {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// What CRIU answered makes no sense.
    #[error("CRIU's answer is malformed")]
    Answer(#[source] prost::DecodeError),
    /// CRIU ended before it answered.
    #[error("CRIU ended without an answer: {said}")]
    Gone {
        /// What it said.
        said: String,
    },
    /// CRIU could not do it.
    #[error("CRIU could not {operation} the container: {}; its log is {log:?}", said.join("; "))]
    Failed {
        /// `dump` or `restore`.
        operation: &'static str,
        /// The errors in its log, or what it said.
        said: Vec<String>,
        /// Its log.
        log: PathBuf,
    },
    /// A part of the container that CRIU has no way to keep.
    #[error("{field}: {why}")]
    Impossible {
        /// The field of config.json.
        field: String,
        /// What CRIU lacks.
        why: &'static str,
    },
    /// A file beside the images.
    #[error("{action} {path:?}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The list of streams beside the images is damaged.
    #[error("{path:?} is no list of descriptors")]
    Descriptors {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel does not tell about the container.
    #[error("{what}")]
    Look {
        /// What was looked at.
        what: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

fn in_words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: i32,
    minor: i32,
    sublevel: i32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 { write!(f, ".{}", self.sublevel) } else { Ok(()) }
    }
}

/// How cgroups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum CgroupMode {
    /// As CRIU does it when not asked, which is soft.
    #[default]
    #[value(skip)]
    Unasked,
    /// Restores the properties of cgroups that it makes.
    Soft,
    /// Restores the properties of all.
    Full,
    /// Restores all, and fails where something exists already.
    Strict,
    /// Leaves cgroups alone.
    Ignore,
}

impl From<CgroupMode> for rpc::CgroupMode {
    fn from(mode: CgroupMode) -> Self {
        match mode {
            CgroupMode::Unasked => Self::Default,
            CgroupMode::Soft => Self::Soft,
            CgroupMode::Full => Self::Full,
            CgroupMode::Strict => Self::Strict,
            CgroupMode::Ignore => Self::Ignore,
        }
    }
}

/// Where the images and CRIU's own files are.
#[derive(Debug)]
pub(crate) struct Directories {
    images: (PathBuf, File),
    work: Option<(PathBuf, File)>,
}

impl Directories {
    /// Opens the directories, `images` being one that exists; `work` is made.
    pub(crate) fn open(images: &Path, work: Option<&Path>) -> Result<Self, CriuError> {
        let open = |path: &Path| {
            let failed = |source| CriuError::Io { action: "open", path: path.to_owned(), source };
            Ok((path.to_owned(), File::open(path).map_err(failed)?))
        };
        if let Some(work) = work {
            make_directory(work)?;
        }
        Ok(Self { images: open(images)?, work: work.map(open).transpose()? })
    }

    /// Returns where the images are.
    pub(crate) fn images(&self) -> &Path {
        &self.images.0
    }

    /// Lets processes of other users see which images are there, as CRIU's have to that are in a user
    /// namespace already. The images themselves stay root's alone.
    pub(crate) fn open_to_others(&self) -> Result<(), CriuError> {
        use std::os::unix::fs::PermissionsExt;
        let (path, dir) = &self.images;
        let opened = dir.metadata().and_then(|metadata| {
            let mode = metadata.permissions().mode() & 0o7777;
            dir.set_permissions(std::fs::Permissions::from_mode(mode | 0o011))
        });
        opened.map_err(|source| CriuError::Io { action: "chmod", path: path.clone(), source })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.work.as_ref().map_or(&self.images.0, |(path, _)| path).join(name)
    }
}

/// Makes a directory that nobody else reads: memory is written there.
pub(crate) fn make_directory(path: &Path) -> Result<(), CriuError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| CriuError::Io { action: "make", path: path.to_owned(), source })
}

/// What dump and restore share.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) tcp_established: bool,
    pub(crate) ext_unix_sk: bool,
    pub(crate) shell_job: bool,
    pub(crate) file_locks: bool,
    pub(crate) lazy_pages: bool,
    pub(crate) auto_dedup: bool,
    pub(crate) cgroup_mode: CgroupMode,
    /// Whether the network namespace is made anew and empty: `CLONE_NEWNET` or 0.
    pub(crate) empty_namespaces: u32,
    /// A file with further options of CRIU's.
    pub(crate) config_file: Option<String>,
}

/// What is dumped, and how.
#[derive(Debug)]
pub(crate) struct Dump<'a> {
    pub(crate) common: Common,
    pub(crate) directories: &'a Directories,
    pub(crate) init: Pid,
    pub(crate) root: &'a Path,
    pub(crate) externals: Externals,
    /// The freezer of the container's processes.
    pub(crate) freezer: Option<&'a Path>,
    pub(crate) leave_running: bool,
    /// Memory only, before the dump proper.
    pub(crate) pre_dump: bool,
    /// Images of an earlier dump, relative to these.
    pub(crate) parent: Option<String>,
    pub(crate) link_remap: bool,
    pub(crate) tcp_skip_in_flight: bool,
    /// Address and port of who receives the pages.
    pub(crate) page_server: Option<(String, u16)>,
}

/// What is restored, and how.
#[derive(Debug)]
pub(crate) struct Restore<'a> {
    pub(crate) common: Common,
    pub(crate) directories: &'a Directories,
    pub(crate) place: Place<'a>,
    pub(crate) externals: Externals,
    /// Controllers and path of each hierarchy of v1.
    pub(crate) cgroup_roots: Vec<(String, PathBuf)>,
    /// Descriptors of the caller's, by the names that the images have for them.
    pub(crate) streams: Vec<(String, i32)>,
    pub(crate) lsm_profile: Option<String>,
    pub(crate) lsm_mount_context: Option<String>,
}

/// An installed CRIU.
#[derive(Debug)]
pub(crate) struct Criu {
    program: PathBuf,
    features: Features,
}

impl Criu {
    /// Asks CRIU for its version, and whether it can work with this kernel.
    pub(crate) fn find(program: PathBuf) -> Result<Self, CriuError> {
        let ask = |request: &Request| {
            Session::start(&program)?.request(request, |error| error, |_| Ok(()))
        };
        let version = ask(&Request { kind: Kind::Version.into(), ..Request::default() })?;
        let version = version.version.ok_or_else(|| CriuError::Gone { said: String::new() })?;
        let sublevel = version.sublevel.unwrap_or(0);
        let version = Version { major: version.major, minor: version.minor, sublevel };
        if version < OLDEST {
            return Err(CriuError::TooOld { version });
        }
        let wanted = Features { mem_track: Some(true), lazy_pages: Some(true) };
        let kind = Kind::FeatureCheck.into();
        let answer = ask(&Request { kind, features: Some(wanted), ..Request::default() });
        match answer {
            Ok(Response { success: true, features: Some(features), .. }) => {
                Ok(Self { program, features })
            }
            Ok(Response { message, .. }) => {
                Err(CriuError::Unusable { version, said: message.unwrap_or_default() })
            }
            Err(CriuError::Gone { said }) => Err(CriuError::Unusable { version, said }),
            Err(error) => Err(error),
        }
    }

    /// Writes the container's processes into images.
    ///
    /// `failed` wraps what goes wrong here into the error of `on_notice`, whose own ends the dump too.
    pub(crate) fn dump<E>(
        &self,
        dump: Dump<'_>,
        failed: impl Fn(CriuError) -> E,
        on_notice: impl FnMut(Notice) -> Result<(), E>,
    ) -> Result<(), E> {
        if (dump.pre_dump || dump.parent.is_some()) && self.features.mem_track != Some(true) {
            let option = if dump.pre_dump { "--pre-dump" } else { "--parent-path" };
            let needs = "CONFIG_MEM_SOFT_DIRTY, which tells what memory has changed";
            return Err(failed(CriuError::Unsupported { option, needs }));
        }
        self.check_lazy_pages(&dump.common).map_err(&failed)?;
        if dump.common.lazy_pages {
            lazy::check_pipes().map_err(&failed)?;
        }
        let log = "dump.log";
        let mut options = options(dump.common, dump.directories, log);
        options.pid = Some(dump.init.as_raw());
        options.root = Some(text(dump.root));
        options.leave_running = Some(dump.leave_running);
        options.link_remap = Some(dump.link_remap);
        options.tcp_skip_in_flight = Some(dump.tcp_skip_in_flight);
        options.freeze_cgroup = dump.freezer.map(text);
        options.track_mem = dump.parent.is_some().then_some(true);
        options.parent_images = dump.parent;
        options.page_server = dump.page_server.map(|(address, port)| PageServer {
            address: Some(address),
            port: Some(i32::from(port)),
        });
        let kind = if dump.pre_dump { Kind::PreDump } else { Kind::Dump };
        if !dump.pre_dump {
            dump.externals.add_to(&mut options);
        }
        let log = dump.directories.log(log);
        let request = Request { kind: kind.into(), options: Some(options), ..Request::default() };
        let session = Session::start(&self.program).map_err(&failed)?;
        let explained = |error| failed(explain("dump", error, &log));
        let response = session.request(&request, explained, on_notice)?;
        judge("dump", response, &log).map(drop).map_err(failed)
    }

    /// Makes the processes that the images hold; returns the first of them, a child of the caller.
    ///
    /// `failed` and `on_notice` as for [`Self::dump`].
    pub(crate) fn restore<E>(
        &self,
        restore: Restore<'_>,
        failed: impl Fn(CriuError) -> E,
        on_notice: impl FnMut(Notice) -> Result<(), E>,
    ) -> Result<Pid, E> {
        self.check_lazy_pages(&restore.common).map_err(&failed)?;
        let log = "restore.log";
        let mut options = options(restore.common, restore.directories, log);
        options.root = Some(text(restore.place.root));
        options.evasive_devices = Some(true);
        options.as_sibling = Some(true);
        options.lsm_profile = restore.lsm_profile;
        options.lsm_mount_context = restore.lsm_mount_context;
        options.cgroup_roots = restore
            .cgroup_roots
            .into_iter()
            .map(|(controllers, path)| rpc::CgroupRoot {
                controllers: Some(controllers),
                path: text(&path),
            })
            .collect();
        for (key, fd) in restore.streams {
            options.inherited_fds.push(rpc::InheritedFd { key, fd });
        }
        restore.externals.add_to(&mut options);
        let log = restore.directories.log(log);
        let kind = Kind::Restore.into();
        let request = Request { kind, options: Some(options), ..Request::default() };
        let session = Session::start_in(&self.program, &restore.place).map_err(&failed)?;
        let explained = |error| failed(explain("restore", error, &log));
        let response = session.request(&request, explained, on_notice)?;
        let response = judge("restore", response, &log).map_err(&failed)?;
        let pid = response.restored.map(|restored| Pid::from_raw(restored.pid));
        pid.ok_or_else(|| failed(CriuError::Gone { said: String::new() }))
    }

    fn check_lazy_pages(&self, common: &Common) -> Result<(), CriuError> {
        if common.lazy_pages && self.features.lazy_pages != Some(true) {
            let needs = "userfaultfd(2) with non-cooperative mode";
            return Err(CriuError::Unsupported { option: "--lazy-pages", needs });
        }
        Ok(())
    }
}

fn options(common: Common, directories: &Directories, log: &str) -> Options {
    Options {
        images_dir_fd: directories.images.1.as_raw_fd(),
        work_dir_fd: directories.work.as_ref().map(|(_, dir)| dir.as_raw_fd()),
        log_level: Some(LOG_LEVEL),
        log_file: Some(log.to_owned()),
        notify_scripts: Some(true),
        orphan_pts_master: Some(true),
        manage_cgroups: Some(true),
        cgroup_mode: Some(rpc::CgroupMode::from(common.cgroup_mode).into()),
        tcp_established: Some(common.tcp_established),
        ext_unix_sk: Some(common.ext_unix_sk),
        shell_job: Some(common.shell_job),
        file_locks: Some(common.file_locks),
        lazy_pages: Some(common.lazy_pages),
        auto_dedup: Some(common.auto_dedup),
        empty_namespaces: Some(common.empty_namespaces),
        config_file: common.config_file,
        ..Options::default()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// CRIU that ends without a word has left some in its log.
fn explain(operation: &'static str, error: CriuError, log: &Path) -> CriuError {
    match error {
        CriuError::Gone { said } => {
            let mut said = vec![said];
            said.retain(|text| !text.is_empty());
            said.extend(errors_in(log));
            CriuError::Failed { operation, said, log: log.to_owned() }
        }
        error => error,
    }
}

fn judge(operation: &'static str, response: Response, log: &Path) -> Result<Response, CriuError> {
    if response.success {
        return Ok(response);
    }
    let mut said = errors_in(log);
    if said.is_empty() {
        let errno = response.errno.map(Errno::from_raw);
        let words = errno.map(|errno| errno.desc().to_owned());
        said.extend(response.message.into_iter().chain(words));
    }
    Err(CriuError::Failed { operation, said, log: log.to_owned() })
}

/// Returns the last errors of CRIU's log before it gave up: those before are what it could do
/// without, those after are consequences.
fn errors_in(log: &Path) -> Vec<String> {
    let Ok(file) = File::open(log) else { return Vec::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let errors = lines.filter_map(|line| error_in(&line));
    let mut errors: Vec<String> = errors.take_while(|text| !text.ends_with(" FAILED.")).collect();
    errors.split_off(errors.len().saturating_sub(REPEATED_ERRORS))
}

/// Takes `(00.012345) 1: Error (criu/mount.c:12): text` apart.
fn error_in(line: &str) -> Option<String> {
    let (_, error) = line.split_once("Error (")?;
    let (_, text) = error.split_once("): ")?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_log_are_found_and_stripped() {
        for (line, error) in [
            ("(00.01) Error (criu/mount.c:1088): mnt: Mount 7 is odd", Some("mnt: Mount 7 is odd")),
            ("(00.01)      1: Error (criu/x.c:1): Can't: f(a): b", Some("Can't: f(a): b")),
            ("(00.01) Warn  (criu/x.c:1): no matter", None),
            ("Error without a place", None),
        ] {
            assert_eq!(error_in(line).as_deref(), error, "{line}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        let version = |major, minor, sublevel| Version { major, minor, sublevel };

        assert!(version(3, 9, 0) < OLDEST && version(3, 17, 1) > OLDEST);
        assert!(version(4, 0, 0) > version(3, 19, 0));
        assert_eq!(version(4, 2, 1).to_string(), "4.2.1");
        assert_eq!(OLDEST.to_string(), "3.16");
    }

    #[test]
    fn a_program_that_is_no_criu_is_told() {
        let missing = Criu::find("/nonexistent/criu".into()).unwrap_err();
        let other = Criu::find("/bin/false".into()).unwrap_err();

        assert!(matches!(missing, CriuError::Execute { .. }), "{missing:?}");
        assert!(matches!(other, CriuError::Gone { .. }), "{other:?}");
    }
}
