//! `Containers.Attach`: bytes between a client's call and a shim's socket.
//!
//! ```text
//!  requests ── stdin, stdin_end ──▶ StreamWriter ──▶ shim
//!           └─ resize ────────────▶ Resizer
//!  answers ◀── attached, output, exited ◀── StreamReader ◀── shim
//! ```
//!
//! Both directions wait for each other's reader, and keep nothing but one chunk.

use keg_engine::shim::io::{FromProcess, StreamReader, StreamWriter, Streams};
use keg_engine::{AttachEnd, AttachOptions, Attachment, Engine, EngineError, LogsRequest, Resizer};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::attach_request::Message as FromClient;
use keg_proto::keg::v1::attach_response::Message as ToClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::super::Answers;
use crate::convert;
use crate::status::{invalid, to_status};

/// Answers that may wait for a client.
const QUEUE_LENGTH: usize = 16;

type Answer = Result<pb::AttachResponse, Status>;

/// Serves one call.
pub(super) async fn attach(
    engine: &Engine,
    mut requests: Streaming<pb::AttachRequest>,
) -> Result<Response<Answers<pb::AttachResponse>>, Status> {
    let first = requests.message().await?.and_then(|request| request.message);
    let Some(FromClient::Start(start)) = first else {
        return Err(invalid("start", "the first message must say what to attach to"));
    };
    let options = AttachOptions { stdin: start.stdin, stdout: start.stdout, stderr: start.stderr };
    let attachment =
        engine.attach(&start.container, options).await.map_err(|error| to_status(&error))?;
    let engine = engine.clone();
    let (answers, receiver) = mpsc::channel(QUEUE_LENGTH);
    tokio::spawn(async move {
        let end = serve(&engine, &start, attachment, requests, &answers).await;
        if let Err(error) = end {
            // A client that is gone need not be told.
            let _ = answers.send(Err(to_status(&error))).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

async fn serve(
    engine: &Engine,
    start: &pb::AttachStart,
    mut attachment: Attachment,
    requests: Streaming<pb::AttachRequest>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), EngineError> {
    if !tell(answers, ToClient::Attached(pb::Attached {})).await {
        return Ok(());
    }
    if start.logs {
        send_log(engine, start, answers).await?;
    }
    let streams = tokio::select! {
        streams = attachment.streams() => streams?,
        () = answers.closed() => return Ok(()),
    };
    if let Some(Streams { output, input, .. }) = streams {
        let resizer = attachment.resizer();
        let stdin = start.stdin;
        tokio::select! {
            over = pump_output(&start.container, output, answers) => if !over? { return Ok(()) },
            () = pump_input(requests, input, stdin, resizer) => return Ok(()),
            () = answers.closed() => return Ok(()),
        }
    }
    let end = tokio::select! {
        end = attachment.end() => end,
        () = answers.closed() => return Ok(()),
    };
    if let AttachEnd::Exited(exit) = end {
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

/// Passes on what the client sends. Returns when the client wants to leave: when it closes its side
/// without having asked for standard input. Otherwise it goes on for ever, since the end of input
/// is not the end of output.
async fn pump_input(
    mut requests: Streaming<pb::AttachRequest>,
    mut input: StreamWriter,
    stdin: bool,
    resizer: Resizer,
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
                if let Ok(size) = convert::size_from_pb(size)
                    && let Err(error) = resizer.resize(size).await
                {
                    tracing::debug!(error = %error, "cannot resize a terminal");
                }
            }
            Some(FromClient::Start(_) | FromClient::Stdin(_) | FromClient::StdinEnd(_)) | None => {}
        }
    }
    if stdin {
        if open {
            let _ = input.stdin_end().await;
        }
        // Kept: letting go of it would tell the shim that the client left.
        std::future::pending::<()>().await;
    }
}

/// Sends what the log holds.
async fn send_log(
    engine: &Engine,
    start: &pb::AttachStart,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), EngineError> {
    let mut request = LogsRequest::default();
    request.query.without_stdout = !start.stdout;
    request.query.without_stderr = !start.stderr;
    let mut log = engine.logs(&start.container, request).await?;
    while let Some(batch) = log.next().await {
        for entry in batch? {
            let entry = super::entry_to_pb(entry);
            let output = pb::Output { stream: entry.stream, data: entry.data };
            if !tell(answers, ToClient::Output(output)).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Sends one answer. Returns whether somebody takes it.
async fn tell(answers: &mpsc::Sender<Answer>, message: ToClient) -> bool {
    answers.send(Ok(pb::AttachResponse { message: Some(message) })).await.is_ok()
}
