//! `keg build` with its flags: where the result goes, what steps are given, what is shown.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Registry, requires};
use serde_json::{Value, json};

use super::Project;

const FILE: &str = "FROM BASE AS made
RUN mkdir /out && echo text > /out/file && chmod 640 /out/file && ln -s file /out/link
FROM scratch
COPY --from=made --chown=7:8 /out /
";

/// Name → content of the regular files of an archive.
fn files_of(archive: impl Read) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if entry.header().entry_type().is_file() {
            found.insert(name.trim_start_matches("./").to_owned(), content);
        }
    }
    found
}

#[test]
fn a_result_becomes_files_in_a_directory_or_an_archive() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", FILE)]);
    let place = |name: &str| project.scratch.path().join(name).display().to_string();
    let context = project.path("").display().to_string();
    let build = |output: &str| project.daemon.keg(["build", "-o", output, &context]).success();

    let _ = build(&place("plain"));
    let _ = build(&format!("type=local,dest={}", place("local")));
    for directory in ["plain", "local"] {
        let file = fs::metadata(format!("{}/file", place(directory))).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o640, 7, 8), "{directory}");
        let link = fs::read_link(format!("{}/link", place(directory))).unwrap();
        assert_eq!(link.to_str(), Some("file"));
    }
    let _ = build(&format!("type=tar,dest={}", place("files.tar")));
    let files = files_of(fs::File::open(place("files.tar")).unwrap());
    assert_eq!(files.get("file").map(Vec::as_slice), Some(&b"text\n"[..]));
    let piped = project.daemon.keg(["build", "-q", "-o", "-", &context]).success().stdout;
    assert!(files_of(piped.as_bytes()).contains_key("file"));
    let images = project.daemon.keg(["images", "-q"]).success().stdout;
    assert_eq!(images.lines().count(), 1, "the base alone: {images}");
}

#[test]
fn an_image_becomes_an_archive_that_loads_or_goes_to_a_registry() {
    requires!(root, registry);
    let project = Project::new(&[("Dockerfile", FILE)]);
    let registry = Registry::new();
    let place = |name: &str| project.scratch.path().join(name).display().to_string();
    let context = project.path("").display().to_string();
    let build = |args: &[&str]| {
        let mut all = vec!["build"];
        all.extend(args);
        all.push(&context);
        project.daemon.keg(all).success()
    };
    let id_of = |name: &str| project.daemon.inspect(name)["Id"].clone();

    let oci = place("oci.tar");
    let _ = build(&["-t", "one:1", "-o", &format!("type=oci,dest={oci}")]);
    let docker = place("docker.tar");
    let _ = build(&["-t", "one:1", "-o", &format!("type=docker,dest={docker}")]);
    let id = id_of("one:1");
    for archive in [&oci, &docker] {
        let names = files_of(fs::File::open(archive).unwrap());
        assert!(names.contains_key("index.json"), "{archive}: {:?}", names.keys());
        assert!(names.contains_key("manifest.json"), "{archive}: {:?}", names.keys());
        let _ = project.daemon.keg(["rmi", "one:1"]).success();
        let _ = project.daemon.keg(["load", "-i", archive]).success();
        assert_eq!(id_of("one:1"), id);
    }
    let layout = place("layout");
    let _ = build(&["-o", &format!("type=oci,dest={layout},tar=false")]);
    assert!(fs::exists(format!("{layout}/oci-layout")).unwrap());

    let name = |tag: &str| format!("{}/app:{tag}", registry.address());
    let _ = build(&["-o", &format!("type=image,name={},push=true", name("a"))]);
    let _ = build(&["-o", &format!("type=registry,\"name={},{}\"", name("b"), name("c"))]);
    let _ = build(&["-t", &name("d"), "--push"]);
    for tag in ["a", "b", "c", "d"] {
        let _ = project.daemon.keg(["rmi", &name(tag)]).success();
        let _ = project.daemon.keg(["pull", "-q", &name(tag)]).success();
        assert_eq!(id_of(&name(tag)), id, "{tag}");
    }
    let refused = project.daemon.keg(["build", "-o", "type=registry", &context]);
    assert!(refused.stderr.contains("name"), "{}", refused.stderr);
}

#[test]
fn the_results_names_are_written_where_they_were_asked_for() {
    requires!(root);
    let project = Project::new(&[("Dockerfile", FILE)]);
    let place = |name: &str| project.scratch.path().join(name).display().to_string();
    let (iid, metadata) = (place("iid"), place("metadata.json"));

    let _ =
        project.build(&["--iidfile", &iid, "--metadata-file", &metadata, "-t", "b:2"]).success();
    let context = project.path("").display().to_string();
    let quiet = project.daemon.keg(["build", "-q", &context]).success();

    assert_eq!(fs::read_to_string(&iid).unwrap(), project.id());
    assert_eq!(quiet.stdout.trim(), project.id());
    assert_eq!(quiet.stderr, "");
    let value: Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(value["containerimage.config.digest"], project.id());
    assert_eq!(value["image.name"], "built,b:2");
    let target = &value["containerimage.descriptor"];
    assert_eq!(target["digest"], value["containerimage.digest"]);
    assert!(target["size"].as_u64().unwrap() > 0 && target["mediaType"].is_string(), "{value}");
    assert!(value["keg.materials"][&project.base].is_string(), "{value}");
}

#[test]
fn steps_get_hosts_limits_memory_and_networks_as_asked() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE
RUN cat /etc/hosts > /hosts; ulimit -n > /files; hostname > /name
RUN stat -f -c %b*%S /dev/shm > /shm; ls /sys/class/net > /net
",
    )]);
    let flags = [
        "--add-host=db:10.1.2.3",
        "--add-host=six=[::1]",
        "--ulimit=nofile=345:678",
        "--shm-size=3m",
        "--network=none",
        "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=sandy",
    ];

    let _ = project.build(&flags).success();
    let first = project.id();
    let hosts = project.run("cat /hosts");
    assert!(hosts.contains("10.1.2.3\tdb") && hosts.contains("::1\tsix"), "{hosts}");
    assert_eq!(project.run("cat /files /name /net"), "345\nsandy\nlo\n");
    let shm = project.run("cat /shm");
    let bytes: u64 = shm.trim().split('*').map(|part| part.parse::<u64>().unwrap()).product();
    assert_eq!(bytes, 3 << 20, "{shm}");

    // What a step was given is a part of what its result depends on.
    let mut other = flags;
    other[0] = "--add-host=db:10.9.9.9";
    let _ = project.build(&other).success();
    assert!(project.run("cat /hosts").contains("10.9.9.9"));
    let _ = project.build(&flags).success();
    assert_eq!(project.id(), first);
    for bad in ["--add-host=db", "--ulimit=nofile=x", "--shm-size=big", "--network=some"] {
        assert_ne!(project.build(&[bad]).exit_code, 0, "{bad}");
    }
}

#[test]
fn the_cache_of_single_stages_can_be_left_out() {
    requires!(root);
    let project = Project::new(&[(
        "Dockerfile",
        "FROM BASE AS one
RUN cat /proc/sys/kernel/random/uuid > /one
FROM BASE AS two
RUN cat /proc/sys/kernel/random/uuid > /two
FROM BASE
COPY --from=one /one /one
COPY --from=two /two /two
",
    )]);
    let built = |args: &[&str]| {
        let _ = project.build(args).success();
        [project.run("cat /one"), project.run("cat /two")]
    };

    let first = built(&[]);
    let second = built(&["--no-cache-filter", "two"]);
    let third = built(&["--no-cache-filter", "ONE,two"]);

    assert_eq!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
    assert!(second[0] != third[0] && second[1] != third[1]);
    let target = project.build(&["--target", "one", "--no-cache"]).success();
    assert!(!target.stderr.contains("/two"), "{}", target.stderr);
    let refused = project.build(&["--target", "three"]);
    assert!(refused.stderr.contains("\"three\""), "{}", refused.stderr);
}

#[test]
fn progress_is_for_people_on_a_terminal_and_for_programs_as_json() {
    requires!(root);
    let project =
        Project::new(&[("Dockerfile", "FROM BASE\nRUN echo visible words; echo warned >&2\n")]);
    let context = project.path("").display().to_string();

    let raw = project.daemon.keg(["build", "--progress", "rawjson", &context]).success();
    let messages: Vec<Value> =
        raw.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let all = |kind: &str| -> Vec<Value> {
        let lists = messages.iter().filter_map(|message| message[kind].as_array());
        lists.flatten().cloned().collect()
    };
    let ended = all("vertexes").into_iter().find(|vertex| {
        vertex["name"].as_str().unwrap().contains("RUN echo") && vertex["completed"].is_string()
    });
    let ended = ended.unwrap();
    assert!(ended["started"].is_string() && ended["cached"] == json!(false), "{ended}");
    assert!(ended["digest"].as_str().unwrap().starts_with("sha256:"), "{ended}");
    let of_step: Vec<Value> =
        all("logs").into_iter().filter(|log| log["vertex"] == ended["digest"]).collect();
    // "visible words" and "warned", each with its line feed.
    let has = |data: &str, stream: i64| {
        of_step.iter().any(|log| log["data"] == data && log["stream"] == stream)
    };
    assert!(has("dmlzaWJsZSB3b3Jkcwo=", 1) && has("d2FybmVkCg==", 2), "{of_step:?}");

    let args = ["build", "--no-cache", "--progress", "tty", &context];
    let mut terminal = project.daemon.keg_on_terminal(args);
    terminal.expect(" => [2/2] RUN echo visible words; echo warned >&2");
    terminal.expect(" => exporting to image");
    assert_eq!(terminal.wait_exit(PATIENCE), 0, "{}", terminal.text());
    project.write("Dockerfile", "FROM BASE\nRUN echo last words; exit 3\n");
    let mut terminal = project.daemon.keg_on_terminal(["build", &context]);
    terminal.expect(" last words");
    terminal.expect(">>> RUN echo last words");
    assert_eq!(terminal.wait_exit(PATIENCE), 1);
}

/// Removes the empty control groups of a name from all hierarchies; returns how many there were.
fn remove_cgroups(name: &str) -> usize {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| Path::new(place).join(name))
    });
    hierarchies.filter(|group| group.is_dir()).map(|group| fs::remove_dir(group).unwrap()).count()
}

#[test]
fn steps_are_limited_as_the_flags_say() {
    requires!(root);
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
    let file = format!(
        "FROM BASE\nRUN {{ {limit}; }} > /limit\n\
         RUN grep Cpus_allowed_list /proc/self/status > /cpus\n"
    );
    let project = Project::new(&[("Dockerfile", &file)]);
    let parent = format!("keg-test-{}", std::process::id());
    let flags = ["-m", "64m", "--memory-swap", "64m", "--cpuset-cpus", "0", "-c", "512"];
    let time = ["--cpu-period", "50000", "--cpu-quota", "25000", "--cgroup-parent", &parent];
    let build = |args: &[&str]| project.build(args);

    let _ = build(&[&flags[..], &time].concat()).success();

    let told = project.run("cat /limit /cpus");
    assert_eq!(
        told.split_whitespace().collect::<Vec<_>>(),
        ["67108864", "Cpus_allowed_list:", "0"]
    );
    // What limits a step is no part of what it makes.
    let again = build(&[]).success();
    assert_eq!(again.stderr.matches("CACHED").count(), 3, "{}", again.stderr);
    assert!(remove_cgroups(&parent) > 0, "none was made below {parent}");
    let refused = build(&["-m", "1k", "--no-cache"]);
    assert!(refused.stderr.contains("6 MiB"), "{refused:?}");
    let refused = build(&["--cgroup-parent", "../up", "--no-cache"]);
    assert!(refused.stderr.contains("cgroup-parent"), "{refused:?}");
}
