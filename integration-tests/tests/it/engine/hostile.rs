//! Names, labels and environments that nobody would choose: refused, or kept byte for byte.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use keg_fixtures::{Daemon, requires};

/// What is awkward in shells, in JSON, in templates, in databases and on terminals.
const AWKWARD: [&str; 9] = [
    "",
    " leading and trailing ",
    "a=b=c",
    "line\nbreak\ttab\r",
    "\u{1b}[31mred\u{7}",
    "{{.ID}} {{json .}}",
    "'; DROP TABLE containers; --",
    "\"quoted\" \\n $HOME `id` %s",
    "ünïcödé \u{202e}gnp \u{1f37a}",
];

#[test]
fn a_name_that_could_be_something_else_is_refused_and_named() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let long = "x".repeat(300);
    let names = [
        "..",
        ".",
        "-x",
        "_x",
        "a/b",
        "../../etc",
        "a b",
        "a\nb",
        "a:b",
        "a;b",
        "$(id)",
        "é",
        "\u{1b}[2J",
        "x",
        long.as_str(),
    ];

    for name in names {
        let flag = format!("--name={name}");
        let outcome = daemon.keg(["create", &flag, &image, "true"]);

        assert_ne!(outcome.exit_code, 0, "{name:?}: {outcome:?}");
        assert!(outcome.stderr.contains("name"), "{name:?}: {outcome:?}");
        assert!(!outcome.stderr.contains('\u{1b}'), "an escape reaches the terminal: {outcome:?}");
    }
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}

#[test]
fn labels_and_environment_are_kept_byte_for_byte() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let large = "l".repeat(100_000);
    let values: Vec<&str> = AWKWARD.into_iter().chain([large.as_str()]).collect();
    let mut line = vec!["run".to_owned(), "--name".to_owned(), "one".to_owned()];
    for (index, value) in values.iter().enumerate() {
        line.push(format!("--env=V{index}={value}"));
        line.push(format!("--label=l {index}\u{e9}={value}"));
    }
    line.extend([image.as_str(), "cat", "/proc/self/environ"].map(str::to_owned));

    let seen = daemon.keg(&line).success().stdout;

    let seen: Vec<&str> = seen.split('\0').collect();
    let config = daemon.inspect("one")["Config"].clone();
    for (index, value) in values.iter().enumerate() {
        let entry = format!("V{index}={value}");
        assert!(seen.contains(&entry.as_str()), "{entry:?} is not in the environment");
        let told = config["Env"].as_array().unwrap().iter().any(|told| *told == *entry);
        assert!(told, "{entry:?} is not in {}", config["Env"]);
        assert_eq!(config["Labels"][format!("l {index}\u{e9}")], *value);
    }
    let label = "label=l 6\u{e9}='; DROP TABLE containers; --";
    let found = daemon.keg(["ps", "-a", "--filter", label, "--format", "{{.Names}}"]);
    assert_eq!(found.success().stdout, "one\n");
}

#[test]
fn what_is_no_text_or_has_no_name_is_refused() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let flags: [&[u8]; 4] = [b"--env=A=\xff\xfe", b"--env==x", b"--label=a=\xff", b"--label==x"];

    for flag in flags {
        let arguments = [OsStr::new("create"), OsStr::from_bytes(flag), OsStr::new(&image)];
        let outcome = daemon.keg(arguments);

        assert_ne!(outcome.exit_code, 0, "{}: {outcome:?}", String::from_utf8_lossy(flag));
        assert_ne!(outcome.stderr, "", "{}", String::from_utf8_lossy(flag));
    }
    assert_eq!(daemon.keg(["ps", "-aq"]).success().stdout, "");
}

#[test]
fn no_escape_of_a_container_reaches_the_terminal_of_who_lists_it() {
    requires!(root);
    let (daemon, image) = Daemon::with_busybox();
    let label = "--label=a=\u{1b}]0;owned\u{7}";
    let create = ["create", "--name", "one", label, &image, "echo", "\u{1b}[2J", "a\nb"];
    let _ = daemon.keg(create).success();

    let table = daemon.keg(["ps", "-a", "--no-trunc"]).success().stdout;

    assert!(!table.contains('\u{1b}'), "{table:?}");
    assert_eq!(table.lines().count(), 2, "{table:?}");
}
