//! A shell for whoever wants to know why a step failed, or what came out.
//!
//! ```text
//! a command failed ─▶ its container as it left it: files, mounts, environment ─┐
//! another step     ─▶ the stage's files as they were before it ────────────────┼─▶ shell ─▶ given up
//! all went well    ─▶ the result's files ───────────────────────────────────────┘
//! ```
//!
//! What is typed there changes nothing: the files go when the shell ends. Other stages go on
//! meanwhile; one shell is offered at a time.

use std::error::Error;
use std::sync::Arc;

use keg_engine::StepPlan;

use crate::build::{Build, Finished};
use crate::error::BuildError;
use crate::request::DebugShell;
use crate::run::Job;
use crate::stage::Stage;

impl Build {
    /// Offers the client a shell by a plan, in place of what the plan would run.
    pub(crate) async fn offer_shell(
        &self,
        plan: StepPlan,
        shell: &[String],
        place: &str,
    ) -> Result<(), BuildError> {
        let _turn = self.inputs.shell.lock().await;
        let offered = self.session.shell(place).await;
        let Some(client) = offered.map_err(|source| BuildError::Session { source })? else {
            return Ok(());
        };
        let mut plan = StepPlan {
            args: shell.iter().take(1).cloned().collect(),
            terminal: Some(client.size),
            ..plan
        };
        if !plan.env.iter().any(|entry| entry.starts_with("TERM=")) {
            plan.env.push("TERM=xterm".to_owned());
        }
        let exit = self.shared.engine.run_step(plan, client.output, Some(client.input)).await;
        // A client that is gone does not want to know.
        let _ = client.ended.send(exit.map(|exit| exit.code).map_err(|error| whole(&error)));
        Ok(())
    }
}

impl Build {
    /// Offers a shell in the result, if one is wanted there.
    pub(crate) async fn look_at(self: &Arc<Self>, finished: &Finished) {
        let Ok(target) = self.target() else { return };
        let mut stage = Stage::of_built(Arc::clone(self), target, &finished.stage);
        stage.offer_shell("in the result", true).await;
    }
}

impl Stage {
    /// Offers a shell in the stage's files as they are. That it cannot be had is no failure of the
    /// build, which has its own by now.
    pub(crate) async fn offer_shell(&mut self, place: &str, is_success: bool) {
        let wanted = match self.build.request.debug_shell {
            DebugShell::Never => false,
            DebugShell::OnFailure => !is_success,
            DebugShell::Always => true,
        };
        if !wanted {
            return;
        }
        let shell = self.config.shell();
        let mut job = Job::of(shell.clone());
        job.network = self.build.request.network;
        job.env = self.run_env();
        let outcome = match self.ready(job).await {
            Ok(ready) => self.build.offer_shell(ready.plan(), &shell, place).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let message = format!("no shell can be had {place}: {}", whole(&error));
            self.build.progress.warn(None, "DebugShell", message);
        }
    }
}

/// An error with all its causes.
pub(crate) fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        at = cause.source();
    }
    text
}
