//! The log that the shim writes – ARCHITECTURE.md, "The seam between kegd and the shim".

use std::fs;

use keg_fixtures::{Bundle, Shim, requires};
use serde_json::Value;

fn run_with_log(bundle: Bundle, options: &str) -> (Shim, String) {
    let shim = Shim::new(bundle);
    let uri = format!("keg://{}?{options}", shim.log_file().display());
    shim.create_with(|request| {
        request.stdout = uri.clone();
        request.stderr = uri.clone();
    })
    .unwrap();
    shim.start("");
    shim.wait("");
    let log = fs::read_to_string(shim.log_file()).unwrap();
    (shim, log)
}

#[test]
fn json_file_is_dockers_format() {
    requires!(root);
    let bundle = Bundle::probe().args(["both", "a \"quoted\" \\ line", "to the other"]);

    let (_shim, log) = run_with_log(bundle, "format=json-file");

    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |stream: &str| entries.iter().find(|entry| entry["stream"] == stream).unwrap();
    assert_eq!(of("stdout")["log"], "a \"quoted\" \\ line\n");
    assert_eq!(of("stderr")["log"], "to the other\n");
    let time = of("stdout")["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z') && time.contains('.'), "{time}");
}

#[test]
fn cri_is_kubernetes_format() {
    requires!(root);

    let (_shim, log) = run_with_log(Bundle::probe().args(["both", "one", "two"]), "format=cri");

    let mut lines: Vec<Vec<&str>> =
        log.lines().map(|line| line.splitn(4, ' ').skip(1).collect()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [["stderr", "F", "two"], ["stdout", "F", "one"]]);
}

#[test]
fn raw_is_what_the_process_wrote() {
    requires!(root);
    let script = "printf 'no line feed'";

    let (_shim, log) = run_with_log(Bundle::busybox().sh(script), "format=raw");

    assert_eq!(log, "no line feed");
}

#[test]
fn no_line_is_lost_of_a_process_that_writes_as_fast_as_it_can() {
    requires!(root);
    let count = 50_000;

    let (shim, _) =
        run_with_log(Bundle::probe().args(["lines", &count.to_string(), "80"]), "format=json-file");

    let text = shim.logged("stdout");
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=count).collect::<Vec<u32>>());
}

#[test]
fn a_line_longer_than_any_buffer_is_kept_whole() {
    requires!(root);

    let (shim, _) =
        run_with_log(Bundle::probe().args(["lines", "3", "300000"]), "format=json-file");

    let lines: Vec<usize> = shim.logged("stdout").lines().map(str::len).collect();
    assert_eq!(lines, [299_999; 3]);
}

#[test]
fn a_full_log_is_rotated_and_only_so_many_are_kept() {
    requires!(root);
    let bundle = Bundle::probe().args(["lines", "5000", "80"]);

    let (shim, current) = run_with_log(bundle, "format=raw&max-size=100000&max-file=3");

    let rotated = |n: u32| fs::read_to_string(format!("{}.{n}", shim.log_file().display()));
    let (first, second) = (rotated(1).unwrap(), rotated(2).unwrap());
    assert!(rotated(3).is_err());
    assert!(first.len() <= 100_000 && second.len() <= 100_000);
    let numbers: Vec<u32> = [second, first, current]
        .iter()
        .flat_map(|log| log.lines().map(|line| line.parse::<u32>().unwrap()).collect::<Vec<_>>())
        .collect();
    assert_eq!(numbers.last(), Some(&5000));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a line is missing");
}

#[test]
fn without_a_log_the_process_runs_all_the_same() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["lines", "1000", "80"]));
    shim.create_with(|request| {
        request.stdout = String::new();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
}

#[test]
fn an_unknown_format_is_refused_by_name() {
    requires!(root);
    let shim = Shim::new(Bundle::probe());
    let uri = format!("keg://{}?format=nosuch", shim.log_file().display());

    let error = shim.create_with(|request| request.stdout = uri).unwrap_err();

    assert!(error.status().unwrap().message.contains("nosuch"), "{error:?}");
}
