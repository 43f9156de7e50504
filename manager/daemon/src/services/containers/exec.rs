//! `Containers.Exec`: a process, and bytes between a client's call and the shim's socket.

use keg_engine::shim::io::{FromProcess, StreamReader, StreamWriter, Streams};
use keg_engine::{Engine, EngineError, Exec, ExecRequest, ExecResizer};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::exec_request::Message as FromClient;
use keg_proto::keg::v1::exec_response::Message as ToClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};

/// Answers that may wait for a client.
const QUEUE_LENGTH: usize = 16;

type Answer = Result<pb::ExecResponse, Status>;

/// Serves one call.
pub(super) async fn exec(
    engine: &Engine,
    mut requests: Streaming<pb::ExecRequest>,
) -> Result<Response<Answers<pb::ExecResponse>>, Status> {
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
    let (answers, receiver) = mpsc::channel(QUEUE_LENGTH);
    tokio::spawn(async move {
        if let Err(error) = serve(&start.container, exec, stdin, requests, &answers).await {
            // A client that is gone need not be told.
            let _ = answers.send(Err(to_status(&error))).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

async fn serve(
    container: &str,
    mut exec: Exec,
    stdin: bool,
    requests: Streaming<pb::ExecRequest>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), EngineError> {
    let started = pb::ExecStarted { exec_id: exec.id.clone(), pid: exec.pid };
    if !tell(answers, ToClient::Started(started)).await {
        return Ok(());
    }
    let Some(Streams { output, input, .. }) = exec.streams.take() else { return Ok(()) };
    let resizer = exec.resizer();
    tokio::select! {
        over = pump_output(container, output, answers) => if !over? { return Ok(()) },
        () = pump_input(requests, input, stdin, resizer) => return Ok(()),
        () = answers.closed() => return Ok(()),
    }
    let end = tokio::select! {
        end = exec.end() => end,
        () = answers.closed() => return Ok(()),
    };
    if let Some(exit) = end {
        tell(answers, ToClient::Exited(convert::exit_to_pb(&exit))).await;
    }
    Ok(())
}

/// Sends what the process writes until it ends. Returns whether the client is still there.
async fn pump_output(
    container: &str,
    mut output: StreamReader,
    answers: &mpsc::Sender<Answer>,
) -> Result<bool, EngineError> {
    loop {
        let next = output
            .next_output()
            .await
            .map_err(|source| EngineError::Streams { container: container.to_owned(), source })?;
        let (stream, data) = match next {
            FromProcess::Stdout(data) => (pb::Stream::Stdout, data),
            FromProcess::Stderr(data) => (pb::Stream::Stderr, data),
            FromProcess::End { .. } => return Ok(true),
        };
        let output = pb::Output { stream: stream.into(), data: data.to_vec() };
        if !tell(answers, ToClient::Output(output)).await {
            return Ok(false);
        }
    }
}

/// Passes on what the client sends, for as long as the process runs: that a client has nothing
/// more to say does not mean that it does not listen.
async fn pump_input(
    mut requests: Streaming<pb::ExecRequest>,
    mut input: StreamWriter,
    stdin: bool,
    resizer: ExecResizer,
) {
    let mut open = stdin;
    while let Ok(Some(request)) = requests.message().await {
        match request.message {
            Some(FromClient::Stdin(bytes)) if open => open = input.stdin(&bytes).await.is_ok(),
            Some(FromClient::StdinEnd(_)) if open => {
                // Whoever cannot be told any more has ended its input as well.
                let _ = input.stdin_end().await;
                open = false;
            }
            Some(FromClient::Resize(size)) => {
                if let Ok(size) = convert::size_from_pb(size) {
                    resizer.resize(size).await;
                }
            }
            Some(FromClient::Start(_) | FromClient::Stdin(_) | FromClient::StdinEnd(_)) | None => {}
        }
    }
    if open {
        let _ = input.stdin_end().await;
    }
    // Kept: letting go of it would tell the shim that the client left.
    std::future::pending::<()>().await;
}

/// Sends one answer. Returns whether somebody takes it.
async fn tell(answers: &mpsc::Sender<Answer>, message: ToClient) -> bool {
    answers.send(Ok(pb::ExecResponse { message: Some(message) })).await.is_ok()
}
