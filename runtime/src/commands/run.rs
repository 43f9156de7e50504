//! `run`: create and start in one, in the foreground or not.

use std::os::fd::AsFd;

use clap::Args;

use super::create::{CreateOptions, Created, Start, create, create_with};
use super::delete::destroy;
use super::foreground::Foreground;
use super::start::run_poststart;
use super::{CommandError, Context};
use crate::console::ConsoleError;
use crate::log::{Level, Log};
use crate::stage::launch::Console;

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) options: CreateOptions,
    /// Leave the container running and return.
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keep the container's state after it has ended.
    #[arg(long)]
    pub(super) keep: bool,
    /// Do not adopt the container's orphans.
    #[arg(long)]
    pub(super) no_subreaper: bool,
    /// Name of the container.
    pub(super) id: String,
}

impl Run {
    pub(super) fn run(self, context: &Context, log: &mut Log) -> Result<u8, CommandError> {
        if self.detach {
            let created = create(context, log, &self.id, &self.options, Start::Now)?;
            self.execute(&created)?;
            return Ok(0);
        }
        if self.options.console_socket.is_some() {
            return Err(CommandError::Console(ConsoleError::SocketUseless));
        }
        let (foreground, console) = Foreground::prepare(!self.no_subreaper)?;
        // Whether there is a terminal the specification says; an unused one is closed unseen.
        let mut offered = Some(console);
        let created = create_with(context, log, &self.id, &self.options, Start::Now, |plan| {
            offered.take().filter(|_| plan.process.terminal).map(Console::Connected)
        })?;
        self.execute(&created)?;
        let code = foreground.supervise(
            created.launched.pid,
            created.launched.pidfd.as_fd(),
            created.plan.process.terminal,
        );
        if !self.keep
            && let Err(error) = destroy(&created.dir, &created.state, log)
        {
            // The program's own exit code is worth more.
            log.write(Level::Warning, &super::chain(&error), Some(error.reason()));
        }
        code
    }

    fn execute(&self, created: &Created) -> Result<(), CommandError> {
        let Created { launched, plan, state, .. } = created;
        self.options
            .announce(launched.pid, launched.pidfd.as_fd())
            .and_then(|()| launched.execute(plan).map_err(CommandError::Start))
            .and_then(|()| run_poststart(state))
            .inspect_err(|_| {
                launched.abandon();
                created.discard();
            })
    }
}
