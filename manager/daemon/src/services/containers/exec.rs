//! `Containers.Exec`: a further process in a container, and its streams.

use keg_engine::model::TerminalSize;
use keg_engine::shim::io::Streams;
use keg_engine::{Engine, EngineError, Exec, ExecRequest, ExecResizer};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::exec_request::Message as FromClient;
use keg_proto::keg::v1::exec_response::Message as ToClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::super::Answers as AnswerStream;
use super::streams::{
    Answers, ClientMessage, DaemonMessage, Input, OnClose, QUEUE_LENGTH, Terminal, pump_input,
    pump_output,
};
use crate::convert;
use crate::status::{invalid, to_status};

/// Serves one call.
pub(super) async fn exec(
    engine: &Engine,
    mut requests: Streaming<pb::ExecRequest>,
) -> Result<Response<AnswerStream<pb::ExecResponse>>, Status> {
    let first = requests.message().await?.and_then(|request| request.message);
    let Some(FromClient::Start(start)) = first else {
        return Err(invalid("start", "the first message must say what to run"));
    };
    let stdin = start.stdin && !start.detach;
    let request = ExecRequest {
        command: start.command,
        env: start.env,
        working_dir: start.working_dir,
        user: start.user,
        tty: start.tty,
        stdin,
        detach: start.detach,
        privileged: start.privileged,
        terminal_size: start.terminal_size.map(convert::size_from_pb).transpose()?,
    };
    let exec = engine.exec(&start.container, request).await.map_err(|error| to_status(&error))?;
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let answers = Answers::new(sender);
    tokio::spawn(async move {
        if let Err(error) = serve(&start.container, exec, stdin, requests, &answers).await {
            answers.fail(to_status(&error)).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

async fn serve(
    container: &str,
    mut exec: Exec,
    stdin: bool,
    requests: Streaming<pb::ExecRequest>,
    answers: &Answers<pb::ExecResponse>,
) -> Result<(), EngineError> {
    let started = pb::ExecStarted { exec_id: exec.id.clone(), pid: exec.pid };
    if !answers.tell(answer(ToClient::Started(started))).await {
        return Ok(());
    }
    let Some(Streams { output, input, .. }) = exec.streams.take() else { return Ok(()) };
    let terminal = exec.resizer();
    tokio::select! {
        over = pump_output(container, output, answers) => if !over? { return Ok(()) },
        () = pump_input(requests, input, stdin, OnClose::Stay, terminal) => return Ok(()),
        () = answers.closed() => return Ok(()),
    }
    let end = tokio::select! {
        end = exec.end() => end,
        () = answers.closed() => return Ok(()),
    };
    if let Some(exit) = end {
        answers.tell(answer(ToClient::Exited(convert::exit_to_pb(&exit)))).await;
    }
    Ok(())
}

impl ClientMessage for pb::ExecRequest {
    fn input(self) -> Input {
        match self.message {
            Some(FromClient::Stdin(bytes)) => Input::Stdin(bytes),
            Some(FromClient::StdinEnd(_)) => Input::StdinEnd,
            Some(FromClient::Resize(size)) => Input::Resize(size),
            Some(FromClient::Start(_)) | None => Input::Nothing,
        }
    }
}

impl DaemonMessage for pb::ExecResponse {
    fn output(output: pb::Output) -> Self {
        answer(ToClient::Output(output))
    }
}

impl Terminal for ExecResizer {
    async fn resize(&self, size: TerminalSize) {
        Self::resize(self, size).await;
    }
}

fn answer(message: ToClient) -> pb::ExecResponse {
    pb::ExecResponse { message: Some(message) }
}
