//! `version` and `info`.

use keg_proto::keg::v1::{InfoResponse, VersionResponse};

use crate::template::Value;
use crate::{humanize, moment};

/// Version of this program.
pub(crate) const CLIENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// API that this program speaks.
const API_VERSION: &str = "v1";

/// Both versions as templates and JSON see them; without a server, `Server` is null.
pub(crate) fn version(server: Option<&VersionResponse>) -> Value {
    let client = Value::record([
        ("Version", Value::text(CLIENT_VERSION)),
        ("ApiVersion", Value::text(API_VERSION)),
        ("DefaultAPIVersion", Value::text(API_VERSION)),
        ("Os", Value::text(std::env::consts::OS)),
        ("Arch", Value::text(architecture())),
    ]);
    let server = server.map_or(Value::Null, |server| {
        let components = server.components.iter().map(|component| {
            let details = [("Path".to_owned(), Value::text(&component.path))];
            Value::record([
                ("Name", Value::text(&component.name)),
                ("Version", Value::text(&component.version)),
                ("Path", Value::text(&component.path)),
                ("Details", Value::map(details)),
            ])
        });
        Value::record([
            ("Version", Value::text(&server.version)),
            ("ApiVersion", Value::text(&server.api_version)),
            ("MinAPIVersion", Value::text(&server.api_version)),
            ("GitCommit", Value::text(&server.git_commit)),
            ("Os", Value::text(&server.os)),
            ("Arch", Value::text(&server.architecture)),
            ("KernelVersion", Value::text(&server.kernel_version)),
            ("Components", Value::List(components.collect())),
        ])
    });
    Value::record([("Client", client), ("Server", server)])
}

/// Both versions for people.
pub(crate) fn version_text(server: Option<&VersionResponse>) -> String {
    let mut text = paragraph(
        "Client:",
        [
            ("Version", CLIENT_VERSION.to_owned()),
            ("API version", API_VERSION.to_owned()),
            ("OS/Arch", format!("{}/{}", std::env::consts::OS, architecture())),
        ],
    );
    let Some(server) = server else {
        return text;
    };
    text.push('\n');
    text.push_str(&paragraph(
        "Server:",
        [
            ("Version", server.version.clone()),
            ("API version", server.api_version.clone()),
            ("Git commit", server.git_commit.clone()),
            ("OS/Arch", format!("{}/{}", server.os, server.architecture)),
            ("Kernel", server.kernel_version.clone()),
        ],
    ));
    for component in &server.components {
        text.push_str(&paragraph(
            &format!(" {}:", component.name),
            [("Version", component.version.clone()), ("Path", component.path.clone())],
        ));
    }
    text
}

/// The daemon's settings as templates and JSON see them.
pub(crate) fn info(info: &InfoResponse) -> Value {
    let runtimes = info.runtimes.iter().map(|name| (name.clone(), Value::record([])));
    Value::record([
        ("ID", Value::text(&info.id)),
        ("Containers", Value::unsigned(info.containers)),
        ("ContainersRunning", Value::unsigned(info.containers_running)),
        ("ContainersPaused", Value::unsigned(info.containers_paused)),
        ("ContainersStopped", Value::unsigned(info.containers_stopped)),
        ("Images", Value::unsigned(info.images)),
        ("Driver", Value::text(&info.snapshotter)),
        ("CgroupDriver", Value::text(&info.cgroup_driver)),
        ("CgroupVersion", Value::text(&info.cgroup_version)),
        ("KernelVersion", Value::text(&info.kernel_version)),
        ("OperatingSystem", Value::text(&info.operating_system)),
        ("OSType", Value::text("linux")),
        ("Architecture", Value::text(&info.architecture)),
        ("NCPU", Value::unsigned(info.cpus)),
        ("MemTotal", Value::unsigned(info.memory_bytes)),
        ("DockerRootDir", Value::text(&info.root_dir)),
        ("KegRootDir", Value::text(&info.root_dir)),
        ("KegStateDir", Value::text(&info.state_dir)),
        ("Name", Value::text(&info.hostname)),
        ("SecurityOptions", Value::texts(&info.security_options)),
        ("ServerVersion", Value::text(&info.server_version)),
        ("LoggingDriver", Value::text("json-file")),
        ("DefaultRuntime", Value::text(&info.default_runtime)),
        ("Runtimes", Value::map(runtimes)),
        ("SystemTime", Value::Text(moment::rfc3339(info.system_time.as_ref()))),
        ("InitBinary", Value::text("keg-init")),
        ("IndexServerAddress", Value::text("https://index.docker.io/v1/")),
        ("ExperimentalBuild", Value::Bool(false)),
        ("Labels", Value::NO_LIST),
        ("Plugins", plugins()),
        ("LiveRestoreEnabled", Value::Bool(true)),
        // Clusters are Kubernetes' job; scripts ask before they do anything about one.
        ("Swarm", Value::record([("LocalNodeState", Value::text("inactive"))])),
        ("ClientInfo", Value::record([("Version", Value::text(CLIENT_VERSION))])),
        ("Warnings", Value::texts(&info.warnings)),
    ])
}

/// What the daemon has of each kind, which is built in.
fn plugins() -> Value {
    Value::record([
        ("Volume", Value::texts(["local"])),
        ("Network", Value::texts(["bridge", "host", "macvlan", "null"])),
        ("Authorization", Value::NO_LIST),
        ("Log", Value::texts(["json-file", "local", "none"])),
    ])
}

/// The daemon's settings for people.
pub(crate) fn info_text(info: &InfoResponse) -> String {
    let mut text = paragraph("Client:", [("Version", CLIENT_VERSION.to_owned())]);
    text.push('\n');
    text.push_str(&paragraph(
        "Server:",
        [
            ("Containers", info.containers.to_string()),
            (" Running", info.containers_running.to_string()),
            (" Paused", info.containers_paused.to_string()),
            (" Stopped", info.containers_stopped.to_string()),
            ("Images", info.images.to_string()),
            ("Server Version", info.server_version.clone()),
            ("Storage Driver", info.snapshotter.clone()),
            ("Cgroup Driver", info.cgroup_driver.clone()),
            ("Cgroup Version", info.cgroup_version.clone()),
            ("Runtimes", info.runtimes.join(" ")),
            ("Default Runtime", info.default_runtime.clone()),
            ("Security Options", info.security_options.join(" ")),
            ("Kernel Version", info.kernel_version.clone()),
            ("Operating System", info.operating_system.clone()),
            ("Architecture", info.architecture.clone()),
            ("CPUs", info.cpus.to_string()),
            ("Total Memory", humanize::binary_size(info.memory_bytes)),
            ("Name", info.hostname.clone()),
            ("ID", info.id.clone()),
            ("Root Dir", info.root_dir.clone()),
            ("State Dir", info.state_dir.clone()),
        ],
    ));
    for warning in &info.warnings {
        text.push_str(&format!("WARNING: {warning}\n"));
    }
    text
}

/// A title and its lines; empty values are left out.
fn paragraph<const N: usize>(title: &str, lines: [(&str, String); N]) -> String {
    let mut text = format!("{title}\n");
    for (name, value) in lines {
        if !value.is_empty() {
            text.push_str(&format!(" {name}: {value}\n"));
        }
    }
    text
}

/// This machine's architecture by Go's name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    #[test]
    fn versions_can_be_asked_for_one_by_one() {
        let server = VersionResponse { version: "9.8.7".to_owned(), ..VersionResponse::default() };
        let template =
            Template::parse("{{.Client.Version}} {{.Server.Version}}").expect("template");

        let text = template.render(&version(Some(&server))).expect("text");

        assert_eq!(text, format!("{CLIENT_VERSION} 9.8.7"));
    }

    #[test]
    fn info_names_counts_and_warnings() {
        let info = InfoResponse {
            containers: 3,
            memory_bytes: 8 << 30,
            warnings: vec!["no swap limit".to_owned()],
            ..InfoResponse::default()
        };

        let text = info_text(&info);

        assert!(text.contains(" Containers: 3\n"), "{text}");
        assert!(text.contains(" Total Memory: 8GiB\n"), "{text}");
        assert!(text.ends_with("WARNING: no swap limit\n"), "{text}");
        assert!(!text.contains("Kernel Version"), "{text}");
    }
}
