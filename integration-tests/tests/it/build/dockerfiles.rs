//! Real Dockerfiles, built by Keg and by buildah from the same base: the same files and configuration.
//!
//! ```text
//! dockerfiles/NAME ─┬─ keg ─────▶ archives of layers ──────┐  on the base's entries: path → kind, mode,
//!                   └─ buildah ─▶ directories of layers ───┴─▶ owner, content; and the configurations
//! ```
//!
//! Those that need no more than busybox are built each time. `KEG_TEST_DOCKERFILES` names others,
//! separated by commas, or is "all"; they are built on a Debian, which takes minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keg_fixtures::debian::{self, DebianBase};
use keg_fixtures::image::Layer;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Buildah, Daemon, Image, Outcome, Scratch, programs, requires};
use serde_json::{Value, json};

use super::image_files::ImageFiles;

/// How long a single build may take on a machine that does much else.
const PATIENT: Duration = Duration::from_secs(300);

/// What the engines put where a step runs, and what tells when it ran.
const LEFT_BY_ENGINES: [&str; 4] =
    ["etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"];

/// Those that need no more than busybox.
const SMALL: [&str; 5] = ["archives", "arguments", "monorepo", "onbuild", "redis-cache"];

/// What busybox is called in their base.
const APPLETS: [&str; 20] = [
    "sh", "cat", "echo", "test", "[", "ls", "mkdir", "rm", "ln", "touch", "chmod", "chown", "sed",
    "printf", "sort", "find", "wc", "head", "env", "true",
];

/// Reads a blob of a content store, decompressed.
fn blob(store: &Path, digest: &str) -> Box<dyn Read> {
    let mut file = File::open(store.join("blobs").join(digest.replace(':', "/"))).unwrap();
    let mut head = [0; 4];
    let _ = file.read(&mut head).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(file).unwrap()),
        _ => Box::new(std::io::BufReader::new(file)),
    }
}

/// The files of an image of ours: those of the base, if its lowest layer is the base's, and what is on top.
fn our_files(store: &Path, manifest: &str, base: &ImageFiles, base_diff_id: &str) -> ImageFiles {
    let json = |digest: &str| -> Value { serde_json::from_reader(blob(store, digest)).unwrap() };
    let manifest = json(manifest);
    let config = json(manifest["config"]["digest"].as_str().unwrap());
    let layers = manifest["layers"].as_array().unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(layers.len(), diff_ids.len());
    let mut files = ImageFiles::default();
    for (index, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        if index == 0 && diff_id == base_diff_id {
            files = base.clone();
        } else {
            files.add_layer(blob(store, layer["digest"].as_str().unwrap()));
        }
    }
    files
}

/// The files of an image of buildah's, by the directories of its layers and of the base's.
fn their_files(layers: &[PathBuf], base: &ImageFiles, base_layer: &Path) -> ImageFiles {
    let mut files = ImageFiles::default();
    for (index, layer) in layers.iter().enumerate() {
        if index == 0 && layer == base_layer {
            files = base.clone();
        } else {
            files.add_directory(layer);
        }
    }
    files
}

/// What a container of the image would be told, without what says nothing.
fn told(config: &Value) -> BTreeMap<String, Value> {
    let keys = [
        "Env",
        "Cmd",
        "Entrypoint",
        "User",
        "WorkingDir",
        "ExposedPorts",
        "Volumes",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ];
    let mut told = BTreeMap::new();
    for key in keys {
        let mut value = config[key].clone();
        match (key, &mut value) {
            ("Env", Value::Array(list)) => list.sort_by_key(ToString::to_string),
            ("Labels", Value::Object(labels)) => {
                let _ = labels.remove("io.buildah.version");
            }
            ("WorkingDir", Value::String(text)) if text.is_empty() => *text = "/".to_owned(),
            _ => {}
        }
        let is_empty = match &value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
            Value::String(text) => text.is_empty() || (key == "WorkingDir" && text == "/"),
            _ => false,
        };
        if !is_empty {
            told.insert(key.to_owned(), value);
        }
    }
    told
}

/// A Dockerfile, its context copied so that archives can be made in it.
struct Case {
    name: String,
    context: PathBuf,
}

impl Case {
    /// Copies those that are wanted, by their names.
    fn of(wanted: &BTreeSet<&str>, scratch: &Scratch) -> Vec<Self> {
        let home = programs::source_tree().join("integration-tests/dockerfiles");
        let mut cases = Vec::new();
        for entry in fs::read_dir(home).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if !entry.path().is_dir() || !(wanted.contains("all") || wanted.contains(&*name)) {
                continue;
            }
            let context = scratch.path().join("contexts").join(&name);
            fs::create_dir_all(context.parent().unwrap()).unwrap();
            let mut copy = Command::new("cp");
            let _ = Outcome::of(copy.arg("-r").arg(entry.path()).arg(&context), PATIENCE).success();
            // Whatever the one who checked it out has for a umask.
            let mut modes = Command::new("chmod");
            let _ =
                Outcome::of(modes.args(["-R", "u=rwX,go=rX"]).arg(&context), PATIENCE).success();
            let script = context.join("make-archives");
            if script.exists() {
                let mut script = Command::new(script);
                let _ = Outcome::of(script.current_dir(&context), PATIENCE).success();
            }
            cases.push(Self { name, context });
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    fn file(&self, name: &str) -> Option<String> {
        let path = self.context.join(name);
        path.exists().then(|| path.display().to_string())
    }

    fn target(&self) -> Vec<String> {
        let target = fs::read_to_string(self.context.join("target")).unwrap_or_default();
        if target.is_empty() { Vec::new() } else { vec![format!("--target={}", target.trim())] }
    }

    /// Builds with Keg; returns the manifest's digest and the configuration.
    fn by_keg(&self, daemon: &Daemon) -> (String, Value) {
        let mut base = debian::NAME.to_owned();
        let build = |base: &str, file: &str, tag: &str, target: &[String]| {
            let metadata = daemon.scratch().join(format!("{}.json", self.name));
            let arg = format!("BASE={base}");
            let mut command = daemon.keg_command(["build", "--progress", "plain", "-t", tag]);
            command.args(["--build-arg", &arg, "--metadata-file"]).arg(&metadata);
            command.args(["-f", file]).args(target).arg(&self.context);
            let _ = Outcome::of(&mut command, PATIENT).success();
            let value: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
            value["containerimage.digest"].as_str().unwrap().to_owned()
        };
        if let Some(parent) = self.file("Dockerfile.parent") {
            base = format!("{}-parent:1", self.name);
            let _ = build(debian::NAME, &parent, &base, &[]);
        }
        let file = self.file("Dockerfile").unwrap();
        let manifest = build(&base, &file, &self.name, &self.target());
        (manifest, daemon.inspect(&self.name)["Config"].clone())
    }

    /// The same with buildah; returns the directories of the image's layers and the configuration.
    fn by_buildah(&self, buildah: &Buildah) -> (Vec<PathBuf>, Value) {
        let mut base = "localhost/base".to_owned();
        let build = |base: &str, file: &str, tag: &str, target: &[String]| {
            let arg = format!("BASE={base}");
            let mut command = buildah.command(["build", "-q", "--format", "docker", "-t", tag]);
            command.args(["--network", "none", "--build-arg", &arg, "-f", file]);
            let _ = Outcome::of(command.args(target).arg(&self.context), PATIENT).success();
        };
        if let Some(parent) = self.file("Dockerfile.parent") {
            base = format!("localhost/{}-parent", self.name);
            build("localhost/base", &parent, &base, &[]);
        }
        let file = self.file("Dockerfile.peer").or_else(|| self.file("Dockerfile")).unwrap();
        let tag = format!("localhost/{}", self.name);
        build(&base, &file, &tag, &self.target());
        let told: Value = buildah.run(["inspect", "--type", "image", &tag]).json();
        (buildah.layers(&tag), told["Docker"]["config"].clone())
    }
}

/// Builds all with both, and tells how they differ, a line each.
fn problems(cases: &[Case], base: &DebianBase) -> Vec<String> {
    let (daemon, buildah) = (Daemon::new(), Buildah::new());
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| {
            let load = ["load", "-q", "-i", base.layout.to_str().unwrap()];
            let _ = daemon.keg_within(PATIENT, load).success();
            cases.iter().map(|case| case.by_keg(&daemon)).collect::<Vec<_>>()
        });
        buildah.import_layout(&base.layout, "base", "base");
        let theirs: Vec<_> = cases.iter().map(|case| case.by_buildah(&buildah)).collect();
        (ours.join().unwrap(), theirs)
    });

    let files = ImageFiles::of_base(&base.layer);
    let base_layer = buildah.layers("localhost/base").remove(0);
    let diff_id = format!("sha256:{}", base_layer.parent().unwrap().file_name().unwrap().display());
    let store = daemon.root().join("content");
    let mut problems = Vec::new();
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        let mine = our_files(&store, &ours.0, &files, &diff_id);
        let other = their_files(&theirs.0, &files, &base_layer);
        let lines = mine.differences(&other, &base.layer, &LEFT_BY_ENGINES);
        problems.extend(lines.into_iter().map(|line| format!("{}: {line}", case.name)));
        let (mine, other) = (told(&ours.1), told(&theirs.1));
        if mine != other {
            problems.push(format!("{}: configuration {mine:?}, and not {other:?}", case.name));
        }
    }
    problems
}

/// Makes a base of busybox, with Debian's names for some users.
fn small_base(scratch: &Scratch) -> DebianBase {
    let busybox = fs::read(programs::installed("busybox").unwrap()).unwrap();
    let users = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/bin/sh\n";
    let groups = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";
    let mut layer = Layer::new().uncompressed();
    for directory in ["bin/", "dev/", "etc/", "proc/", "run/", "sys/", "usr/", "usr/local/"] {
        layer = layer.directory(directory, 0o755);
    }
    layer = layer.directory("tmp/", 0o1777).file("bin/busybox", 0o755, busybox);
    layer = layer.file("etc/passwd", 0o644, users).file("etc/group", 0o644, groups);
    for applet in APPLETS {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    let config = json!({"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["sh"]});
    let image = Image::new(vec![layer], &config).with_history();
    let base =
        DebianBase { layout: scratch.directory("base"), layer: scratch.path().join("layer.tar") };
    fs::write(&base.layer, &image.layers[0].bytes).unwrap();
    image.write_layout(&base.layout, "base");
    let index = base.layout.join("index.json");
    let mut named: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    named["manifests"][0]["annotations"]["io.containerd.image.name"] = json!(debian::NAME);
    fs::write(index, named.to_string()).unwrap();
    base
}

#[test]
fn small_dockerfiles_become_the_same_images_as_with_buildah() {
    requires!(root, buildah, runc, skopeo);
    let scratch = Scratch::new();
    let cases = Case::of(&SMALL.into(), &scratch);

    let problems = problems(&cases, &small_base(&scratch));

    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(cases.len(), SMALL.len());
}

#[test]
fn real_dockerfiles_become_the_same_images_as_with_buildah() {
    requires!(root, dockerfiles_wanted, buildah, runc, skopeo, debian_base);
    let wanted = std::env::var("KEG_TEST_DOCKERFILES").unwrap_or_default();
    let scratch = Scratch::new();
    let cases = Case::of(&wanted.split(',').collect(), &scratch);

    let problems = problems(&cases, &debian::base().unwrap());

    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(!cases.is_empty(), "KEG_TEST_DOCKERFILES names none that is there");
}
