//! Further processes of the container.

use std::fs;
use std::rc::Rc;

use keg_proto::containerd::events as pb;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Supervisor, Task, TaskError};
use crate::bundle;
use crate::process::{Happening, Phase, Process};
use crate::reaper::Pid;
use crate::stdio::{Request, Streams};

impl Supervisor {
    /// Adds a process that [`Self::start`] will run.
    ///
    /// The container may have ended already: whether it can still run a process is decided at the
    /// start, before which it may end at any time.
    pub(crate) fn exec(
        &self,
        id: &str,
        exec_id: &str,
        spec: Vec<u8>,
        stdio: Request,
    ) -> Result<(), TaskError> {
        let task = self.task(id)?;
        if exec_id.is_empty() || task.execs.borrow().contains_key(exec_id) {
            return Err(TaskError::ExecExists { exec_id: exec_id.to_owned() });
        }
        if matches!(task.init.phase(), Phase::Added | Phase::Paused { .. }) {
            return Err(TaskError::Phase(task.init.phase().refuse("exec in")));
        }
        if spec.is_empty() {
            return Err(TaskError::NoSpec);
        }
        let spec = with_terminal(spec, stdio.terminal);
        let streams = Streams::new(stdio).map_err(TaskError::Stdio)?;
        let process = Rc::new(Process::new(exec_id, streams, Some(spec)));
        task.execs.borrow_mut().insert(exec_id.to_owned(), process);
        let container_id = task.id.clone();
        self.events.publish(&pb::TaskExecAdded { container_id, exec_id: exec_id.to_owned() });
        Ok(())
    }

    /// Runs the program of a process that was added.
    pub(super) async fn start_exec(
        self: &Rc<Self>,
        task: &Rc<Task>,
        process: &Rc<Process>,
    ) -> Result<Pid, TaskError> {
        let (Phase::Added, Some(spec)) = (process.phase(), process.spec.take()) else {
            return Err(TaskError::Phase(process.phase().refuse("start")));
        };
        let adoption = self.reaper.adopt();
        let number = task.exec_count.get();
        task.exec_count.set(number + 1);
        let file = |kind: &str| task.bundle.dir().join(format!("exec.{number}.{kind}"));
        let (spec_file, pid_file) = (file("json"), file("pid"));
        let started = async {
            bundle::write(spec_file.clone(), &spec).map_err(TaskError::Bundle)?;
            let context = self.stdio_context(task);
            let (ends, ours) = process.streams.prepare(context).await.map_err(TaskError::Stdio)?;
            task.runtime
                .exec(&task.id, &spec_file, &pid_file, ends)
                .await
                .map_err(TaskError::Runtime)?;
            process.streams.start(ours).await.map_err(TaskError::Stdio)?;
            process.streams.open_stdin().map_err(TaskError::Stdio)?;
            bundle::read_pid(&pid_file).map(Pid).map_err(TaskError::Bundle)
        };
        let started = started.await;
        for file in [&spec_file, &pid_file] {
            // What was not written needs no removal.
            let _ = fs::remove_file(file);
        }
        let pid = started.inspect_err(|_| process.streams.close())?;
        process.note(Happening::Started(pid)).map_err(TaskError::Phase)?;
        self.events.publish(&pb::TaskExecStarted {
            container_id: task.id.clone(),
            exec_id: process.exec_id.clone(),
            pid: pid.number(),
        });
        let exited = self.reaper.watch(pid);
        drop(adoption);
        tokio::task::spawn_local(Rc::clone(self).follow(
            Rc::clone(task),
            Rc::clone(process),
            exited,
        ));
        Ok(pid)
    }
}

/// Returns the runtime-spec's process with `terminal` as the request has it, which is what counts:
/// clients leave it out of the process. What cannot be read is the runtime's to refuse.
fn with_terminal(spec: Vec<u8>, terminal: bool) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        terminal: bool,
    }
    if serde_json::from_slice(&spec).is_ok_and(|said: Said| said.terminal == terminal) {
        return spec;
    }
    let Ok(mut process) = serde_json::from_slice::<Map<String, Value>>(&spec) else {
        return spec;
    };
    process.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&process).unwrap_or(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_decides_about_the_terminal() {
        for (spec, terminal, expected) in [
            (r#"{"args":["a"]}"#, false, r#"{"args":["a"]}"#),
            (r#"{"args":["a"]}"#, true, r#"{"args":["a"],"terminal":true}"#),
            (r#"{"terminal":true}"#, true, r#"{"terminal":true}"#),
            (r#"{"terminal":true}"#, false, r#"{"terminal":false}"#),
            (
                r#"{"rlimits":18446744073709551615}"#,
                true,
                r#"{"rlimits":18446744073709551615,"terminal":true}"#,
            ),
            ("no json", true, "no json"),
        ] {
            let process = with_terminal(spec.into(), terminal);

            assert_eq!(String::from_utf8(process).unwrap(), expected);
        }
    }
}
