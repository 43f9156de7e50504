//! Images against the peers: pull, load, save, push, removal, from a registry on this machine.
//!
//! ```text
//! docker-registry ─┬─ this network namespace: keg, podman, ctr, skopeo, curl
//!   (one directory) └─ dockerd's own:          docker
//! ```
//!
//! The images hold the same files of this machine's `/usr/lib`, in many layers and in a single one. No two
//! layers are alike: an engine that knows a layer in another compression fetches nothing. What a daemon
//! does is measured with its client: its processor time is added, and its peak memory is that of the run. The *floor* of a pull is `curl | pigz -d | tar -x` for each layer; skopeo stores
//! layers as they come and unpacks none.
//!
//! What is pushed goes to a registry of its own that is emptied each time, so that nothing is there
//! already and nothing can be mounted.
//!
//! `KEG_BENCH_IMAGE_MIB`, `KEG_BENCH_FILES` and `KEG_BENCH_BLOBS` make it smaller, to see that it works.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{
    Containerd, Daemon, Dockerd, Image, Layer, Outcome, Registry, Scratch, Tree, programs,
};
use nix::unistd::Pid;

use crate::machine::{self, Machine};
use crate::report::{self, BenchResult, Comparison};
use crate::runner::{self, Figures, Sample, Side};

/// Bytes of the images, unpacked, in MiB.
const CONTENT_MIB: usize = 320;

/// Layers of the image of many.
const LAYERS: usize = 40;

/// Files of the image of many.
const FILES: usize = 100_000;

/// Blobs that a collection finds.
const BLOBS: usize = 10_000;

/// How long a peer may take to bring an image or to remove one, on a busy disk.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// Measures the group.
///
/// # Errors
/// If our programs or a peer's are missing, or a run fails.
pub(crate) fn measure(rounds: usize) -> anyhow::Result<BenchResult> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the images group starts daemons as root: run it as root");
    }
    let scratch = Scratch::new();
    let registry = Registry::new();
    eprintln!("making the images");
    let content_mib = size("KEG_BENCH_IMAGE_MIB", CONTENT_MIB);
    let content = Content::collect(Path::new("/usr/lib"), (content_mib as u64) << 20)?;
    let many = push(&registry, &content.image(LAYERS, "many")?, "bench/many:1", "gzip", &scratch)?;
    let [gzip, zstd] = ["gzip", "zstd"].map(|compression| -> anyhow::Result<String> {
        let name = format!("bench/{compression}:1");
        push(&registry, &content.image(1, compression)?, &name, compression, &scratch)
    });
    let (gzip, zstd) = (gzip?, zstd?);
    drop(content);
    let count = size("KEG_BENCH_FILES", FILES);
    let files = push(&registry, &of_many_files(count), "bench/files:1", "gzip", &scratch)?;

    let target = Registry::new();
    let peers = Peers::start(&registry, &target, &scratch)?;
    let mut comparisons = Vec::new();
    let pulls = [
        (format!("pull, {LAYERS} layers"), &many, true),
        ("pull, one layer, gzip".to_owned(), &gzip, true),
        ("pull, one layer, zstd".to_owned(), &zstd, false),
        (format!("pull, {count} files"), &files, true),
    ];
    for (task, image, docker_can) in pulls {
        eprintln!("{task}");
        let figures = peers.pull(image, docker_can, rounds)?;
        peers.forget(image);
        comparisons.push(Comparison { task, figures });
    }
    for (task, figures) in peers.archives(&many, rounds)? {
        comparisons.push(Comparison { task: task.into(), figures });
    }
    eprintln!("push");
    comparisons.push(Comparison {
        task: format!("push, {LAYERS} layers"),
        figures: peers.push(&many, rounds)?,
    });
    eprintln!("removal");
    comparisons.push(Comparison { task: "removal".into(), figures: peers.remove(&many, rounds)? });
    eprintln!("collection");
    let blobs = size("KEG_BENCH_BLOBS", BLOBS);
    let figures = peers.collect(blobs, rounds)?;
    comparisons.push(Comparison { task: format!("collection of {blobs} blobs"), figures });
    Ok(BenchResult {
        group: "images".into(),
        date: report::today()?,
        machine: Machine::here(),
        versions: peers.versions(),
        setting: format!(
            "An image of {content_mib} MiB, from a registry on the same machine; daemons measured with \
             their clients"
        ),
        measures: Vec::new(),
        comparisons,
    })
}

/// Returns a number that the environment may lower.
fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Files of this machine, to make layers of.
struct Content {
    files: Vec<(String, Vec<u8>)>,
}

impl Content {
    /// Reads regular files, largest directories first come, until there are enough bytes.
    fn collect(root: &Path, wanted_bytes: u64) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let mut bytes = 0;
        let mut pending = vec![root.to_owned()];
        while let Some(directory) = pending.pop() {
            let mut entries: Vec<_> = fs::read_dir(&directory)?
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .collect();
            entries.sort();
            for path in entries {
                let metadata = fs::symlink_metadata(&path)?;
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_file() && metadata.len() < 16 << 20 && bytes < wanted_bytes {
                    let Ok(content) = fs::read(&path) else { continue };
                    bytes += content.len() as u64;
                    files.push((format!("f/{:02}/{}", files.len() % 100, files.len()), content));
                }
            }
        }
        if bytes < wanted_bytes {
            bail!("{} holds too little to make an image of", root.display());
        }
        Ok(Self { files })
    }

    /// Makes an image of so many layers, none of which is in an image of another name.
    fn image(&self, layers: usize, name: &str) -> anyhow::Result<Image> {
        let mark = |layer: usize| format!("{name} {layer}");
        let mut all: Vec<Layer> =
            (0..layers).map(|layer| Layer::new().file("mark", 0o644, mark(layer))).collect();
        for (index, (name, content)) in self.files.iter().enumerate() {
            let place = index % layers;
            let layer = std::mem::take(&mut all[place]);
            all[place] = layer.file(name, 0o644, content);
        }
        Ok(Image::new(all, &serde_json::json!({"Cmd": ["true"]})))
    }
}

/// Makes an image of one layer with so many small files.
fn of_many_files(count: usize) -> Image {
    let layer = (0..count).fold(Layer::new(), |layer, number| {
        layer.file(&format!("f/{:03}/{number}", number % 500), 0o644, number.to_string())
    });
    Image::new(vec![layer], &serde_json::json!({"Cmd": ["true"]}))
}

/// Pushes an image with its layers compressed by a program that people use; returns its name.
fn push(
    registry: &Registry,
    image: &Image,
    name: &str,
    compression: &str,
    scratch: &Scratch,
) -> anyhow::Result<String> {
    let layout = scratch.directory("layout");
    image.write_layout(&layout, "it");
    let reference = format!("{}/{name}", registry.address());
    let mut skopeo = Command::new(installed("skopeo")?);
    skopeo
        .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
        .args(["--dest-compress", "--dest-compress-format", compression])
        .arg("--dest-force-compress-format")
        .arg(format!("oci:{}:it", layout.display()))
        .arg(format!("docker://{reference}"));
    let mut outcome = Outcome::of(&mut skopeo, LONG_PATIENCE);
    if outcome.exit_code != 0 {
        // skopeo of before 1.14 has no such option, and compresses what is not compressed.
        let arguments: Vec<_> = skopeo
            .get_args()
            .filter(|argument| *argument != "--dest-force-compress-format")
            .map(std::ffi::OsStr::to_owned)
            .collect();
        outcome = Outcome::of(Command::new(skopeo.get_program()).args(arguments), LONG_PATIENCE);
    }
    let _ = outcome.success();
    fs::remove_dir_all(layout)?;
    Ok(reference)
}

fn installed(name: &str) -> anyhow::Result<PathBuf> {
    programs::installed(name).with_context(|| format!("{name} is not installed"))
}

/// All sides, each on directories of its own.
struct Peers<'a> {
    keg: Daemon,
    docker: Dockerd,
    containerd: Containerd,
    /// Where images are pushed to.
    target: &'a Registry,
    /// End before the registries whose files they serve.
    _registries: [Tree; 2],
    scratch: &'a Scratch,
    counter: Cell<u32>,
}

impl<'a> Peers<'a> {
    fn start(
        registry: &Registry,
        target: &'a Registry,
        scratch: &'a Scratch,
    ) -> anyhow::Result<Self> {
        let docker = Dockerd::new();
        Ok(Self {
            _registries: [registry, target].map(|one| one.serve_in_network_of(docker.pid())),
            target,
            keg: Daemon::new().logging("info"),
            docker,
            containerd: Containerd::new(),
            scratch,
            counter: Cell::new(0),
        })
    }

    fn versions(&self) -> std::collections::BTreeMap<String, String> {
        let first_line = |outcome: Outcome| outcome.stdout.lines().next().unwrap_or("").to_owned();
        let of = |program: &str| {
            let program = programs::installed(program).unwrap_or_else(|| program.into());
            first_line(Outcome::of(Command::new(program).arg("--version"), PATIENCE))
        };
        [
            ("keg".to_owned(), first_line(self.keg.keg(["--version"]))),
            ("docker".to_owned(), of("dockerd")),
            ("podman".to_owned(), of("podman")),
            ("ctr".to_owned(), of("ctr")),
            ("skopeo".to_owned(), of("skopeo")),
        ]
        .into()
    }

    fn podman(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(installed("podman")?);
        command.args(["--storage-driver", "overlay", "--root"]).arg(self.scratch.join("podman"));
        command.arg("--runroot").arg(self.scratch.join("podman-run")).args(arguments);
        Ok(command)
    }

    fn with_keg(&self, arguments: &[&str]) -> anyhow::Result<Sample> {
        with_daemon(self.keg.pid(), &mut self.keg.keg_command(arguments))
    }

    fn with_docker(&self, arguments: &[&str]) -> anyhow::Result<Sample> {
        with_daemon(self.docker.pid(), &mut self.docker.docker_command(arguments))
    }

    fn with_ctr(&self, arguments: &[&str]) -> anyhow::Result<Sample> {
        with_daemon(self.containerd.pid(), &mut self.containerd.ctr_command(arguments))
    }

    /// Removes an image on all sides; one that is not there is none.
    fn forget(&self, image: &str) {
        let commands = [
            Ok(self.keg.keg_command(["rmi", "-f", image])),
            Ok(self.docker.docker_command(["rmi", "-f", image])),
            Ok(self.containerd.ctr_command(["image", "rm", "--sync", image])),
            self.podman(&["rmi", "-f", image]),
        ];
        for mut command in commands.into_iter().flatten() {
            let _ = Outcome::of(&mut command, LONG_PATIENCE);
        }
    }

    fn pull(&self, image: &str, docker_can: bool, rounds: usize) -> anyhow::Result<Vec<Figures>> {
        let floor = floor_script(image)?;
        let mut sides: Vec<Side<'_>> = vec![side("keg", || {
            self.forget(image);
            self.with_keg(&["pull", "-q", image])
        })];
        if docker_can {
            sides.push(side("docker", || {
                self.forget(image);
                self.with_docker(&["pull", "-q", image])
            }));
        }
        sides.push(side("podman", || {
            self.forget(image);
            runner::measure(&self.podman(&["pull", "-q", "--tls-verify=false", image])?, None)
        }));
        sides.push(side("ctr", || {
            self.forget(image);
            self.with_ctr(&["image", "pull", "--plain-http", image])
        }));
        sides.push(side("skopeo, no unpacking", || {
            let directory = self.fresh("skopeo");
            let mut skopeo = Command::new(installed("skopeo")?);
            skopeo.args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"]);
            skopeo.arg(format!("docker://{image}")).arg(format!("dir:{}", directory.display()));
            let sample = runner::measure(&skopeo, None)?;
            fs::remove_dir_all(directory)?;
            Ok(sample)
        }));
        sides.push(side("floor: curl, decompress, tar", || {
            let directory = self.fresh("floor");
            fs::create_dir_all(&directory)?;
            let mut shell = Command::new("bash");
            shell.args(["-euo", "pipefail", "-c", &floor]).arg(&directory);
            let sample = runner::measure(&shell, None)?;
            fs::remove_dir_all(directory)?;
            Ok(sample)
        }));
        runner::compare(&mut sides, rounds)
    }

    fn archives(
        &self,
        image: &str,
        rounds: usize,
    ) -> anyhow::Result<Vec<(&'static str, Vec<Figures>)>> {
        let _ = self.keg.keg(["pull", "-q", image]).success();
        let _ = self.docker.docker(["pull", "-q", image]).success();
        let _ = self.containerd.ctr(["image", "pull", "--plain-http", image]).success();
        let pulled = self.podman(&["pull", "-q", "--tls-verify=false", image]);
        let _ = Outcome::of(&mut pulled?, LONG_PATIENCE).success();
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let (keg, docker, podman, ctr) =
            (path("keg.tar"), path("docker.tar"), path("podman.tar"), path("ctr.tar"));
        eprintln!("save");
        let save = runner::compare(
            &mut [
                side("keg", || self.with_keg(&["save", "-o", &keg, image])),
                side("docker", || self.with_docker(&["save", "-o", &docker, image])),
                side("podman", || {
                    // It refuses to write over a file.
                    let _ = fs::remove_file(&podman);
                    runner::measure(&self.podman(&["save", "-q", "-o", &podman, image])?, None)
                }),
                side("ctr", || self.with_ctr(&["image", "export", &ctr, image])),
            ],
            rounds,
        )?;
        eprintln!("load");
        // All load the same archive: Docker's, which all of them read.
        let load = runner::compare(
            &mut [
                side("keg", || {
                    self.forget(image);
                    self.with_keg(&["load", "-q", "-i", &docker])
                }),
                side("docker", || {
                    self.forget(image);
                    self.with_docker(&["load", "-q", "-i", &docker])
                }),
                side("podman", || {
                    self.forget(image);
                    runner::measure(&self.podman(&["load", "-q", "-i", &docker])?, None)
                }),
            ],
            rounds,
        )?;
        Ok(vec![("save", save), ("load", load)])
    }

    fn push(&self, image: &str, rounds: usize) -> anyhow::Result<Vec<Figures>> {
        self.forget(image);
        let _ = self.keg.keg(["pull", "-q", image]).success();
        let _ = self.docker.docker(["pull", "-q", image]).success();
        let name = |side: &str| {
            self.target.clear();
            format!("{}/{side}:1", self.target.address())
        };
        let copied = |command: &mut Command| runner::measure(command, None);
        runner::compare(
            &mut [
                side("keg", || {
                    let name = name("keg");
                    let _ = self.keg.keg(["tag", image, &name]).success();
                    self.with_keg(&["push", "-q", &name])
                }),
                side("docker", || {
                    let name = name("docker");
                    let _ = self.docker.docker(["tag", image, &name]).success();
                    self.with_docker(&["push", "-q", &name])
                }),
                side("skopeo, registry to registry", || {
                    let mut skopeo = Command::new(installed("skopeo")?);
                    skopeo.args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"]);
                    skopeo.arg("--dest-tls-verify=false").arg(format!("docker://{image}"));
                    copied(skopeo.arg(format!("docker://{}", name("skopeo"))))
                }),
            ],
            rounds,
        )
    }

    fn remove(&self, image: &str, rounds: usize) -> anyhow::Result<Vec<Figures>> {
        let again = |side: &str| -> anyhow::Result<()> {
            match side {
                "keg" => drop(self.keg.keg(["pull", "-q", image]).success()),
                "docker" => drop(self.docker.docker(["pull", "-q", image]).success()),
                "ctr" => {
                    drop(self.containerd.ctr(["image", "pull", "--plain-http", image]).success());
                }
                _ => {
                    let mut pull = self.podman(&["pull", "-q", "--tls-verify=false", image])?;
                    drop(Outcome::of(&mut pull, LONG_PATIENCE).success());
                }
            }
            Ok(())
        };
        self.forget(image);
        runner::compare(
            &mut [
                side("keg", || {
                    again("keg")?;
                    let _ = self.keg.keg(["image", "prune", "-af"]);
                    again("keg")?;
                    self.with_keg(&["rmi", image])
                }),
                side("docker", || {
                    again("docker")?;
                    self.with_docker(&["rmi", "-f", image])
                }),
                side("podman", || {
                    again("podman")?;
                    runner::measure(&self.podman(&["rmi", image])?, None)
                }),
                side("ctr", || {
                    again("ctr")?;
                    self.with_ctr(&["image", "rm", "--sync", image])
                }),
            ],
            rounds,
        )
    }

    /// Loads an archive with blobs that no image needs, and measures their collection.
    fn collect(&self, blobs: usize, rounds: usize) -> anyhow::Result<Vec<Figures>> {
        let image = Image::new(vec![Layer::new().file("x", 0o644, "x")], &serde_json::json!({}));
        let layout = self.scratch.directory("blobs");
        image.write_layout(&layout, "keg.test/blobs:1");
        for number in 0..blobs {
            let blob = keg_fixtures::image::Blob::new("", number.to_string().into_bytes());
            fs::write(layout.join("blobs/sha256").join(blob.hex()), blob.bytes)?;
        }
        let layout = layout.display().to_string();
        runner::compare(
            &mut [side("keg", || {
                let _ = self.keg.keg_within(LONG_PATIENCE, ["load", "-q", "-i", &layout]).success();
                self.with_keg(&["image", "prune", "-af"])
            })],
            rounds,
        )
    }

    fn fresh(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}-{}", self.next()))
    }

    fn next(&self) -> u32 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }
}

fn side<'a>(name: &str, run: impl FnMut() -> anyhow::Result<Sample> + 'a) -> Side<'a> {
    Side::new(name, run)
}

/// A script that fetches and unpacks the layers of an image, one after the other as tar must, in the
/// directory that it is called by.
fn floor_script(image: &str) -> anyhow::Result<String> {
    let mut skopeo = Command::new(installed("skopeo")?);
    skopeo.args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{image}"));
    let manifest: serde_json::Value = Outcome::of(&mut skopeo, PATIENCE).success().json();
    let (registry, rest) = image.split_once('/').context("an image's registry")?;
    let repository = rest.split(':').next().unwrap_or(rest);
    let mut script = "cd \"$0\"\n".to_owned();
    for layer in manifest["layers"].as_array().context("layers")? {
        let digest = layer["digest"].as_str().context("a digest")?;
        let is_zstd = layer["mediaType"].as_str().is_some_and(|kind| kind.contains("zstd"));
        let decompress = if is_zstd { "zstd -dc" } else { "pigz -dc" };
        script += &format!(
            "curl -sf http://{registry}/v2/{repository}/blobs/{digest} | {decompress} | tar -x\n"
        );
    }
    Ok(script + "sync -f .\n")
}

/// Runs a client, and adds what its daemon spends meanwhile.
fn with_daemon(daemon: Pid, client: &mut Command) -> anyhow::Result<Sample> {
    let before = machine::cpu_of_tree(daemon)?;
    machine::forget_peak(daemon)?;
    let sample = runner::measure(client, None)?;
    let after = machine::cpu_of_tree(daemon)?;
    Ok(Sample {
        wall: sample.wall,
        cpu: sample.cpu + after.saturating_sub(before),
        peak_kib: machine::peak_kib_of(daemon)?,
    })
}
