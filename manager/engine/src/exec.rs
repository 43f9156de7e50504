//! Runs further processes in a running container.
//!
//! ```text
//!  Task.Exec ─▶ connect to its streams ─▶ Task.Start ─▶ Task.Wait ─▶ Task.Delete
//! ```
//!
//! Nothing is stored: a process belongs to its container's shim, and ends with the container. The
//! waiting and the clean-up run in a task of their own, so they happen whether or not the client
//! stays. After the daemon's death such a process runs on, and the shim cleans up after it.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::{Exit, Lifecycle};
use crate::model::{Record, TerminalSize};
use crate::process_plan::set_env;
use crate::shim::TaskClient;
use crate::shim::io::{Streams, StreamsWanted, connect};
use crate::shim::task::{ExecTask, Stdio};
use crate::signal::Signal;
use crate::spec;
use crate::start::{chain, runtime_error, user_identity};

/// What a runtime's refusal means here.
const NOT_RUN: &str = "the command could not be run";

/// A process to run.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value` after the container's; `NAME` takes the container's away.
    pub env: Vec<String>,
    /// Working directory; empty: the container's.
    pub working_dir: String,
    /// `user[:group]`; empty: the container's.
    pub user: String,
    /// Gives it a terminal.
    pub tty: bool,
    /// Sends standard input.
    pub stdin: bool,
    /// Does not connect to its streams.
    pub detach: bool,
    /// Gives it every capability.
    pub privileged: bool,
    /// Size of the terminal at start.
    pub terminal_size: Option<TerminalSize>,
}

/// A process that runs.
#[derive(Debug)]
pub struct Exec {
    /// Its id in the container.
    pub id: String,
    /// Its process id on the host.
    pub pid: u32,
    /// Its streams, unless it is detached.
    pub streams: Option<Streams>,
    task: TaskClient,
    exit: watch::Receiver<Option<Exit>>,
}

/// Sets the size of one process's terminal.
#[derive(Debug, Clone)]
pub struct ExecResizer {
    id: String,
    task: TaskClient,
}

impl Engine {
    /// Runs a process in a running container. Returns once it runs.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::Paused`], and [`EngineError::Runtime`] if the
    /// command cannot be executed. Nothing is left of it then.
    pub async fn exec(&self, name: &str, request: ExecRequest) -> Result<Exec, EngineError> {
        let container = self.find(name)?;
        let engine = self.clone();
        Self::detached("a process", async move { engine.exec_container(&container, request).await })
            .await
    }

    async fn exec_container(
        &self,
        container: &Arc<Container>,
        request: ExecRequest,
    ) -> Result<Exec, EngineError> {
        let task = container.running_task()?;
        let record = container.record();
        if matches!(record.lifecycle, Lifecycle::Paused { .. }) {
            return Err(EngineError::Paused { container: container.label() });
        }
        if request.command.first().is_none_or(String::is_empty) {
            return Err(EngineError::InvalidField {
                field: "command",
                problem: "no command is given".to_owned(),
            });
        }
        let id = new_id()?;
        let stdio = Stdio {
            terminal: request.tty,
            stdin: if request.stdin && !request.detach { "keg:".into() } else { String::new() },
            stdout: "keg:".to_owned(),
            stderr: if request.tty { String::new() } else { "keg:".into() },
        };
        let (detach, stdin) = (request.detach, request.stdin);
        let process_json = self.exec_process(Arc::clone(&record), request).await?;
        let exec = ExecTask { exec_id: id.clone(), process_json, stdio, detached: detach };
        task.exec(exec)
            .await
            .map_err(|error| runtime_error(container.label(), error).refused(NOT_RUN))?;
        let started = run(&task, &id, detach, stdin, container).await;
        let (pid, streams) = match started {
            Ok(started) => started,
            Err(error) => {
                clean_up(&task, &id).await;
                return Err(error);
            }
        };
        self.tell(&record, "exec_start", &[("execID", id.clone())]);
        let exit = self.watch_exec(Arc::clone(container), task.clone(), id.clone());
        Ok(Exec { id, pid, streams, task, exit })
    }

    /// Writes the process's part of the specification.
    async fn exec_process(
        &self,
        record: Arc<Record>,
        request: ExecRequest,
    ) -> Result<Vec<u8>, EngineError> {
        self.blocking("a process", move |shared| {
            let user = match request.user.as_str() {
                "" => &record.process.user,
                user => user,
            };
            let identity = user_identity(shared, &record, user, &record.host.group_add)?;
            let mut env = record.process.env.clone();
            if request.tty {
                set_env(&mut env, "TERM=xterm").map_err(EngineError::Plan)?;
            }
            for entry in &request.env {
                set_env(&mut env, entry).map_err(EngineError::Plan)?;
            }
            let working_dir = match request.working_dir.as_str() {
                "" => record.process.working_dir.clone(),
                path if path.starts_with('/') => path.into(),
                path => {
                    return Err(EngineError::InvalidField {
                        field: "working_dir",
                        problem: format!("{path:?} is not an absolute path"),
                    });
                }
            };
            let plan = spec::ExecPlan {
                args: request.command,
                env,
                working_dir,
                tty: request.tty,
                privileged: request.privileged,
                terminal_size: request.terminal_size,
            };
            let labels = shared.labels(&record)?;
            let last = shared.host.last_capability;
            let process = spec::exec_process(&record, &identity, plan, last, &labels)
                .map_err(EngineError::Spec)?;
            serde_json::to_vec(&process).map_err(|source| EngineError::DamagedRecord {
                container: record.id.as_str().to_owned(),
                source,
            })
        })
        .await
    }

    /// Waits, in a task of its own, for the end of a process, and cleans up after it.
    fn watch_exec(
        &self,
        container: Arc<Container>,
        task: TaskClient,
        id: String,
    ) -> watch::Receiver<Option<Exit>> {
        let (sender, exit) = watch::channel(None);
        let engine = self.clone();
        tokio::spawn(async move {
            let ended = match task.wait(&id).await {
                Ok(ended) => Exit {
                    code: ended.status,
                    exited_at: ended.exited_at.unwrap_or_else(Timestamp::now),
                    oom_killed: false,
                    error: String::new(),
                },
                Err(error) => Exit {
                    code: 137,
                    exited_at: Timestamp::now(),
                    oom_killed: false,
                    error: format!("the container ended first: {}", chain(&error)),
                },
            };
            let code = ended.code.to_string();
            // Nobody waits for a detached process.
            let _ = sender.send(Some(ended));
            engine.tell(
                &container.record(),
                "exec_die",
                &[("execID", id.clone()), ("exitCode", code)],
            );
            // The shim forgets the process when the container ends, if not now.
            let _ = task.delete(&id).await;
        });
        exit
    }
}

impl Exec {
    /// A handle that sets the size of its terminal.
    pub fn resizer(&self) -> ExecResizer {
        ExecResizer { id: self.id.clone(), task: self.task.clone() }
    }

    /// Waits until it has ended; `None` if that cannot be known any more.
    pub async fn end(mut self) -> Option<Exit> {
        self.ended().await
    }

    /// Kills it. One that has ended is dead already.
    pub(crate) async fn kill(&self) {
        if let Err(error) = self.task.kill(&self.id, Signal::KILL, false).await {
            tracing::debug!(error = %chain(&error), "cannot kill a process");
        }
    }

    /// Does what [`Exec::end`] does, and keeps the handle.
    pub(crate) async fn ended(&mut self) -> Option<Exit> {
        self.exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone())
    }
}

impl ExecResizer {
    /// Sets it. A process that has ended has no terminal, which is no error.
    pub async fn resize(&self, size: TerminalSize) {
        if let Err(error) = self.task.resize(&self.id, size).await {
            tracing::debug!(error = %chain(&error), "cannot resize a terminal");
        }
    }
}

/// Connects to the process that was added, and starts it.
async fn run(
    task: &TaskClient,
    id: &str,
    detach: bool,
    stdin: bool,
    container: &Container,
) -> Result<(u32, Option<Streams>), EngineError> {
    let streams = if detach {
        None
    } else {
        let wanted = StreamsWanted {
            exec_id: id.to_owned(),
            stdin,
            stdout: true,
            stderr: true,
            // Its only client: when that leaves, its input ends.
            stdin_once: true,
        };
        let streams = connect(&task.io_socket(id), &wanted).await;
        Some(
            streams
                .map_err(|source| EngineError::Streams { container: container.label(), source })?,
        )
    };
    let pid = task
        .start(id)
        .await
        .map_err(|error| runtime_error(container.label(), error).refused(NOT_RUN))?;
    Ok((pid, streams))
}

/// Takes away a process that was added and did not start.
async fn clean_up(task: &TaskClient, id: &str) {
    let _ = task.kill(id, Signal::KILL, false).await;
    if let Err(error) = task.delete(id).await
        && !error.is_not_found()
    {
        tracing::debug!(error = %chain(&error), "cannot take away a process that did not start");
    }
}

fn new_id() -> Result<String, EngineError> {
    let octets: [u8; 32] = crate::create::random()?;
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}
