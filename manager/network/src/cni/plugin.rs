//! Runs plugins (CNI specification 1.1, section 2): the question in the environment and on standard
//! input, the answer on standard output.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;

use super::result::CniFailure;
use super::{Cni, CniError, PATIENCE};

impl Cni {
    /// Runs a plugin, and returns what it answers.
    pub(super) async fn call(
        &self,
        plugin: &Map<String, Value>,
        command: &'static str,
        environment: &[(&'static str, String)],
        config: &Map<String, Value>,
    ) -> Result<Value, CniError> {
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let program = self.program(&name)?;
        let run = |source| CniError::Run { plugin: name.clone(), source };
        let path = std::env::join_paths(&self.settings.plugin_dirs).unwrap_or_default();
        let mut child = tokio::process::Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", path)
            .envs(environment.iter().map(|(key, value)| (*key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let mut stdin = child.stdin.take();
        let text = Value::Object(config.clone()).to_string();
        let talk = async {
            if let Some(mut stdin) = stdin.take() {
                // A plugin that does not read what it is told says so by its exit code.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, talk)
            .await
            .map_err(|_| CniError::Timeout { plugin: name.clone() })?
            .map_err(run)?;
        if !output.status.success() {
            let failure: CniFailure = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let words = String::from_utf8_lossy(&output.stderr);
            let said = [failure.msg.as_str(), failure.details.as_str(), words.trim()];
            let message = said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
            return Err(CniError::Refused {
                plugin: name,
                command,
                code: failure.code,
                message: message.join("; "),
            });
        }
        if command != "ADD" {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|source| CniError::Answer { plugin: name, source })
    }

    pub(super) fn program(&self, plugin: &str) -> Result<PathBuf, CniError> {
        let directories = &self.settings.plugin_dirs;
        let is_name = !plugin.is_empty() && !plugin.contains('/');
        let mut candidates = directories.iter().map(|directory| directory.join(plugin));
        candidates.find(|path| is_name && path.is_file()).ok_or_else(|| CniError::NoPlugin {
            plugin: plugin.to_owned(),
            directories: directories
                .iter()
                .map(|directory| directory.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}
