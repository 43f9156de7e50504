//! Resource limits as the kernel enforces them – runtime-spec, config-linux.md, "Control groups".

use std::fs;
use std::process::Command;

use keg_fixtures::wait::{self, PATIENCE};
use keg_fixtures::{Bundle, Container, Outcome, Runtime, requires};
use serde_json::json;

/// Reads a control file of the container's cgroup, whichever hierarchy has it.
fn control(container: &Container, name: &str) -> Option<String> {
    let text =
        container.cgroups().iter().find_map(|cgroup| fs::read_to_string(cgroup.join(name)).ok());
    text.map(|text| text.trim().to_owned())
}

#[test]
fn a_container_without_limits_is_in_a_cgroup_of_its_own_in_every_hierarchy() {
    let host = requires!(root, cgroup_v1);
    let container = host.runtime().create(Bundle::probe().args(["pause"]));

    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.init())).unwrap();

    for line in own.lines().filter(|line| !line.starts_with("0::")) {
        assert!(line.ends_with(container.id()), "{own}");
    }
}

#[test]
fn a_hierarchy_that_another_file_system_covers_is_gone_round() {
    let host = requires!(root, cgroup_v1, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let limit = json!({"limit": 8 << 20, "swap": 8 << 20});
    let bundle = Bundle::probe().args(["eat", "64"]).set("/linux/resources/memory", limit);
    let bundle = bundle.set("/linux/cgroupsPath", json!(format!("/{id}")));
    let _guard = runtime.guard(&id);
    let cover = "set -e\nfor point in $(awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo)\n\
                 do mount -t tmpfs none $point; done\nexec \"$@\"";
    let run = runtime.command(["run", "--bundle", bundle.path().to_str().unwrap(), &id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", cover, "sh"]);
    command.arg(run.get_program()).args(run.get_args());

    let outcome = Outcome::of(&mut command, PATIENCE);

    assert_eq!(outcome.exit_code, 128 + 9, "{outcome:?}");
}

#[test]
fn more_memory_than_allowed_kills_the_process() {
    let host = requires!(root);
    let limit = json!({"limit": 32 << 20, "swap": 32 << 20});
    let bundle = || Bundle::probe().set("/linux/resources/memory", limit.clone());

    let within = host.runtime().run(bundle().args(["eat", "8"]));
    let beyond = host.runtime().run(bundle().args(["eat", "64"]));

    assert_eq!(within.success().stdout, "ate 8\n");
    assert_eq!(beyond.exit_code, 128 + 9, "{beyond:?}");
}

#[test]
fn the_memory_limit_is_the_kernels() {
    let host = requires!(root, cgroup_v1);
    let limit = json!({"limit": 64 << 20, "reservation": 32 << 20, "swap": 128 << 20});
    let container = host.runtime().create(Bundle::probe().set("/linux/resources/memory", limit));

    let read = |name| control(&container, name).and_then(|text| text.parse::<u64>().ok());

    assert_eq!(read("memory.limit_in_bytes"), Some(64 << 20));
    assert_eq!(read("memory.soft_limit_in_bytes"), Some(32 << 20));
    // Swap accounting is a matter of the kernel's configuration.
    if let Some(swap) = read("memory.memsw.limit_in_bytes") {
        assert_eq!(swap, 128 << 20);
    }
}

#[test]
fn more_processes_than_allowed_cannot_be_forked() {
    let host = requires!(root);
    let bundle =
        Bundle::probe().args(["fork", "20"]).set("/linux/resources/pids", json!({"limit": 5}));

    let outcome = host.runtime().run(bundle).success();

    let forked: u32 = outcome.stdout.trim().strip_prefix("forked ").unwrap().parse().unwrap();
    assert!((1..5).contains(&forked), "{outcome:?}");
}

#[test]
fn one_process_is_enough_to_start() {
    let host = requires!(root, our_runtime);
    let bundle =
        Bundle::probe().args(["exit", "4"]).set("/linux/resources/pids", json!({"limit": 1}));

    let outcome = host.runtime().run(bundle);

    assert_eq!(outcome.exit_code, 4, "{outcome:?}");
}

#[test]
fn processor_time_is_limited() {
    let host = requires!(root);
    let burning = |bundle: Bundle| {
        let container = host.runtime().create(bundle.args(["burn", "3600000"]));
        container.start();
        container
    };
    let free = burning(Bundle::probe());
    let cpu = json!({"quota": 20_000, "period": 100_000});
    let limited = burning(Bundle::probe().set("/linux/resources/cpu", cpu));

    // The kernel's own count, since how much time was left to it depends on what else the machine does.
    let throttled = wait::poll(PATIENCE, || (throttled_periods(&limited) > 1).then_some(()));

    assert!(throttled.is_some(), "{:?}", control(&limited, "cpu.stat"));
    assert_eq!(throttled_periods(&free), 0);
}

/// Periods in which the kernel made the container wait for more time.
fn throttled_periods(container: &Container) -> u64 {
    let stat = control(container, "cpu.stat").unwrap_or_default();
    let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn the_processor_limits_are_the_kernels() {
    let host = requires!(root, cgroup_v1);
    let cpu = json!({"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0"});
    let container = host.runtime().create(Bundle::probe().set("/linux/resources/cpu", cpu));

    assert_eq!(control(&container, "cpu.shares").as_deref(), Some("512"));
    assert_eq!(control(&container, "cpu.cfs_quota_us").as_deref(), Some("50000"));
    assert_eq!(control(&container, "cpu.cfs_period_us").as_deref(), Some("200000"));
    assert_eq!(control(&container, "cpuset.cpus").as_deref(), Some("0"));
}

#[test]
fn the_process_runs_on_the_processors_of_its_set_only() {
    let host = requires!(root);
    let bundle = Bundle::probe().set("/linux/resources/cpu", json!({"cpus": "0"}));

    let report = host.runtime().report(bundle);

    assert_eq!(report.scheduling.cpus_allowed, "0");
}

#[test]
fn a_limit_that_the_kernel_rejects_fails_the_create_by_name() {
    let host = requires!(root);
    let bundle = Bundle::probe().set("/linux/resources/cpu", json!({"cpus": "4000"}));

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("cpuset"), "{outcome:?}");
}

#[test]
fn a_cgroup_path_of_several_levels_is_made_and_taken_away() {
    let host = requires!(root, cgroup_v1);
    let runtime = host.runtime();
    let parent = Runtime::new_id();
    let path = format!("/{parent}/inner");
    let bundle = Bundle::probe().args(["exit", "0"]).set("/linux/cgroupsPath", path);

    let container = runtime.create(bundle);
    let below = fs::read_to_string(format!("/proc/{}/cgroup", container.init())).unwrap();
    let _ = container.start_and_wait();
    let _ = container.delete(true).success();

    assert!(below.contains(&format!("/{parent}/inner")), "{below}");
    // The parent stays: nobody asked the runtime for it alone, and others may be in it.
    for cgroup in keg_fixtures::runtime::cgroups_of(&parent) {
        assert!(!cgroup.join("inner").exists());
        fs::remove_dir(cgroup).unwrap();
    }
}

#[test]
fn the_processes_of_a_container_are_listed_by_its_cgroup() {
    let host = requires!(root);
    let container = host.runtime().create(Bundle::busybox().sh("sleep 1000 & echo ready; wait"));
    container.start();
    container.wait_for_line("ready");

    let processes = control(&container, "cgroup.procs").unwrap_or_default();

    let pids: Vec<&str> = processes.lines().collect();
    assert!(pids.contains(&container.init().to_string().as_str()), "{processes}");
    assert_eq!(pids.len(), 2, "{processes}");
    let _ = container.delete(true).success();
    container.wait_exit(PATIENCE);
}
