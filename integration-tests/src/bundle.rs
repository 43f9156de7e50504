//! Bundles: a root filesystem with the probe and busybox, and a `config.json`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Scratch, programs};

/// Where the probe is in the root filesystem.
pub const PROBE: &str = "/probe";

pub(crate) const APPLETS: [&str; 25] = [
    "sh", "cat", "stat", "echo", "ls", "true", "false", "sleep", "id", "ps", "mkdir", "rm",
    "touch", "ln", "mount", "umount", "env", "stty", "tty", "kill", "seq", "grep", "chmod", "head",
    "wc",
];

pub(crate) const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nkeg:x:1000:1000:keg:/:/bin/sh\n";
pub(crate) const GROUP: &str = "root:x:0:\ntty:x:5:\nstaff:x:50:keg\nkeg:x:1000:\n";

/// An OCI bundle on disk.
///
/// Starts as what `runc spec` makes, plus a cgroup namespace, minus the read-only root and the
/// terminal; every test edits what it is about. The cgroup path is set when a
/// [`Runtime`](crate::Runtime) creates a container from it.
#[derive(Debug)]
pub struct Bundle {
    scratch: Scratch,
    spec: Value,
}

impl Bundle {
    /// Makes a bundle that runs the probe; without [`args`](Bundle::args) it reports.
    #[must_use]
    pub fn probe() -> Self {
        Self::with_args(&[PROBE, "report"])
    }

    /// Makes a bundle that runs busybox; see [`sh`](Bundle::sh).
    #[must_use]
    pub fn busybox() -> Self {
        Self::with_args(&["/bin/sh"])
    }

    fn with_args(args: &[&str]) -> Self {
        let scratch = Scratch::new();
        fill_rootfs(&scratch.directory("rootfs"));
        let mut spec = default_spec();
        spec["process"]["args"] = json!(args);
        let bundle = Self { scratch, spec };
        bundle.write();
        bundle
    }

    /// Sets the arguments of the probe.
    #[must_use]
    pub fn args<S: AsRef<str>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let mut all = vec![PROBE.to_owned()];
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.edit(|spec| spec["process"]["args"] = json!(all))
    }

    /// Sets the whole command line.
    #[must_use]
    pub fn command<S: AsRef<str>>(self, args: impl IntoIterator<Item = S>) -> Self {
        let all: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self.edit(|spec| spec["process"]["args"] = json!(all))
    }

    /// Runs a script in busybox's shell.
    #[must_use]
    pub fn sh(self, script: &str) -> Self {
        self.command(["/bin/sh", "-c", script])
    }

    /// Changes `config.json`.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self.write();
        self
    }

    /// Sets one value of `config.json` by JSON pointer ("/process/cwd"), which need not exist yet;
    /// "-" appends to a list.
    ///
    /// # Panics
    /// If the pointer leads through something that is neither object nor list.
    #[must_use]
    #[track_caller]
    pub fn set(self, pointer: &str, value: impl Into<Value>) -> Self {
        self.edit(|spec| {
            let mut place = spec;
            for key in pointer.split('/').skip(1) {
                if key == "-" {
                    if place.is_null() {
                        *place = json!([]);
                    }
                    let list = place.as_array_mut().expect("\"-\" appends to a list");
                    list.push(Value::Null);
                    place = list.last_mut().expect("just pushed");
                } else if place.is_array() {
                    let index: usize = key.parse().expect("index of a list");
                    place = &mut place[index];
                } else {
                    place = &mut place[key];
                }
            }
            *place = value.into();
        })
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        self.set(
            "/mounts/-",
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        )
    }

    /// Adds a namespace, or replaces it; with `path`, one to join.
    ///
    /// # Panics
    /// If the list of namespaces was edited away.
    #[must_use]
    pub fn namespace(self, kind: &str, path: Option<&Path>) -> Self {
        let bundle = self.without_namespace(kind);
        let mut namespace = json!({"type": kind});
        if let Some(path) = path {
            namespace["path"] = json!(path);
        }
        bundle.set("/linux/namespaces/-", namespace)
    }

    /// Removes a namespace: the container shares the host's.
    ///
    /// # Panics
    /// If the list of namespaces was edited away.
    #[must_use]
    pub fn without_namespace(self, kind: &str) -> Self {
        self.edit(|spec| {
            let list = spec["linux"]["namespaces"].as_array_mut().expect("linux.namespaces");
            list.retain(|namespace| namespace["type"] != kind);
        })
    }

    /// Gives the container a user namespace that maps `length` ids from `host_start`.
    #[must_use]
    pub fn user_namespace(self, host_start: u32, length: u32) -> Self {
        let map = json!([{"containerID": 0, "hostID": host_start, "size": length}]);
        self.namespace("user", None)
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// Changes the root filesystem.
    #[must_use]
    pub fn rootfs_edit(self, change: impl FnOnce(&Path)) -> Self {
        change(&self.rootfs());
        self
    }

    /// Returns the directory of the bundle.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Returns the directory of its root filesystem.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.scratch.join("rootfs")
    }

    /// Returns `config.json` as it is now.
    #[must_use]
    pub fn spec(&self) -> &Value {
        &self.spec
    }

    /// Replaces `config.json` by bytes that need not be JSON.
    #[must_use]
    pub fn raw_config(self, bytes: impl AsRef<[u8]>) -> Self {
        let _ = self.scratch.file("config.json", bytes);
        self
    }

    fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.spec).expect("serialize config.json");
        let _ = self.scratch.file("config.json", text);
    }
}

/// Fills a directory with what a container of the tests needs: the probe, busybox, `/etc`.
///
/// # Panics
/// If busybox is not installed or the disk is full.
pub fn fill_rootfs(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "root", "var"] {
        fs::create_dir_all(root.join(directory)).expect("make a directory");
    }
    let busybox = programs::installed("busybox").expect("busybox-static is not installed");
    // As `write_program` does.
    let copy = "cp \"$0\" \"$2/bin/busybox\" && cp \"$1\" \"$2/probe\"";
    let mut copy_both = Command::new("sh");
    copy_both.args(["-c", copy]).arg(busybox).arg(programs::ours("keg-probe")).arg(root);
    assert!(copy_both.status().is_ok_and(|status| status.success()), "copy busybox and the probe");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
    }
    fs::write(root.join("etc/passwd"), PASSWD).expect("write /etc/passwd");
    fs::write(root.join("etc/group"), GROUP).expect("write /etc/group");
}

fn default_spec() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "keg",
        "mounts": default_mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

fn default_mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!([
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        ),
    ])
}
