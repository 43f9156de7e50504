//! `keg.v1.System`.

use std::process::Command;
use std::time::SystemTime;

use keg_engine::Engine;
use keg_engine::spec::seccomp::architecture;
use keg_image::Images;
use keg_proto::keg::v1 as pb;
use tonic::{Request, Response, Status};

use crate::status::to_status;

/// The service.
#[derive(Debug)]
pub(crate) struct System {
    engine: Engine,
    images: Images,
}

impl System {
    /// Serves what is known of the daemon.
    pub(crate) fn new(engine: Engine, images: Images) -> Self {
        Self { engine, images }
    }
}

#[tonic::async_trait]
impl pb::system_server::System for System {
    async fn version(
        &self,
        _request: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        let settings = self.engine.settings();
        let shim = settings.shim.clone();
        let runtime = settings.runtimes.get(&settings.default_runtime).cloned();
        let components = tokio::task::spawn_blocking(move || {
            let mut components = vec![component(&shim, "-v")];
            components.extend(runtime.map(|program| component(&program, "--version")));
            components
        })
        .await
        .unwrap_or_default();
        Ok(Response::new(pb::VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: option_env!("KEG_GIT_COMMIT").unwrap_or_default().to_owned(),
            api_version: "v1".to_owned(),
            os: "linux".to_owned(),
            architecture: architecture().to_owned(),
            kernel_version: self.engine.host().kernel.clone(),
            components,
        }))
    }

    async fn info(
        &self,
        _request: Request<pb::InfoRequest>,
    ) -> Result<Response<pb::InfoResponse>, Status> {
        let images = self.images.clone();
        let (images, id) = tokio::task::spawn_blocking({
            let id_file = self.engine.settings().root.join("id");
            move || (images.list().map(|list| list.len()), std::fs::read_to_string(id_file))
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
        let counts = self.engine.counts();
        let (settings, host) = (self.engine.settings(), self.engine.host());
        Ok(Response::new(pb::InfoResponse {
            id: id.unwrap_or_default().trim().to_owned(),
            containers: counts.running + counts.paused + counts.stopped,
            containers_running: counts.running,
            containers_paused: counts.paused,
            containers_stopped: counts.stopped,
            images: images.map_err(|error| to_status(&error))? as u64,
            root_dir: settings.root.to_string_lossy().into_owned(),
            state_dir: settings.state.to_string_lossy().into_owned(),
            snapshotter: self.images.snapshotter().name().to_owned(),
            cgroup_version: host.cgroups.as_str().to_owned(),
            cgroup_driver: "cgroupfs".to_owned(),
            kernel_version: host.kernel.clone(),
            operating_system: host.operating_system.clone(),
            architecture: architecture().to_owned(),
            cpus: host.cpus,
            memory_bytes: host.memory_bytes,
            security_options: self
                .engine
                .security_modules()
                .into_iter()
                .chain(["seccomp", "userns", "cgroupns"])
                .map(str::to_owned)
                .collect(),
            warnings: self.engine.warnings(),
            hostname: host.hostname.clone(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            default_runtime: settings.default_runtime.clone(),
            runtimes: settings.runtimes.keys().chain(settings.shims.keys()).cloned().collect(),
            system_time: Some(SystemTime::now().into()),
        }))
    }
}

/// Asks a program for its version; the first line that it prints has it.
fn component(program: &std::path::Path, flag: &str) -> pb::Component {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let printed = Command::new(program).arg(flag).output().map(|output| output.stdout);
    let text = String::from_utf8_lossy(&printed.unwrap_or_default()).into_owned();
    let version = text
        .split_whitespace()
        .find(|word| word.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit()))
        .unwrap_or_default();
    pb::Component {
        name,
        version: version.trim_start_matches('v').to_owned(),
        path: program.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_has_no_version() {
        let component = component(std::path::Path::new("/nonexistent/shim"), "-v");

        assert_eq!((component.name.as_str(), component.version.as_str()), ("shim", ""));
    }

    #[test]
    fn the_version_is_found_in_what_a_program_prints() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        std::fs::write(&program, "#!/bin/sh\necho tool version v1.2.3\necho spec: 9\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();

        assert_eq!(component(&program, "-v").version, "1.2.3");
    }
}
