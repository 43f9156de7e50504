//! Kernel parameters – runtime-spec, config-linux.md, "Sysctl".

use std::fs;

use keg_fixtures::{Bundle, requires};

#[test]
fn parameters_of_the_containers_namespaces_are_set_there_only() {
    let host = requires!(root);
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/msgmax";
    let bundle = Bundle::busybox().sh(script).set(
        "/linux/sysctl",
        serde_json::json!({
            "net.ipv4.ip_local_port_range": "2000 3000",
            "kernel.msgmax": "65536",
            "net.ipv4.ip_forward": "1",
        }),
    );

    let outcome = host.runtime().run(bundle).success();

    assert_eq!(outcome.stdout, "2000\t3000\n65536\n");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
}

#[test]
fn a_parameter_of_the_host_is_refused_by_name() {
    let host = requires!(root);
    let bundle =
        Bundle::probe().set("/linux/sysctl", serde_json::json!({"vm.overcommit_memory": "1"}));

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("vm.overcommit_memory"), "{outcome:?}");
}

#[test]
fn a_parameter_of_a_namespace_that_is_shared_with_the_host_is_refused() {
    let host = requires!(root);
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let bundle = Bundle::probe()
        .without_namespace("ipc")
        .set("/linux/sysctl", serde_json::json!({"kernel.msgmax": "4242"}));

    let outcome = host.runtime().refused(bundle);

    assert!(outcome.text().contains("kernel.msgmax"), "{outcome:?}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);
}
