//! Bundles that cannot run: one clear error each, and nothing left behind (the fixtures see to that).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, requires};
use serde_json::Value;

/// Creates from a bundle and starts; returns the first failure.
fn create_or_start_fails(runtime: &Runtime, bundle: Bundle) -> Outcome {
    match runtime.try_create(bundle) {
        Err(outcome) => outcome,
        Ok(container) => {
            let outcome = container.try_start();
            assert_ne!(outcome.exit_code, 0, "{outcome:?}");
            outcome
        }
    }
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let host = requires!(root);

    for command in ["/no/such/command", "no-such-command"] {
        let bundle = Bundle::busybox().command([command]);

        let outcome = create_or_start_fails(&host.runtime(), bundle);

        assert!(outcome.text().contains(command), "{outcome:?}");
    }
}

/// The machine-readable reason in the runtime's log – ARCHITECTURE.md, "The seam between kegd and the
/// shim".
fn logged_reason(runtime: &Runtime) -> Option<String> {
    let log = fs::read_to_string(runtime.log()).unwrap_or_default();
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter_map(|entry| entry["reason"].as_str().map(str::to_owned)).next_back()
}

#[test]
fn a_command_that_does_not_exist_has_a_reason_for_programs() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();

    let outcome = create_or_start_fails(&runtime, Bundle::busybox().command(["/no/such/command"]));

    assert_ne!(outcome.exit_code, 0, "{outcome:?}");
    assert_eq!(logged_reason(&runtime).as_deref(), Some("COMMAND_NOT_FOUND"));
}

#[test]
fn a_command_that_cannot_be_executed_is_named_and_has_a_reason_for_programs() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let bundle = Bundle::busybox().command(["/etc/passwd"]).rootfs_edit(|root| {
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(root.join("etc/passwd"), mode).unwrap();
    });

    let outcome = create_or_start_fails(&runtime, bundle);

    assert!(outcome.text().contains("/etc/passwd"), "{outcome:?}");
    assert_eq!(logged_reason(&runtime).as_deref(), Some("COMMAND_NOT_EXECUTABLE"));
}

#[test]
fn a_directory_as_command_gives_an_error() {
    let host = requires!(root);

    let outcome = create_or_start_fails(&host.runtime(), Bundle::busybox().command(["/etc"]));

    assert!(outcome.text().contains("/etc"), "{outcome:?}");
}

#[test]
fn a_missing_config_is_named() {
    let host = requires!(root);
    let bundle = Bundle::probe();
    let config = bundle.path().join("config.json");
    fs::remove_file(config).unwrap();
    let runtime = host.runtime();

    let mut command = runtime.command(["create", "--bundle"]);
    let outcome = Outcome::of(command.arg(bundle.path()).arg(Runtime::new_id()), PATIENCE);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.text().contains("config.json"), "{outcome:?}");
}

#[test]
fn a_malformed_config_is_named_with_the_place_of_the_fault() {
    let host = requires!(root, our_runtime);

    for text in ["", "{", "[]", "null", "{\"process\": 7}", "\u{0}"] {
        let bundle = Bundle::probe().raw_config(text);
        let runtime = host.runtime();
        let mut command = runtime.command(["create", "--bundle"]);
        let outcome = Outcome::of(command.arg(bundle.path()).arg(Runtime::new_id()), PATIENCE);

        assert_ne!(outcome.exit_code, 0, "{text:?}");
        assert!(outcome.text().contains("config.json"), "{text:?}: {outcome:?}");
    }
}

#[test]
fn a_missing_bundle_is_named() {
    let host = requires!(root);

    let outcome = host.runtime().call(["create", "--bundle", "/no/such/bundle", "keg-it-none"]);

    assert_ne!(outcome.exit_code, 0);
    assert!(outcome.text().contains("/no/such/bundle"), "{outcome:?}");
}

#[test]
fn a_bundle_without_root_filesystem_is_named() {
    let host = requires!(root);
    let bundle = Bundle::probe();
    fs::remove_dir_all(bundle.rootfs()).unwrap();

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("rootfs"), "{outcome:?}");
}

#[test]
fn a_bundle_without_process_cannot_be_started() {
    let host = requires!(root);
    let bundle = Bundle::probe().edit(|spec| {
        spec.as_object_mut().unwrap().remove("process");
    });

    let outcome = create_or_start_fails(&host.runtime(), bundle);

    assert!(outcome.text().contains("process"), "{outcome:?}");
}

#[test]
fn a_bundle_without_arguments_is_refused() {
    let host = requires!(root);

    let outcome = create_or_start_fails(&host.runtime(), Bundle::busybox().command([""; 0]));

    assert!(outcome.text().contains("args"), "{outcome:?}");
}

#[test]
fn an_id_that_leads_elsewhere_is_refused() {
    let host = requires!(root);
    let runtime = host.runtime();
    let bundle = Bundle::probe();

    for id in ["../escape", "a/b", ".", "..", "", "a b", "-flag\n"] {
        let mut command = runtime.command(["create", "--bundle"]);
        let outcome = Outcome::of(command.arg(bundle.path()).arg("--").arg(id), PATIENCE);

        assert_ne!(outcome.exit_code, 0, "{id:?}");
        assert!(!runtime.root().parent().unwrap().join("escape").exists());
    }
}

#[test]
fn a_namespace_that_does_not_exist_is_named() {
    let host = requires!(root);

    let outcome = host.runtime().refused(Bundle::probe().namespace("nosuch", None));

    assert!(outcome.text().contains("nosuch"), "{outcome:?}");
}

#[test]
fn a_mount_of_an_unknown_file_system_is_named() {
    let host = requires!(root);

    let outcome = host.runtime().refused(Bundle::probe().mount("/mnt", "nosuchfs", "none", &[]));

    assert!(outcome.text().contains("/mnt"), "{outcome:?}");
}

#[test]
fn a_spec_of_another_major_version_is_refused() {
    let host = requires!(root, our_runtime);

    let outcome = host.runtime().refused(Bundle::probe().set("/ociVersion", "2.0.0"));

    assert!(outcome.text().contains("2.0.0"), "{outcome:?}");
}

#[test]
fn a_read_only_state_root_gives_an_error_and_no_container() {
    let host = requires!(root);
    let bundle = Bundle::probe();
    let runtime = host.runtime();

    // /proc cannot hold directories, whoever asks.
    let mut command = std::process::Command::new(runtime.program());
    command.args(["--root", "/proc/keg", "create", "--bundle"]).arg(bundle.path()).arg("keg-it-x");
    let outcome = Outcome::of(&mut command, PATIENCE);

    assert_ne!(outcome.exit_code, 0);
    assert!(!outcome.stderr.is_empty());
    assert!(!Path::new("/sys/fs/cgroup/memory/keg-it-x").exists());
}

#[test]
fn an_unknown_command_and_an_unknown_flag_are_errors() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();

    for arguments in
        [&["nosuch"][..], &["create", "--nosuch", "x"], &["kill"], &["create", "a", "b"]]
    {
        let outcome = runtime.call(arguments);

        assert_ne!(outcome.exit_code, 0, "{arguments:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
}
