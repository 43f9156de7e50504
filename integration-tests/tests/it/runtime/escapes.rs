//! Known ways out of a container, each tried: refused or confined, never followed.
//!
//! The runtime may refuse the bundle or run it harmlessly: what counts is what the container reached.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Outcome, Runtime, Scratch, requires};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

/// Creates, starts and waits; `None` if the runtime refuses.
fn run_unless_refused(runtime: &Runtime, bundle: Bundle) -> Option<Outcome> {
    let container = runtime.try_create(bundle).ok()?;
    if container.try_start().exit_code != 0 {
        return None;
    }
    let exit_code = container.wait_exit(PATIENCE);
    let (stdout, stderr) = (container.stdout(), container.stderr());
    Some(Outcome { exit_code, stdout, stderr, error: String::new() })
}

/// A copy of the runtime that a container may try to overwrite.
fn expendable(runtime: &Runtime, scratch: &Scratch) -> (Runtime, PathBuf, Vec<u8>) {
    let program = scratch.join("runtime");
    let content = fs::read(runtime.program()).unwrap();
    write_program(&program, &content);
    (Runtime::of(program.clone()), program, content)
}

#[test]
fn cve_2019_5736_the_runtimes_program_cannot_be_overwritten_from_inside() {
    let host = requires!(root);
    let scratch = Scratch::new();
    let (runtime, program, content) = expendable(&host.runtime(), &scratch);
    let mut bundle = Bundle::probe().args(["hunt"]).rootfs_edit(|root| {
        symlink("/proc/self/exe", root.join("bin/self")).unwrap();
        write_program(&root.join("bin/again"), "#!/proc/self/exe\n");
    });
    for kind in ["bounding", "permitted", "effective"] {
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
        bundle = bundle.set(&format!("/process/capabilities/{kind}"), all);
    }
    let container = runtime.create(bundle);
    container.start();
    container.wait_for_line("ready");

    for command in
        ["/bin/self", "/bin/again", "/proc/self/exe", "/bin/true"].iter().cycle().take(20)
    {
        let _ = container.exec(&[command]);
    }

    let _ = container.delete(true).success();
    assert_eq!(fs::read(&program).unwrap(), content, "the container said: {}", container.stdout());
}

/// Starts containers that mount onto a directory which somebody swaps for a link to `leads_to` all the
/// time; none may read the host's file.
fn mount_in_a_race(runtime: &Runtime, leads_to: &str, rounds: usize) {
    let volume = Scratch::new();
    let secret = Scratch::new();
    let _ = secret.file("secret", "of the host");
    let (real, link) = (volume.directory("target"), volume.join("link"));
    symlink(leads_to, &link).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let swapper = {
        let ended = Arc::clone(&ended);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
            }
        })
    };
    let inside = secret.join("secret");
    let below = format!("list:/vol/target{}", secret.path().display());

    let reached: Vec<String> = (0..rounds)
        .filter_map(|_| {
            let bundle = Bundle::probe()
                .args(["try", &format!("read:{}", inside.display()), &below])
                .mount("/vol", "bind", volume.path().to_str().unwrap(), &["rbind"])
                .mount("/vol/target", "tmpfs", "tmpfs", &[])
                .mount("/vol/target/deeper", "bind", "/", &["rbind", "ro"]);
            run_unless_refused(runtime, bundle)
        })
        .map(|outcome| outcome.stdout)
        .collect();
    ended.store(true, Ordering::Relaxed);
    swapper.join().unwrap();

    for attempts in reached {
        let attempts: Vec<keg_fixtures::report::Attempt> = serde_json::from_str(&attempts).unwrap();
        assert!(attempts[0].errno.is_some(), "the host's file was read: {attempts:?}");
    }
}

#[test]
fn cve_2021_30465_a_mount_whose_target_is_swapped_for_a_symlink_stays_inside() {
    let host = requires!(root);

    mount_in_a_race(&host.runtime(), "/", 15);
}

#[test]
fn a_mount_whose_target_is_swapped_for_a_magic_link_stays_inside() {
    let host = requires!(root);

    // Of whoever follows them: the runtime's, and that of the host's first process.
    for leads_to in ["/proc/self/root", "/proc/self/cwd", "/proc/1/root"] {
        mount_in_a_race(&host.runtime(), leads_to, 5);
    }
}

#[test]
fn no_release_agent_is_reachable_where_the_cgroup_can_be_written() {
    let host = requires!(root, cgroup_v1);
    let script =
        "set -- $(/bin/busybox find /sys/fs/cgroup -name release_agent); echo \"agents $#\"
        for agent; do echo /evil > $agent && echo written; done
        for up in /sys/fs/cgroup/*/../cgroup.procs; do echo $$ > $up && echo escaped; done; exit 0";

    for namespace in [true, false] {
        let mut bundle = Bundle::busybox().sh(script).edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["type"] != "cgroup");
        });
        bundle = bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw", "nosuid", "nodev"]);
        if !namespace {
            bundle = bundle.without_namespace("cgroup");
        }
        let outcome = host.runtime().run(bundle).success();

        assert_eq!(outcome.stdout, "agents 0\n", "{outcome:?}");
    }
}

#[test]
fn cve_2024_21626_a_working_directory_by_a_leaked_descriptor_leads_nowhere() {
    let host = requires!(root);
    let secret = Scratch::new();
    let path = secret.file("secret", "of the host");
    let attempt = format!("read:../../../../../../../..{}", path.display());
    let runtime = host.runtime();

    for descriptor in 3..16 {
        let bundle = Bundle::probe()
            .args(["try", &attempt])
            .set("/process/cwd", format!("/proc/self/fd/{descriptor}"));

        let outcome = run_unless_refused(&runtime, bundle);

        let read = outcome.is_some_and(|outcome| outcome.stdout.contains("\"errno\":null"));
        assert!(!read, "descriptor {descriptor} led to the host");
    }
}

#[test]
fn cve_2024_21626_exec_has_no_descriptor_of_the_host_either() {
    let host = requires!(root);
    let secret = Scratch::new();
    let path = secret.file("secret", "of the host");
    let attempt = format!("read:../../../../../../../..{}", path.display());
    let container = host.runtime().create(Bundle::probe().args(["pause"]).rootfs_edit(|root| {
        for descriptor in 3..16 {
            symlink(format!("/proc/self/fd/{descriptor}"), root.join(format!("fd{descriptor}")))
                .unwrap();
        }
    }));
    container.start();
    container.wait_for_line("ready");

    for descriptor in 3..16 {
        let cwd = format!("/fd{descriptor}");
        let arguments = ["exec", "--cwd", &cwd, container.id(), "/probe", "try", &attempt];
        let outcome = container.runtime().call(arguments);

        assert!(!outcome.stdout.contains("\"errno\":null"), "{descriptor}: {outcome:?}");
    }
}

#[test]
fn cve_2025_31133_a_null_device_of_the_image_masks_nothing() {
    // runc 1.1 takes the false device for the real one, and its output goes there.
    let host = requires!(root, our_runtime);
    // Masking binds /dev/null over a path: were the image's own taken, its target would appear there,
    // writable.
    let bundle = Bundle::probe()
        .args([
            "try",
            "write:/proc/keg-masked",
            "read:/masked",
            "write:/proc/sys/kernel/domainname",
        ])
        .rootfs_edit(|root| {
            symlink("/proc/sys/kernel/domainname", root.join("dev/null")).unwrap();
            fs::write(root.join("masked"), "must not be read").unwrap();
        })
        .edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        })
        .set("/linux/maskedPaths", json!(["/masked"]));

    let outcome = run_unless_refused(&host.runtime(), bundle);

    if let Some(outcome) = outcome {
        let attempts: Vec<keg_fixtures::report::Attempt> = outcome.json();
        assert!(attempts[1].errno.is_some(), "{attempts:?}");
        assert!(attempts[2].errno.is_some(), "{attempts:?}");
    }
}

#[test]
fn cve_2025_31133_a_null_device_that_is_no_device_is_not_used() {
    // runc 1.1 takes the false device for the real one, and its output goes there.
    let host = requires!(root, our_runtime);
    let bundle = Bundle::probe()
        .args(["try", "read:/masked"])
        .rootfs_edit(|root| {
            fs::write(root.join("dev/null"), "content of a false device").unwrap();
            fs::write(root.join("masked"), "must not be read").unwrap();
        })
        .edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        })
        .set("/linux/maskedPaths", json!(["/masked"]));

    let outcome = run_unless_refused(&host.runtime(), bundle);

    if let Some(outcome) = outcome {
        let attempts: Vec<keg_fixtures::report::Attempt> = outcome.json();
        assert!(attempts[0].errno.is_some(), "{attempts:?}");
    }
}

#[test]
fn cve_2025_52565_a_console_that_is_a_symlink_is_not_followed() {
    let host = requires!(root);
    let outside = Scratch::new();
    let target = outside.file("target", "of the host");
    let volume = Scratch::new();
    symlink(&target, volume.join("console")).unwrap();
    symlink("/etc/passwd", volume.join("ptmx")).unwrap();
    let bundle = Bundle::probe()
        .args(["exit", "0"])
        .edit(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        })
        .mount("/dev", "bind", volume.path().to_str().unwrap(), &["bind"])
        .mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]);
    fs::create_dir(volume.join("pts")).unwrap();

    let socket = keg_fixtures::terminal::ConsoleSocket::new();
    let flags = ["--console-socket".as_ref(), socket.path().as_os_str()];
    let bundle = bundle.set("/process/terminal", true);
    if let Ok(container) = host.runtime().create_with(bundle, &flags) {
        let terminal = socket.receive(PATIENCE);
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.init())).unwrap();
        if container.try_start().exit_code == 0 {
            container.wait_exit(PATIENCE);
            terminal.wait_for_hangup();
        }

        assert!(!table.contains(" /etc/passwd "), "{table}");
        let followed = format!(" {} ", target.display());
        assert!(!table.contains(&followed), "{table}");
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "of the host");
    assert_eq!(fs::metadata(&target).unwrap().uid(), 0);
}

#[test]
fn cve_2025_52881_nothing_but_proc_is_mounted_on_proc() {
    let host = requires!(root);
    let volume = Scratch::new();
    let _ = volume.directory("self/attr");
    let outside = Scratch::new();
    let target = outside.file("target", "unchanged");
    symlink(&target, volume.join("self/attr/exec")).unwrap();
    for destination in ["/proc", "/proc/self/attr", "/proc/sys"] {
        let bundle = Bundle::probe().args(["exit", "0"]).mount(
            destination,
            "bind",
            volume.path().to_str().unwrap(),
            &["rbind"],
        );

        let _ = host.runtime().refused(bundle);
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
}

#[test]
fn cve_2025_52881_kernel_parameters_are_written_to_proc_and_to_nothing_else() {
    let host = requires!(root);
    let outside = Scratch::new();
    let target = outside.file("target", "unchanged");
    let volume = Scratch::new();
    symlink(&target, volume.join("ip_forward")).unwrap();
    let source = volume.path().to_str().unwrap();
    let bundle = Bundle::probe()
        .args(["exit", "0"])
        .mount("/proc/sys/net/ipv4", "bind", source, &["rbind"])
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));

    let _ = run_unless_refused(&host.runtime(), bundle);

    assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
}

#[test]
fn cve_2019_19921_a_proc_directory_that_is_a_symlink_is_refused_or_confined() {
    let host = requires!(root);
    let bundle =
        Bundle::probe().args(["try", "write:/proc/sys/kernel/domainname"]).rootfs_edit(|root| {
            fs::remove_dir(root.join("proc")).unwrap();
            fs::create_dir(root.join("elsewhere")).unwrap();
            symlink("/elsewhere", root.join("proc")).unwrap();
        });

    let outcome = run_unless_refused(&host.runtime(), bundle);

    // The read-only and masked paths must hold wherever /proc is.
    let wrote = outcome.is_some_and(|outcome| outcome.stdout.contains("\"errno\":null"));
    assert!(!wrote);
}

#[test]
fn a_root_filesystem_that_is_a_symlink_to_the_hosts_root_changes_nothing_there() {
    let host = requires!(root);
    let bundle = Bundle::probe().rootfs_edit(|root| {
        fs::remove_dir_all(root).unwrap();
        symlink("/no/such/place", root).unwrap();
    });

    let outcome = host.runtime().refused(bundle);

    assert!(!outcome.error.is_empty());
}

#[test]
fn the_hosts_proc_is_not_reachable_by_magic_links() {
    let host = requires!(root);
    let secret = Scratch::new();
    let path = secret.file("secret", "of the host");
    let attempts: Vec<String> =
        ["/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/cwd"]
            .iter()
            .map(|start| format!("read:{start}/../../../..{}", path.display()))
            .collect();
    let attempts: Vec<&str> = attempts.iter().map(String::as_str).collect();

    let tried = host.runtime().attempts(Bundle::probe(), &attempts);

    assert!(tried.iter().all(|errno| errno == "ENOENT"), "{tried:?}");
}

#[test]
fn nothing_of_the_old_root_stays_reachable() {
    let host = requires!(root);
    let secret = Scratch::new();
    let path = secret.file("secret", "of the host");
    let mut bundle = Bundle::probe();
    for kind in ["bounding", "permitted", "effective"] {
        let all = json!(["CAP_SYS_CHROOT", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]);
        bundle = bundle.set(&format!("/process/capabilities/{kind}"), all);
    }
    // The classic: chroot below the working directory, then climb.
    let climb = format!("read:../../../../../..{}", path.display());

    let tried = host.runtime().attempts(bundle, &["mkdir:/jail", "chroot:/jail", &climb]);

    assert_eq!(tried[..2], ["", ""]);
    assert_eq!(tried[2], "ENOENT");
    assert!(Path::new(&path).exists());
}
