//! Real Dockerfiles, built by Keg and by buildah from the same base: the same files and configuration.
//!
//! ```text
//! dockerfiles/NAME ─┬─ keg ─────▶ layers ─┐  on the base's entries: path → kind, mode, owner, content
//!                   └─ buildah ─▶ layers ─┴─▶ compared, and so are the configurations
//! ```
//!
//! `KEG_TEST_DOCKERFILES` names those to build, separated by commas, or is "all". It takes minutes, most of
//! them buildah's, so without it none is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Buildah, Daemon, Outcome, Scratch, debian, programs, requires};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How long a single build may take on a machine that does much else.
const PATIENT: Duration = Duration::from_secs(300);

/// What the engines put where a step runs, and what tells when it ran.
const LEFT_BY_ENGINES: [&str; 4] =
    ["etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"];

/// A name in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: char,
    /// Permissions; of links, which have none, 0.
    mode: u32,
    owner: (u64, u64),
    target: String,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    None,
    Digest(String),
    /// In the base's archive, from an offset on so many bytes.
    InBase(u64, u64),
}

/// Path → what is there.
type Files = BTreeMap<String, Entry>;

/// Puts a layer on top of files.
fn apply(files: &mut Files, layer: impl Read, is_base: bool) {
    let mut archive = tar::Archive::new(layer);
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(hidden) = name.strip_prefix(".wh.") {
            let hidden = if hidden == ".wh..opq" { "" } else { hidden };
            removed.push(format!("{directory}/{hidden}").trim_start_matches('/').to_owned());
            continue;
        }
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Fifo => 'p',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            _ => 'f',
        };
        let mode = if kind == 'l' { 0 } else { header.mode().unwrap() & 0o7777 };
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        let target = entry.link_name().unwrap().map(|target| target.display().to_string());
        let content = match kind {
            'f' if is_base => Content::InBase(entry.raw_file_position(), entry.size()),
            'f' => Content::Digest(digest(&mut entry)),
            _ => Content::None,
        };
        let target = target.unwrap_or_default();
        added.push((path, Entry { kind, mode, owner, target, content }));
    }
    for path in removed {
        files.retain(|other, _| {
            let below = if path.ends_with('/') || path.is_empty() {
                other.strip_prefix(&path)
            } else {
                other.strip_prefix(&path).filter(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            below.is_none()
        });
    }
    for (path, mut entry) in added {
        if path.is_empty() || path == "." {
            continue;
        }
        if entry.kind == 'h' {
            let target = entry.target.trim_start_matches("./").trim_start_matches('/');
            entry = files.get(target).unwrap_or_else(|| panic!("{path} links to {target}")).clone();
        }
        if entry.kind != 'd' && files.get(&path).is_some_and(|before| before.kind == 'd') {
            let below = format!("{path}/");
            files.retain(|other, _| !other.starts_with(&below));
        }
        files.insert(path, entry);
    }
}

fn digest(from: &mut impl Read) -> String {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a blob of an OCI layout, decompressed.
fn blob(layout: &Path, digest: &str) -> Box<dyn Read> {
    let file = File::open(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    let mut head = [0; 4];
    let mut file = file;
    let _ = file.read(&mut head).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(file).unwrap()),
        _ => Box::new(std::io::BufReader::new(file)),
    }
}

/// The files of an image: those of the base, if its lowest layer is the base's, and what is on top.
fn files_of(layout: &Path, manifest: &str, base: &Files, base_diff_id: &str) -> Files {
    let json = |digest: &str| -> Value { serde_json::from_reader(blob(layout, digest)).unwrap() };
    let manifest = json(manifest);
    let config = json(manifest["config"]["digest"].as_str().unwrap());
    let mut files = Files::new();
    let layers = manifest["layers"].as_array().unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(layers.len(), diff_ids.len());
    for (index, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        if index == 0 && diff_id == base_diff_id {
            files = base.clone();
        } else {
            apply(&mut files, blob(layout, layer["digest"].as_str().unwrap()), false);
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
    fn all(scratch: &Scratch) -> Vec<Self> {
        let wanted = std::env::var("KEG_TEST_DOCKERFILES").unwrap_or_default();
        let wanted: BTreeSet<&str> = wanted.split(',').collect();
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

    /// The same with buildah, which writes the image into a layout.
    fn by_buildah(&self, buildah: &Buildah, layout: &Path) -> (String, Value) {
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
        buildah.export(&tag, layout, &self.name);
        let index: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        let mine = json!(self.name);
        let found = manifests
            .iter()
            .find(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] == mine);
        let manifest = found.unwrap()["digest"].as_str().unwrap().to_owned();
        let told: Value = buildah.run(["inspect", "--type", "image", &tag]).json();
        (manifest, told["Docker"]["config"].clone())
    }
}

/// Tells how two images differ, a line each.
fn differences(ours: &Files, theirs: &Files, base: &Path) -> Vec<String> {
    let resolved = |content: &Content| match content {
        Content::InBase(offset, size) => {
            let mut file = File::open(base).unwrap();
            file.seek(SeekFrom::Start(*offset)).unwrap();
            Content::Digest(digest(&mut file.take(*size)))
        }
        other => other.clone(),
    };
    let mut lines = Vec::new();
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for path in paths.into_iter().filter(|path| !LEFT_BY_ENGINES.contains(&path.as_str())) {
        match (ours.get(path), theirs.get(path)) {
            (Some(ours), Some(theirs)) if ours == theirs => {}
            (Some(ours), Some(theirs)) => {
                let full =
                    |entry: &Entry| Entry { content: resolved(&entry.content), ..entry.clone() };
                if full(ours) != full(theirs) {
                    lines.push(format!("{path}: {ours:?}, and not {theirs:?}"));
                }
            }
            (ours, _) => {
                let where_ = if ours.is_some() { "Keg" } else { "buildah" };
                lines.push(format!("{path}: only with {where_}"));
            }
        }
    }
    lines
}

#[test]
fn real_dockerfiles_become_the_same_images_as_with_buildah() {
    requires!(root, dockerfiles_wanted, buildah, runc, skopeo, debian_base);
    let base = debian::base().unwrap();
    let scratch = Scratch::new();
    let cases = Case::all(&scratch);
    let (daemon, buildah) = (Daemon::new(), Buildah::new());
    let layout = buildah.scratch().path().join("images");

    let mut files = Files::new();
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| {
            let load = ["load", "-q", "-i", base.layout.to_str().unwrap()];
            let _ = daemon.keg_within(PATIENT, load).success();
            cases.iter().map(|case| case.by_keg(&daemon)).collect::<Vec<_>>()
        });
        let theirs = scope.spawn(|| {
            buildah.import_layout(&base.layout, "base", "base");
            cases.iter().map(|case| case.by_buildah(&buildah, &layout)).collect::<Vec<_>>()
        });
        apply(&mut files, File::open(&base.layer).unwrap(), true);
        (ours.join().unwrap(), theirs.join().unwrap())
    });

    let index: Value =
        serde_json::from_slice(&fs::read(base.layout.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_reader(blob(
        &base.layout,
        index["manifests"][0]["digest"].as_str().unwrap(),
    ))
    .unwrap();
    let diff_id = manifest["layers"][0]["digest"].as_str().unwrap();
    let content = daemon.root().join("content");
    let mut problems = Vec::new();
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        let our_files = files_of(&content, &ours.0, &files, diff_id);
        let their_files = files_of(&layout, &theirs.0, &files, diff_id);
        let name = &case.name;
        let lines = differences(&our_files, &their_files, &base.layer);
        problems.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
        let (mine, other) = (told(&ours.1), told(&theirs.1));
        if mine != other {
            problems.push(format!("{name}: configuration {mine:?}, and not {other:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(!cases.is_empty(), "KEG_TEST_DOCKERFILES names none that is there");
}
