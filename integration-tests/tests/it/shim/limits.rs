//! Update, Stats, lack of memory; and the runtime options that change where things are.

use std::fs;
use std::path::Path;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Shim, requires, wait_until};
use keg_proto::containerd::runc::v1::Options;
use keg_proto::containerd::task::v2 as task;
use keg_proto::io::containerd::cgroups::v1::Metrics;
use keg_ttrpc::{CallError, Code};
use prost::Message as _;
use prost_types::Any;
use serde_json::{Value, json};

fn update(shim: &Shim, resources: &Value) -> Result<(), CallError> {
    let request = task::UpdateTaskRequest {
        id: shim.id().to_owned(),
        resources: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
            value: resources.to_string().into_bytes(),
        }),
        ..task::UpdateTaskRequest::default()
    };
    shim.call("Update", &request)
}

fn stats(shim: &Shim) -> Result<Any, CallError> {
    let request = task::StatsRequest { id: shim.id().to_owned() };
    let answer: task::StatsResponse = shim.call("Stats", &request)?;
    Ok(answer.stats.unwrap())
}

fn running(bundle: Bundle) -> Shim {
    let shim = Shim::new(bundle);
    shim.create();
    shim.start("");
    shim.wait_for_line("ready");
    shim
}

#[test]
fn an_update_changes_the_limits_that_the_kernel_has() {
    requires!(root, cgroup_v1);
    let shim = running(Bundle::probe().args(["pause"]));

    update(&shim, &json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 33}})).unwrap();

    let metrics = Metrics::decode(stats(&shim).unwrap().value.as_slice()).unwrap();
    let limit = metrics.memory.unwrap().usage.unwrap().limit;
    assert_eq!((limit, metrics.pids.unwrap().limit), (64 << 20, 33));
}

#[test]
fn an_update_that_the_kernel_refuses_says_so_and_one_without_resources_too() {
    requires!(root, our_runtime);
    let shim = running(Bundle::probe().args(["pause"]));

    let refused = update(&shim, &json!({"cpu": {"cpus": "4000-4001"}})).unwrap_err();
    let empty = task::UpdateTaskRequest { id: shim.id().to_owned(), ..Default::default() };
    let empty = shim.call::<_, ()>("Update", &empty).unwrap_err();

    let words = &refused.status().unwrap().message;
    assert!(words.contains("cpuset"), "{words}");
    assert_eq!(empty.status().unwrap().code, Code::InvalidArgument);
}

#[test]
fn stats_count_what_the_container_uses() {
    requires!(root, cgroup_v1);
    let shim = running(Bundle::busybox().sh("sleep 1000 & sleep 1000 & echo ready; wait"));

    let any = stats(&shim).unwrap();
    let metrics = Metrics::decode(any.value.as_slice()).unwrap();

    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    assert_eq!(metrics.pids.unwrap().current, 3);
    assert!(metrics.memory.unwrap().usage.unwrap().usage > 0);
    assert!(metrics.cpu.unwrap().usage.unwrap().total > 0);
}

#[test]
fn a_task_that_has_ended_has_no_stats() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("exit 0"));
    shim.create();
    shim.start("");
    shim.wait("");

    let error = stats(&shim).unwrap_err();

    assert_eq!(error.status().unwrap().code, Code::NotFound, "{error:?}");
}

#[test]
fn lack_of_memory_is_told_of_while_the_container_goes_on() {
    requires!(root, cgroup_v1);
    // The kernel kills the child that eats; the shell goes on.
    let script = "/probe eat 200; echo survived; read -r line";
    let bundle = Bundle::busybox()
        .sh(script)
        .set("/linux/resources/memory", json!({"limit": 32 << 20, "swap": 32 << 20}));
    let shim = Shim::new(bundle);
    shim.create_with(|request| request.stdin = "keg:".to_owned()).unwrap();
    shim.start("");

    shim.wait_for_line("survived");

    wait_until("the event comes", PATIENCE, || {
        shim.topics().iter().any(|topic| topic == "/tasks/oom")
    });
}

#[test]
fn the_options_say_where_the_shim_and_the_runtimes_state_are() {
    requires!(root, our_runtime);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let root = shim.scratch().join("state");
    let options = Options { root: root.display().to_string(), ..Options::default() };

    shim.create_with(|request| {
        request.options = Some(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        });
    })
    .unwrap();

    assert!(root.join("it").join(shim.id()).join("state.json").is_file());
}

#[test]
fn the_streams_belong_to_whom_the_options_name() {
    requires!(root, our_runtime);
    // Opening the pipe again by its name takes the permission of its owner.
    let script = "echo reopened >/proc/self/fd/1; echo ready";
    let bundle =
        Bundle::busybox().sh(script).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let shim = Shim::new(bundle);
    let options = Options { io_uid: 1000, io_gid: 1000, ..Options::default() };

    shim.create_with(|request| {
        request.options = Some(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        });
    })
    .unwrap();
    shim.start("");

    assert_eq!(shim.wait("").exit_status, 0);
    assert_eq!(shim.logged("stdout"), "reopened\nready\n");
}

#[test]
fn a_shim_starts_in_the_cgroup_that_the_options_name() {
    requires!(root, cgroup_v1);
    let cgroup = Cgroup::new();
    let options = Options { shim_cgroup: cgroup.name(), ..Options::default() };

    let shim = Shim::started_with(Bundle::probe().args(["pause"]), &options);

    let membership = fs::read_to_string(format!("/proc/{}/cgroup", shim.pid())).unwrap();
    assert!(membership.contains(&format!(":memory:{}\n", cgroup.name())), "{membership}");
}

/// A cgroup in the memory hierarchy of v1.
struct Cgroup(String);

impl Cgroup {
    fn new() -> Self {
        let name = format!("/{}", keg_fixtures::Runtime::new_id());
        fs::create_dir(Path::new("/sys/fs/cgroup/memory").join(&name[1..])).unwrap();
        Self(name)
    }

    fn name(&self) -> String {
        self.0.clone()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Declared before the shim, so dropped after it.
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup/memory").join(&self.0[1..]));
    }
}
