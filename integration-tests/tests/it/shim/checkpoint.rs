//! Checkpoint, and Create from a checkpoint.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Scratch, Shim, requires, wait_until};
use keg_proto::containerd::runc::v1::{CheckpointOptions, Options};
use keg_proto::containerd::task::v2 as task;
use keg_proto::containerd::v1::types::Status;
use keg_ttrpc::Code;
use prost::Message as _;
use prost_types::Any;

fn bundle() -> Bundle {
    Bundle::probe().args(["count", "10"])
}

fn counting(bundle: Bundle) -> Shim {
    let shim = Shim::new(bundle);
    shim.create();
    shim.start("");
    shim.wait_for_line("5");
    shim
}

fn checkpoint(
    shim: &Shim,
    path: &str,
    options: &CheckpointOptions,
) -> Result<(), keg_ttrpc::CallError> {
    let request = task::CheckpointTaskRequest {
        id: shim.id().to_owned(),
        path: path.to_owned(),
        options: Some(Any {
            type_url: "containerd.runc.v1.CheckpointOptions".to_owned(),
            value: options.encode_to_vec(),
        }),
    };
    shim.call("Checkpoint", &request)
}

fn numbers(shim: &Shim) -> Vec<u64> {
    shim.logged("stdout").lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn a_task_made_from_a_checkpoint_goes_on_in_the_same_log() {
    requires!(root, criu);
    let shim = counting(bundle());
    let images = Scratch::new();
    let path = images.path().to_str().unwrap();

    checkpoint(&shim, path, &CheckpointOptions { exit: true, ..Default::default() }).unwrap();
    assert_eq!(shim.wait("").exit_status, 137);
    shim.delete("").unwrap();
    let last = *numbers(&shim).last().unwrap();
    let created = shim.create_with(|request| request.checkpoint = path.to_owned()).unwrap();
    let pid = shim.start("");
    shim.wait_for_line(&(last + 5).to_string());

    assert_eq!(created.pid, 0, "it runs from Start on");
    let state = shim.state("").unwrap();
    assert_eq!((state.status(), state.pid), (Status::Running, pid));
    let all = numbers(&shim);
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{all:?}");
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait("").exit_status, 137);
}

#[test]
fn a_task_with_users_of_its_own_is_restored_with_them() {
    requires!(root, criu, user_namespaces);
    let shim = counting(bundle().user_namespace(200_000, 65_536));
    let images = Scratch::new();
    let path = images.path().to_str().unwrap();

    checkpoint(&shim, path, &CheckpointOptions { exit: true, ..Default::default() }).unwrap();
    shim.wait("");
    shim.delete("").unwrap();
    let last = *numbers(&shim).last().unwrap();
    shim.create_with(|request| request.checkpoint = path.to_owned()).unwrap();
    let pid = shim.start("");

    shim.wait_for_line(&(last + 5).to_string());
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
}

#[test]
fn a_checkpoint_leaves_the_task_running_unless_asked_otherwise() {
    requires!(root, criu);
    let shim = counting(bundle());
    let images = Scratch::new();

    checkpoint(&shim, images.path().to_str().unwrap(), &CheckpointOptions::default()).unwrap();
    let next = numbers(&shim).last().unwrap() + 3;
    shim.wait_for_line(&next.to_string());

    assert_eq!(shim.state("").unwrap().status(), Status::Running);
    assert!(images.join("inventory.img").is_file());
    assert_eq!(shim.wait_for_topics(3).last().unwrap(), "/tasks/checkpointed");
}

#[test]
fn the_image_paths_of_the_options_are_used() {
    requires!(root, criu);
    let shim = counting(bundle());
    let images = Scratch::new();
    let image_path = images.join("images").to_str().unwrap().to_owned();
    let options =
        CheckpointOptions { exit: true, image_path: image_path.clone(), ..Default::default() };
    checkpoint(&shim, "", &options).unwrap();
    shim.wait("");
    shim.delete("").unwrap();

    let last = *numbers(&shim).last().unwrap();
    let options = Options { criu_image_path: image_path, ..Options::default() };
    shim.create_with(|request| {
        request.options = Some(Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: options.encode_to_vec(),
        });
    })
    .unwrap();
    shim.start("");

    shim.wait_for_line(&(last + 3).to_string());
}

#[test]
fn a_checkpoint_without_a_place_is_refused() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    shim.create();
    shim.start("");

    let error = checkpoint(&shim, "", &CheckpointOptions::default()).unwrap_err();

    assert_eq!(error.status().unwrap().code, Code::InvalidArgument);
}

#[test]
fn a_failed_restore_says_why_and_leaves_the_shim_usable() {
    requires!(root, criu);
    let shim = Shim::new(Bundle::probe().args(["pause"]));
    let empty = Scratch::new();
    shim.create_with(|request| request.checkpoint = empty.path().to_str().unwrap().to_owned())
        .unwrap();

    let error = shim.try_start("").unwrap_err();
    shim.delete("").unwrap();
    shim.create();
    shim.start("");

    let message = error.status().unwrap().message.clone();
    assert!(message.contains("descriptors.json"), "{message}");
    wait_until("it runs", PATIENCE, || shim.logged("stdout") == "ready\n");
}
