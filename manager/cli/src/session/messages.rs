//! What goes to a process and comes from it, whichever call it travels in: `Attach` or `Exec`.

use keg_proto::keg::v1::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, ExitStatus, Output, StdinEnd,
    TerminalSize, attach_request, attach_response, exec_request, exec_response,
};
use tonic::{Status, Streaming};

/// What goes to a process after the connection stands.
#[derive(Debug)]
pub(super) enum ToProcess {
    /// Bytes for standard input.
    Stdin(Vec<u8>),
    /// The end of standard input.
    StdinEnd,
    /// Our terminal's size.
    Resize(TerminalSize),
}

impl From<ToProcess> for AttachRequest {
    fn from(message: ToProcess) -> Self {
        use attach_request::Message;
        let message = match message {
            ToProcess::Stdin(bytes) => Message::Stdin(bytes),
            ToProcess::StdinEnd => Message::StdinEnd(StdinEnd {}),
            ToProcess::Resize(size) => Message::Resize(size),
        };
        Self { message: Some(message) }
    }
}

impl From<ToProcess> for ExecRequest {
    fn from(message: ToProcess) -> Self {
        use exec_request::Message;
        let message = match message {
            ToProcess::Stdin(bytes) => Message::Stdin(bytes),
            ToProcess::StdinEnd => Message::StdinEnd(StdinEnd {}),
            ToProcess::Resize(size) => Message::Resize(size),
        };
        Self { message: Some(message) }
    }
}

/// What comes from a process.
#[derive(Debug)]
pub(super) enum FromProcess {
    /// The connection stands.
    Joined,
    /// Bytes that it wrote.
    Output(Output),
    /// It has ended.
    Exited(ExitStatus),
}

impl FromProcess {
    fn of_attach(response: AttachResponse) -> Option<Self> {
        use attach_response::Message;
        response.message.map(|message| match message {
            Message::Attached(_) => Self::Joined,
            Message::Output(output) => Self::Output(output),
            Message::Exited(status) => Self::Exited(status),
        })
    }

    fn of_exec(response: ExecResponse) -> Option<Self> {
        use exec_response::Message;
        response.message.map(|message| match message {
            Message::Started(_) => Self::Joined,
            Message::Output(output) => Self::Output(output),
            Message::Exited(status) => Self::Exited(status),
        })
    }
}

/// The answers of a call.
#[derive(Debug)]
pub(super) enum Answers {
    /// Of `Attach`.
    Attach(Streaming<AttachResponse>),
    /// Of `Exec`.
    Exec(Streaming<ExecResponse>),
}

impl Answers {
    /// Waits for the next answer; `None` at the end. What is newer than this program is skipped.
    pub(super) async fn next(&mut self) -> Result<Option<FromProcess>, Status> {
        loop {
            let next = match self {
                Self::Attach(answers) => answers.message().await?.map(FromProcess::of_attach),
                Self::Exec(answers) => answers.message().await?.map(FromProcess::of_exec),
            };
            match next {
                None => return Ok(None),
                Some(Some(answer)) => return Ok(Some(answer)),
                Some(None) => {}
            }
        }
    }
}
