//! What can run a container: an OCI runtime, which our shim executes, or another's shim.
//!
//! ```text
//! --runtime NAME               a name from [runtimes]
//! --runtime io.containerd.X.Y  the shim containerd-shim-X-Y on the daemon's PATH, as containerd finds it
//! --runtime /ABSOLUTE/PATH     a shim, if the file is called containerd-shim-…; else an OCI runtime
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use keg_proto::containerd::runc::v1::Options as RuncOptions;
use keg_proto::runtimeoptions::v1::Options as FileOptions;
use prost_types::Any;
use serde::Deserialize;

/// The runtime type by which containerd calls our own shim.
const OWN_TYPE: &str = "io.containerd.keg.v2";
/// The program of our own runtime.
const OWN_RUNTIME: &str = "keg-runtime";
/// What the programs of shims begin with.
const SHIM_PREFIX: &str = "containerd-shim-";
/// What the programs of shims begin with that take runc's options.
const RUNC_PREFIX: &str = "containerd-shim-runc-";

/// Why nothing can run a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// It is nothing that is known.
    #[error(
        "{asked:?} is neither a configured runtime, nor the type of a shim as containerd has them \
         (io.containerd.runc.v2), nor an absolute path"
    )]
    Unknown {
        /// What was asked for.
        asked: String,
    },
    /// A shim is not installed.
    #[error(
        "the shim of {asked:?}, a program called {program}, is not on the PATH of kegd: install it, or \
         name its path"
    )]
    NoShim {
        /// What was asked for.
        asked: String,
        /// The program that was looked for.
        program: String,
    },
}

/// A runtime as an operator configures it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "the path of an OCI runtime, or a table with `type` and `options`")]
pub enum RuntimeConfig {
    /// An OCI runtime's program.
    Program(PathBuf),
    /// A shim.
    Shim(ShimConfig),
}

/// A shim as an operator configures it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimConfig {
    /// Its type, as containerd has them, or the path of its program.
    #[serde(rename = "type")]
    pub shim_type: String,
    /// What it is told with each container.
    #[serde(default)]
    pub options: ShimOptions,
}

/// Options of a shim, by containerd's names; what is empty is left to the shim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
pub struct ShimOptions {
    /// The OCI runtime that it executes.
    pub binary_name: String,
    /// Where that keeps its state; empty: below the daemon's own.
    pub root: String,
    /// systemd makes the control groups.
    pub systemd_cgroup: bool,
    /// The runtime changes its root without `pivot_root`, as on a ramdisk.
    pub no_pivot_root: bool,
    /// Containers get no session keyring of their own.
    pub no_new_keyring: bool,
    /// Where CRIU keeps what it dumps.
    pub criu_image_path: String,
    /// Where CRIU works.
    pub criu_work_path: String,
    /// Type of what `config_path` holds, for shims that keep their options in a file.
    pub type_url: String,
    /// That file.
    pub config_path: String,
}

/// What runs a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// An OCI runtime, by way of our shim; an empty path lets the shim choose.
    Program(PathBuf),
    /// Another's shim.
    Shim(ForeignShim),
}

/// Another's shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignShim {
    /// Its program.
    pub(crate) program: PathBuf,
    /// What it is told.
    pub(crate) options: ShimOptions,
}

impl Runtime {
    /// The OCI runtime that executes the container, if it is known and not ours.
    pub(crate) fn others_program(&self) -> Option<PathBuf> {
        let program = match self {
            Self::Program(program) => program.clone(),
            Self::Shim(shim) if !shim.options.binary_name.is_empty() => {
                shim.options.binary_name.clone().into()
            }
            Self::Shim(shim) if shim.takes_runc_options() => "runc".into(),
            Self::Shim(_) => return None,
        };
        let is_ours = program.file_name().is_none_or(|name| name == OWN_RUNTIME);
        (!is_ours).then_some(program)
    }
}

impl ForeignShim {
    fn takes_runc_options(&self) -> bool {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(RUNC_PREFIX)
    }

    /// The options as the Task API carries them: runc's own for the shims that take those, or where a
    /// file is. The pipes of the container's streams belong to `owner`, and the runtime keeps its
    /// state below `root`.
    pub(crate) fn options(&self, owner: u32, root: &Path) -> Option<Any> {
        let options = &self.options;
        if !options.type_url.is_empty() || !options.config_path.is_empty() {
            let file = FileOptions {
                type_url: options.type_url.clone(),
                config_path: options.config_path.clone(),
                ..FileOptions::default()
            };
            return Some(any("runtimeoptions.v1.Options", &file));
        }
        if !self.takes_runc_options() && *options == ShimOptions::default() {
            return None;
        }
        let runc = RuncOptions {
            binary_name: options.binary_name.clone(),
            root: match options.root.as_str() {
                "" => root.to_string_lossy().into_owned(),
                root => root.to_owned(),
            },
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            criu_image_path: options.criu_image_path.clone(),
            criu_work_path: options.criu_work_path.clone(),
            io_uid: owner,
            io_gid: owner,
            ..RuncOptions::default()
        };
        Some(any("containerd.runc.v1.Options", &runc))
    }
}

fn any(type_url: &str, message: &impl prost::Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

/// Finds what a container asks for among runtimes and shims. A container that asks for nothing gets
/// `default`, which need not be configured.
///
/// # Errors
/// [`RuntimeError`], never for one that asks for nothing and whose default is no shim.
pub(crate) fn resolve(
    (runtimes, shims): (&BTreeMap<String, PathBuf>, &BTreeMap<String, ShimConfig>),
    default: &str,
    asked: &str,
) -> Result<Runtime, RuntimeError> {
    let name = if asked.is_empty() { default } else { asked };
    if let Some(shim) = shims.get(name) {
        return Ok(match find_shim(&shim.shim_type, is_file)? {
            Some(program) => Runtime::Shim(ForeignShim { program, options: shim.options.clone() }),
            None => Runtime::Program(shim.options.binary_name.clone().into()),
        });
    }
    match runtimes.get(name) {
        Some(program) => Ok(Runtime::Program(program.clone())),
        None if asked.is_empty() => Ok(Runtime::Program(PathBuf::new())),
        None if Path::new(name).is_absolute() && !is_shim(Path::new(name)) => {
            Ok(Runtime::Program(name.into()))
        }
        None => Ok(match find_shim(name, is_file)? {
            Some(program) => {
                Runtime::Shim(ForeignShim { program, options: ShimOptions::default() })
            }
            None => {
                resolve((runtimes, shims), default, "").unwrap_or(Runtime::Program(PathBuf::new()))
            }
        }),
    }
}

fn is_shim(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(SHIM_PREFIX))
}

/// Finds the program of a shim by its type, or by its path; `None` if it is our own.
fn find_shim(
    shim_type: &str,
    is_file: impl Fn(&Path) -> bool,
) -> Result<Option<PathBuf>, RuntimeError> {
    if shim_type == OWN_TYPE {
        return Ok(None);
    }
    let no_shim = |program: String| RuntimeError::NoShim { asked: shim_type.to_owned(), program };
    if Path::new(shim_type).is_absolute() {
        let program = PathBuf::from(shim_type);
        return match is_file(&program) {
            true => Ok(Some(program)),
            false => Err(no_shim(shim_type.to_owned())),
        };
    }
    let name = program_of_type(shim_type)
        .ok_or_else(|| RuntimeError::Unknown { asked: shim_type.to_owned() })?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(&name));
    candidates
        .find(|candidate| candidate.is_absolute() && is_file(candidate))
        .map(Some)
        .ok_or_else(|| no_shim(name))
}

/// The name of a shim's program: `io.containerd.NAME.VERSION` is `containerd-shim-NAME-VERSION`.
fn program_of_type(shim_type: &str) -> Option<String> {
    let parts: Vec<&str> = shim_type.split('.').collect();
    let plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match parts.as_slice() {
        [_, .., name, version] if parts.len() > 2 && parts.iter().all(plain) => {
            Some(format!("{SHIM_PREFIX}{name}-{version}"))
        }
        _ => None,
    }
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn configured() -> (BTreeMap<String, PathBuf>, BTreeMap<String, ShimConfig>) {
        let own = ShimConfig {
            shim_type: OWN_TYPE.to_owned(),
            options: ShimOptions { binary_name: "/crun".to_owned(), ..ShimOptions::default() },
        };
        let runtimes = BTreeMap::from([("runc".to_owned(), "/runc".into())]);
        (runtimes, BTreeMap::from([("own".to_owned(), own)]))
    }

    #[test]
    fn names_types_and_paths_are_told_apart() {
        let (runtimes, shims) = configured();
        let program = |path: &str| Ok(Runtime::Program(path.into()));
        for (asked, expected) in [
            ("", program("/runc")),
            ("runc", program("/runc")),
            ("own", program("/crun")),
            ("/opt/youki", program("/opt/youki")),
            (OWN_TYPE, program("/runc")),
            ("kata", Err(RuntimeError::Unknown { asked: "kata".into() })),
            ("io..v2", Err(RuntimeError::Unknown { asked: "io..v2".into() })),
            ("../x.y.z", Err(RuntimeError::Unknown { asked: "../x.y.z".into() })),
        ] {
            assert_eq!(resolve((&runtimes, &shims), "runc", asked), expected, "{asked}");
        }
        assert_eq!(resolve((&runtimes, &shims), "keg-runtime", ""), program(""));
    }

    #[test]
    fn a_type_names_a_program_as_containerd_says() {
        for (shim_type, program) in [
            ("io.containerd.runc.v2", Some("containerd-shim-runc-v2")),
            ("com.example.my-shim.v1", Some("containerd-shim-my-shim-v1")),
            ("runc.v2", None),
            ("io.containerd./x.v2", None),
        ] {
            assert_eq!(program_of_type(shim_type).as_deref(), program, "{shim_type}");
        }
        assert_eq!(
            find_shim("io.containerd.absent.v9", |_| false),
            Err(RuntimeError::NoShim {
                asked: "io.containerd.absent.v9".into(),
                program: "containerd-shim-absent-v9".into(),
            }),
        );
        let path = "/opt/containerd-shim-x-v1";
        assert_eq!(find_shim(path, |_| true), Ok(Some(path.into())));
        assert!(find_shim(path, |_| false).is_err());
    }

    #[test]
    fn the_runtime_behind_a_shim_is_known_where_it_can_be() {
        let shim = |program: &str, binary: &str| {
            let options = ShimOptions { binary_name: binary.into(), ..ShimOptions::default() };
            Runtime::Shim(ForeignShim { program: program.into(), options })
        };
        for (runtime, program) in [
            (Runtime::Program("".into()), None),
            (Runtime::Program("/usr/bin/keg-runtime".into()), None),
            (Runtime::Program("/usr/sbin/runc".into()), Some("/usr/sbin/runc")),
            (shim("/b/containerd-shim-runc-v2", ""), Some("runc")),
            (shim("/b/containerd-shim-runc-v2", "/b/crun"), Some("/b/crun")),
            (shim("/b/containerd-shim-kata-v2", ""), None),
        ] {
            assert_eq!(runtime.others_program(), program.map(PathBuf::from), "{runtime:?}");
        }
    }

    #[test]
    fn a_shim_is_told_what_it_understands() {
        let shim = |program: &str, options| ForeignShim { program: program.into(), options };
        let none = ShimOptions::default;

        let runc = shim("/bin/containerd-shim-runc-v2", none()).options(7, Path::new("/run/r"));
        let runc = runc.unwrap();
        assert_eq!(runc.type_url, "containerd.runc.v1.Options");
        let runc = RuncOptions::decode(&*runc.value).unwrap();
        assert_eq!((runc.root.as_str(), runc.io_uid), ("/run/r", 7));

        assert_eq!(shim("/bin/containerd-shim-x-v1", none()).options(0, Path::new("/r")), None);
        let in_file = ShimOptions { config_path: "/etc/runsc.toml".into(), ..none() };
        let in_file = shim("/bin/containerd-shim-runsc-v1", in_file).options(0, Path::new("/r"));
        assert_eq!(in_file.unwrap().type_url, "runtimeoptions.v1.Options");
    }
}
