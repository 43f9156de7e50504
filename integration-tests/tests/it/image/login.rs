//! login, logout, and where credentials go – docker's config.json and credential helpers.

use std::os::unix::fs::PermissionsExt as _;

use keg_fixtures::registry::HttpResponse;
use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, requires};
use serde_json::{Value, json};

/// "me:s3cret-word"
const BASIC: &str = "Basic bWU6czNjcmV0LXdvcmQ=";

/// A registry that wants to know who asks.
fn private() -> BadRegistry {
    BadRegistry::new(Image::busybox(), |request, right| {
        match request.headers.get("authorization").map(String::as_str) {
            Some(BASIC) => right,
            _ => HttpResponse::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"it\""),
        }
    })
}

fn login(daemon: &Daemon, registry: &str, password: &str) -> Outcome {
    daemon.keg_with_input(password, ["login", "-u", "me", "--password-stdin", registry])
}

#[test]
fn a_login_is_kept_for_pulls_and_forgotten_by_logout() {
    requires!(root);
    let (daemon, registry) = (Daemon::new(), private());
    let image = format!("{}/it", registry.address());
    let refused = daemon.keg(["pull", "-q", &image]);

    let outcome = login(&daemon, &registry.address(), "s3cret-word\n").success();

    assert_eq!(outcome.stdout, "Login Succeeded\n");
    assert!(refused.stderr.contains("keg login"), "{refused:?}");
    let file = daemon.scratch().join(".docker/config.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["auths"][registry.address()]["auth"], BASIC.trim_start_matches("Basic "));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ran = daemon.keg(["run", "--rm", "-q", &image, "echo", "well"]).success();
    assert_eq!(ran.stdout, "well\n");
    let logout = daemon.keg(["logout", &registry.address()]).success();
    assert!(logout.stdout.starts_with("Removing login credentials"), "{logout:?}");
    let _ = daemon.keg(["rmi", "-f", &image]).success();
    assert_ne!(daemon.keg(["pull", &image]).exit_code, 0);
}

#[test]
fn a_wrong_password_is_refused_and_not_kept() {
    requires!(root);
    let (daemon, registry) = (Daemon::new(), private());

    let outcome = login(&daemon, &registry.address(), "wr0ng-word");

    assert_eq!(outcome.exit_code, 1);
    assert!(outcome.stderr.contains("refuses these credentials"), "{outcome:?}");
    assert!(!daemon.scratch().join(".docker/config.json").exists());
}

#[test]
fn passwords_are_in_no_log_and_no_error() {
    requires!(root);
    let (daemon, registry) = (Daemon::new(), private());
    let _ = login(&daemon, &registry.address(), "s3cret-word").success();
    let failed = login(&daemon, &registry.address(), "wr0ng-word");
    let pulled = daemon.keg(["pull", &format!("{}/it", registry.address())]);

    let all = format!("{}{failed:?}{pulled:?}", daemon.log());

    for secret in ["s3cret-word", "wr0ng-word", BASIC.trim_start_matches("Basic ")] {
        assert!(!all.contains(secret), "{secret} is told");
    }
}

#[test]
fn a_credential_helper_keeps_what_the_file_does_not() {
    requires!(root);
    let (daemon, registry) = (Daemon::new(), private());
    let bin = daemon.scratch().directory("bin");
    let helper = bin.join("docker-credential-it");
    // Keeps one server's credentials in a file beside itself.
    let script = r#"#!/bin/sh
kept=$(dirname "$0")/kept
case $1 in
store) cat >"$kept" ;;
get) [ -s "$kept" ] && cat "$kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f "$kept" ;;
esac
"#;
    write_program(&helper, script);
    let directory = daemon.scratch().directory(".docker");
    let config = json!({"credHelpers": {registry.address(): "it"}}).to_string();
    std::fs::write(directory.join("config.json"), config).unwrap();
    let keg = |arguments: &[&str], input: &str| {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let input = daemon.scratch().file("input", input);
        let mut command = daemon.keg_command(arguments);
        command.env("PATH", path);
        Outcome::with_stdin(&mut command, std::fs::File::open(input).unwrap(), PATIENCE)
    };
    let address = registry.address();

    let login = keg(&["login", "-u", "me", "--password-stdin", &address], "s3cret-word").success();

    assert_eq!(login.stderr, "", "nothing is kept unencrypted: {login:?}");
    let file = std::fs::read_to_string(directory.join("config.json")).unwrap();
    assert!(!file.contains("bWU6"), "{file}");
    let _ = keg(&["pull", "-q", &format!("{address}/it")], "").success();
    let _ = keg(&["logout", &address], "").success();
    assert!(!bin.join("kept").exists());
}

#[test]
fn search_asks_a_registry_for_its_list() {
    requires!(root);
    let daemon = Daemon::new();
    let registry =
        BadRegistry::new(Image::busybox(), |request, right| match request.path.split('?').next() {
            Some("/v2/_catalog") => HttpResponse::new(
                200,
                r#"{"repositories":["team/redis","team/web","redis-tools"]}"#,
            ),
            Some("/v1/search") => HttpResponse::new(404, "{}"),
            _ => right,
        });

    let term = format!("{}/redis", registry.address());
    let found = daemon.keg(["search", "--format", "{{.Name}}", &term]).success();

    let names =
        ["team/redis", "redis-tools"].map(|name| format!("{}/{name}\n", registry.address()));
    assert_eq!(found.stdout, names.concat());
}
