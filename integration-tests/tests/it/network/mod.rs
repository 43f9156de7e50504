//! Networks of containers, each test on machines of its own (network namespaces).

mod cni;
mod crash;
mod life;
mod modes;
mod names;
mod ports;
mod story;

use keg_fixtures::Daemon;
use serde_json::Value;

/// Starts a server in a container, and waits until it serves; returns its id.
#[track_caller]
fn serve(daemon: &Daemon, image: &str, name: &str, flags: &[&str]) -> String {
    let named = ["--name", name];
    let command = [image, "/probe", "serve", "80", name];
    let id = daemon.run_detached(named.iter().chain(flags).chain(&command));
    daemon.wait_for_line(name, "ready");
    id
}

/// Runs the probe in a container that runs.
#[track_caller]
fn probe(daemon: &Daemon, container: &str, arguments: &[&str]) -> keg_fixtures::Outcome {
    daemon.keg(["exec", container, "/probe"].iter().chain(arguments))
}

/// A container's address on a network.
#[track_caller]
fn address(daemon: &Daemon, container: &str, network: &str) -> String {
    let settings = daemon.inspect(container)["NetworkSettings"]["Networks"][network].clone();
    let address = settings["IPAddress"].as_str().unwrap_or_default().to_owned();
    assert!(!address.is_empty(), "{container} is not on {network}: {settings}");
    address
}

/// A file of `/etc` as a container sees it.
#[track_caller]
fn etc(daemon: &Daemon, container: &str, name: &str) -> String {
    daemon.keg(["exec", container, "cat", &format!("/etc/{name}")]).success().stdout
}

/// What `keg network inspect` prints of a network.
#[track_caller]
fn network(daemon: &Daemon, name: &str) -> Value {
    let list: Value = daemon.keg(["network", "inspect", name]).success().json();
    list[0].clone()
}
