//! What this machine has, and the tests that it therefore cannot run.
//!
//! [`requires!`](crate::requires) opens a test: it names what the test needs, and skips the test with
//! a printed reason where that is missing. A property of the machine (its kernel, its cgroup layout)
//! may be missing anywhere; something that `make` sets up (root, Debian's packages, our programs) must
//! be there when `CI=true`, and its absence fails the test then.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::Runtime;
use crate::programs;

/// Proof that what a test needs is there.
#[derive(Debug, Clone, Copy)]
pub struct Host(());

/// Something that a test needs and that is not there.
#[derive(Debug)]
pub struct Missing {
    what: String,
    set_up_by_make: bool,
}

/// One need of a test.
pub type Need = fn() -> Result<(), Missing>;

impl Host {
    /// Asks for all `needs`.
    ///
    /// # Errors
    /// The first of them that is missing.
    pub fn with(needs: &[Need]) -> Result<Self, Missing> {
        needs.iter().try_for_each(|need| need()).map(|()| Self(()))
    }

    /// Returns the runtime under test on a root of its own; see [`Runtime::new`].
    #[must_use]
    pub fn runtime(self) -> Runtime {
        Runtime::new()
    }
}

/// Prints why a test is skipped, and notes it in the file `KEG_TEST_SKIPS`, if that is set.
///
/// # Panics
/// If `CI=true` and `make` should have seen to it.
#[track_caller]
pub fn skip(missing: &Missing) {
    let ci = env::var_os("CI").is_some_and(|value| value == "true");
    assert!(
        !(ci && missing.set_up_by_make),
        "skipped although CI=true: {} is missing",
        missing.what
    );
    eprintln!("skipped: {} is missing", missing.what);
    if let Some(file) = env::var_os("KEG_TEST_SKIPS") {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let list = OpenOptions::new().append(true).create(true).open(file);
        let written =
            list.and_then(|mut list| writeln!(list, "{test}: {} is missing", missing.what));
        written.expect("note a skipped test");
    }
}

/// Names what the test needs; skips it, with a reason, where that is missing.
///
/// Evaluates to a [`Host`](crate::Host). The needs are the functions of
/// [`host::needs`](crate::host::needs): `requires!(root, cgroup_v1)`.
#[macro_export]
macro_rules! requires {
    ($($need:ident),+ $(,)?) => {
        match $crate::host::Host::with(&[$($crate::host::needs::$need),+]) {
            Ok(host) => host,
            Err(missing) => return $crate::host::skip(&missing),
        }
    };
}

/// What tests can ask for.
pub mod needs {
    use std::io::Write as _;

    use super::{Missing, OpenOptions, Path, env, fs, machine, program, programs, set_up};

    /// Asks for all rights of root.
    ///
    /// # Errors
    /// Another user runs the tests.
    pub fn root() -> Result<(), Missing> {
        set_up(nix::unistd::geteuid().is_root(), "root (run `make test` as root)")
    }

    /// Asks for cgroup v1 controllers, with or without v2 beside them.
    ///
    /// # Errors
    /// Only v2 is mounted.
    pub fn cgroup_v1() -> Result<(), Missing> {
        machine(Path::new("/sys/fs/cgroup/memory/tasks").exists(), "cgroup v1")
    }

    /// Asks for pure cgroup v2.
    ///
    /// # Errors
    /// v1 controllers are mounted.
    pub fn cgroup_v2() -> Result<(), Missing> {
        machine(Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), "pure cgroup v2")
    }

    /// Asks for user namespaces.
    ///
    /// # Errors
    /// The kernel has none, or allows none.
    pub fn user_namespaces() -> Result<(), Missing> {
        let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces");
        machine(allowed.is_ok_and(|count| count.trim() != "0"), "user namespaces")
    }

    /// Asks for AppArmor.
    ///
    /// # Errors
    /// The kernel has none, or it is not enabled.
    pub fn apparmor() -> Result<(), Missing> {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
        machine(enabled.is_ok_and(|text| text.starts_with(b"Y")), "AppArmor")
    }

    /// Asks for SELinux with a policy that knows containers.
    ///
    /// # Errors
    /// The kernel has none, it is not enabled, or its policy has no `container_t`.
    pub fn selinux() -> Result<(), Missing> {
        let check = OpenOptions::new().write(true).open("/sys/fs/selinux/context");
        let known =
            check.and_then(|mut file| file.write_all(b"system_u:system_r:container_t:s0:c1,c2"));
        machine(known.is_ok(), "SELinux with container_t in its policy")
    }

    /// Asks for SELinux whose policy is enforced.
    ///
    /// # Errors
    /// As [`selinux`], or it only reports.
    pub fn selinux_enforcing() -> Result<(), Missing> {
        selinux()?;
        let enforced = fs::read_to_string("/sys/fs/selinux/enforce");
        machine(enforced.is_ok_and(|text| text.trim() == "1"), "SELinux in enforcing mode")
    }

    /// Asks for time namespaces (Linux 5.6).
    ///
    /// # Errors
    /// The kernel has none.
    pub fn time_namespaces() -> Result<(), Missing> {
        machine(Path::new("/proc/self/ns/time").exists(), "time namespaces")
    }

    /// Asks for overlays whose layers are descriptors (Linux 6.13).
    ///
    /// # Errors
    /// The kernel is older.
    pub fn overlay_descriptors() -> Result<(), Missing> {
        let release = nix::sys::utsname::uname().map(|names| names.release().to_owned());
        let release = release.unwrap_or_default();
        let release = release.to_string_lossy();
        let mut numbers = release.split(['.', '-']).map_while(|text| text.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        machine(version >= (6, 13), "overlays of descriptors (Linux 6.13)")
    }

    /// Asks that the runtime under test is ours: the test is about something that peers lack.
    ///
    /// # Errors
    /// `KEG_TEST_RUNTIME` names another.
    pub fn our_runtime() -> Result<(), Missing> {
        machine(env::var_os("KEG_TEST_RUNTIME").is_none(), "our runtime")
    }

    /// Asks for CRIU (newer than Debian 12 has for kernels from 6.13 on).
    ///
    /// # Errors
    /// None is there, or none that works with this kernel.
    pub fn criu() -> Result<(), Missing> {
        machine(programs::criu().is_some(), "a CRIU that works with this kernel (.ci/newer-peers)")
    }

    /// Asks for pipes of 4 MiB, without which CRIU sends no memory later (`--lazy-pages`).
    ///
    /// # Errors
    /// The kernel refuses them: `fs.pipe-max-size` is less, and CAP_SYS_RESOURCE is missing.
    pub fn large_pipes() -> Result<(), Missing> {
        let made = std::io::pipe().ok().is_some_and(|(reader, _)| {
            nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4 << 20)).is_ok()
        });
        machine(made, "pipes of 4 MiB (CAP_SYS_RESOURCE, or fs.pipe-max-size)")
    }

    /// Asks for newuidmap, which maps the ids that are lent to a user.
    ///
    /// # Errors
    /// It is not installed.
    pub fn uidmap() -> Result<(), Missing> {
        program("newuidmap")
    }

    /// Asks for Debian's runc.
    ///
    /// # Errors
    /// It is not installed.
    pub fn runc() -> Result<(), Missing> {
        program("runc")
    }

    /// Asks for Debian's containerd.
    ///
    /// # Errors
    /// It is not installed.
    pub fn containerd() -> Result<(), Missing> {
        program("containerd").and_then(|()| program("ctr"))
    }

    /// Asks for a containerd of the generation after Debian 12's.
    ///
    /// # Errors
    /// It was not fetched.
    pub fn newer_containerd() -> Result<(), Missing> {
        let there = programs::newer_peers().join("containerd/bin/containerd").is_file();
        machine(there, "a containerd of the next generation (.ci/newer-peers)")
    }

    /// Asks for the newest containerd.
    ///
    /// # Errors
    /// `KEG_NEWEST_CONTAINERD` names none.
    pub fn newest_containerd() -> Result<(), Missing> {
        let there = programs::newest_containerd().is_some();
        machine(there, "a containerd 2.3 or newer (KEG_NEWEST_CONTAINERD names its directory)")
    }

    /// Asks for Debian's dockerd and a docker client.
    ///
    /// # Errors
    /// It is not installed.
    pub fn dockerd() -> Result<(), Missing> {
        program("dockerd").and_then(|()| program("docker")).and_then(|()| program("containerd"))
    }

    /// Asks for Debian's CNI plugins.
    ///
    /// # Errors
    /// They are not installed.
    pub fn cni_plugins() -> Result<(), Missing> {
        let there = Path::new("/usr/lib/cni/bridge").exists();
        set_up(there, "CNI plugins (Debian: containernetworking-plugins)")
    }

    /// Asks for Debian's MariaDB, the server and its client.
    ///
    /// # Errors
    /// They are not installed.
    pub fn mariadb() -> Result<(), Missing> {
        program("mariadbd").and_then(|()| program("mariadb"))
    }

    /// Asks for Debian's nginx.
    ///
    /// # Errors
    /// It is not installed.
    pub fn nginx() -> Result<(), Missing> {
        program("nginx")
    }

    /// Asks for Debian's Redis, the server and its client.
    ///
    /// # Errors
    /// It is not installed.
    pub fn redis() -> Result<(), Missing> {
        program("redis-server").and_then(|()| program("redis-cli"))
    }

    /// Asks for Debian's docker-registry, and for skopeo to fill it.
    ///
    /// # Errors
    /// It is not installed.
    pub fn registry() -> Result<(), Missing> {
        program("docker-registry").and_then(|()| program("skopeo"))
    }

    /// Asks for skopeo.
    ///
    /// # Errors
    /// It is not installed.
    pub fn skopeo() -> Result<(), Missing> {
        program("skopeo")
    }

    /// Asks for Podman.
    ///
    /// # Errors
    /// It is not installed.
    pub fn podman() -> Result<(), Missing> {
        program("podman")
    }

    /// Asks for umoci.
    ///
    /// # Errors
    /// It is not installed.
    pub fn umoci() -> Result<(), Missing> {
        program("umoci")
    }

    /// Asks for an SSH agent, and what fills it.
    ///
    /// # Errors
    /// It is not installed.
    pub fn ssh_agent() -> Result<(), Missing> {
        ["ssh-agent", "ssh-add", "ssh-keygen"].iter().try_for_each(|name| program(name))
    }

    /// Asks for git.
    ///
    /// # Errors
    /// It is not installed.
    pub fn git() -> Result<(), Missing> {
        program("git")
    }

    /// Asks for buildah.
    ///
    /// # Errors
    /// It is not installed.
    pub fn buildah() -> Result<(), Missing> {
        program("buildah")
    }

    /// Asks that somebody wants real Dockerfiles to be built here and elsewhere, which takes minutes.
    ///
    /// # Errors
    /// `KEG_TEST_DOCKERFILES` names none.
    pub fn dockerfiles_wanted() -> Result<(), Missing> {
        let wanted = env::var_os("KEG_TEST_DOCKERFILES").is_some_and(|names| !names.is_empty());
        machine(wanted, "KEG_TEST_DOCKERFILES (\"all\", or names of directories)")
    }

    /// Asks for a Debian to build images on.
    ///
    /// # Errors
    /// It was not made before, and Debian's archive cannot be reached.
    pub fn debian_base() -> Result<(), Missing> {
        let made = program("mmdebstrap").map(|()| crate::debian::base())?;
        let problem = made.as_ref().err().cloned().unwrap_or_default();
        machine(made.is_ok(), &format!("a Debian made by mmdebstrap ({})", problem.trim()))
    }

    /// Asks for openssl, which makes certificates.
    ///
    /// # Errors
    /// It is not installed.
    pub fn openssl() -> Result<(), Missing> {
        program("openssl")
    }
}

fn machine(there: bool, what: &str) -> Result<(), Missing> {
    if there { Ok(()) } else { Err(Missing { what: what.to_owned(), set_up_by_make: false }) }
}

fn set_up(there: bool, what: &str) -> Result<(), Missing> {
    if there { Ok(()) } else { Err(Missing { what: what.to_owned(), set_up_by_make: true }) }
}

fn program(name: &str) -> Result<(), Missing> {
    set_up(programs::installed(name).is_some(), &format!("the program {name}"))
}
