//! Redis, as Debian has it, with data in it: what a commit, a save or an export keeps.

use std::process::Stdio;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Outcome, RootArchive, requires, wait_until};
use serde_json::{Value, json};

/// The image's configuration, change by change.
const CHANGES: [&str; 8] = [
    r#"ENTRYPOINT ["/usr/bin/redis-server"]"#,
    r#"CMD ["--dir", "/data", "--save", "", "--appendonly", "no"]"#,
    r#"ENV KEPT="by redis""#,
    "USER redis",
    "EXPOSE 6379/tcp",
    "VOLUME /spare",
    "WORKDIR /data",
    "LABEL org.example.story=redis",
];

fn import_redis(daemon: &Daemon) {
    let archive = daemon.scratch().join("redis.tar");
    RootArchive::new(&archive)
        .program("redis-server")
        .program("redis-cli")
        .text("etc/passwd", "root:x:0:0::/:/\nredis:x:999:999::/data:/\n")
        .text("etc/group", "root:x:0:\nredis:x:999:\n")
        .directory("data", 0o750, 999)
        .directory("spare", 0o755, 999)
        .finish();
    let mut arguments = vec!["import"];
    arguments.extend(CHANGES.iter().flat_map(|change| ["-c", change]));
    arguments.extend([archive.to_str().unwrap(), "redis:1"]);
    let _ = daemon.keg(arguments).success();
}

/// Asks the server in a container.
#[track_caller]
fn redis(daemon: &Daemon, container: &str, question: &[&str]) -> String {
    let client = ["exec", container, "/usr/bin/redis-cli"];
    daemon.keg(client.iter().chain(question)).success().stdout.trim().to_owned()
}

#[track_caller]
fn start_redis(daemon: &Daemon, name: &str, flags: &[&str], image: &str) {
    let _ = daemon.run_detached(["--name", name].iter().chain(flags).chain(&[image]));
    wait_until("Redis answers", PATIENCE, || {
        daemon.keg(["exec", name, "/usr/bin/redis-cli", "ping"]).stdout == "PONG\n"
    });
}

/// Starts Redis and has it write what it was told into its file.
#[track_caller]
fn redis_with_data(daemon: &Daemon, flags: &[&str]) {
    import_redis(daemon);
    start_redis(daemon, "first", flags, "redis:1");
    assert_eq!(redis(daemon, "first", &["set", "story", "kept"]), "OK");
    assert_eq!(redis(daemon, "first", &["rpush", "list", "a", "b", "c"]), "3");
    assert_eq!(redis(daemon, "first", &["save"]), "OK");
}

#[track_caller]
fn assert_data(daemon: &Daemon, container: &str) {
    assert_eq!(redis(daemon, container, &["get", "story"]), "kept");
    assert_eq!(redis(daemon, container, &["lrange", "list", "0", "-1"]), "a\nb\nc");
}

/// What an image says of the containers to be made of it.
fn config(daemon: &Daemon, image: &str) -> Value {
    let list: Value = daemon.keg(["image", "inspect", image]).success().json();
    let config = &list[0]["Config"];
    let keys = ["Entrypoint", "Cmd", "User", "ExposedPorts", "Volumes", "WorkingDir", "Labels"];
    let mut kept: serde_json::Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), config[key].clone())).collect();
    let env = config["Env"].as_array().unwrap().iter();
    let own: Vec<_> = env.filter(|entry| entry.as_str().unwrap().starts_with("KEPT=")).collect();
    let _ = kept.insert("Env".to_owned(), json!(own));
    Value::Object(kept)
}

fn expected_config() -> Value {
    json!({
        "Entrypoint": ["/usr/bin/redis-server"],
        "Cmd": ["--dir", "/data", "--save", "", "--appendonly", "no"],
        "Env": ["KEPT=by redis"],
        "User": "redis",
        "ExposedPorts": {"6379/tcp": {}},
        "Volumes": {"/spare": {}},
        "WorkingDir": "/data",
        "Labels": {"org.example.story": "redis"},
    })
}

#[test]
fn a_commit_saved_here_and_loaded_elsewhere_has_data_and_configuration() {
    requires!(root, redis);
    let (here, elsewhere) = (Daemon::new(), Daemon::new());
    redis_with_data(&here, &[]);
    let archive = here.scratch().join("filled.tar").to_str().unwrap().to_owned();

    let _ = here.keg(["commit", "first", "redis:filled"]).success();
    let _ = here.keg(["save", "-o", &archive, "redis:filled"]).success();
    let _ = elsewhere.keg(["load", "-i", &archive]).success();
    start_redis(&elsewhere, "second", &[], "redis:filled");

    assert_data(&elsewhere, "second");
    assert_eq!(config(&elsewhere, "redis:filled"), expected_config());
    // Who was committed runs on.
    assert_data(&here, "first");
}

#[test]
fn an_export_piped_into_import_keeps_data_and_configuration() {
    requires!(root, redis);
    let daemon = Daemon::new();
    redis_with_data(&daemon, &[]);

    let mut export = daemon.keg_command(["export", "first"]);
    let mut export = export.stdout(Stdio::piped()).spawn().unwrap();
    let archive = export.stdout.take().unwrap();
    let mut import = daemon.keg_command(["import", "-", "redis:again"]);
    let _ = Outcome::with_stdin(&mut import, archive, PATIENCE).success();
    assert!(export.wait().unwrap().success());
    let _ = daemon.keg(["rm", "-f", "-v", "first"]).success();
    start_redis(&daemon, "second", &[], "redis:again");

    assert_data(&daemon, "second");
    assert_eq!(config(&daemon, "redis:again"), expected_config());
    let ids = daemon.keg(["exec", "second", "/usr/bin/redis-cli", "config", "get", "dir"]);
    assert_eq!(ids.success().stdout, "dir\n/data\n");
}

#[test]
fn data_outlives_a_server_that_is_killed_and_started_again() {
    requires!(root, redis);
    let daemon = Daemon::new();
    redis_with_data(&daemon, &[]);

    let _ = daemon.keg(["kill", "first"]).success();
    let _ = daemon.keg(["wait", "first"]).success();
    let _ = daemon.keg(["start", "first"]).success();
    wait_until("Redis answers", PATIENCE, || {
        daemon.keg(["exec", "first", "/usr/bin/redis-cli", "ping"]).stdout == "PONG\n"
    });

    assert_data(&daemon, "first");
}

#[test]
fn data_on_a_volume_outlives_the_server_and_its_container() {
    requires!(root, redis);
    let daemon = Daemon::new();
    let volume = ["-v", "kept:/data"];
    redis_with_data(&daemon, &volume);

    let _ = daemon.keg(["kill", "first"]).success();
    let _ = daemon.keg(["rm", "-f", "-v", "first"]).success();
    start_redis(&daemon, "second", &volume, "redis:1");

    assert_data(&daemon, "second");
    assert_eq!(redis(&daemon, "second", &["save"]), "OK");
}
