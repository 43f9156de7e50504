//! `Containers.Attach`: a client joins the streams of a container's process.

use keg_engine::model::TerminalSize;
use keg_engine::shim::io::Streams;
use keg_engine::{AttachEnd, AttachOptions, Attachment, Engine, EngineError, LogsRequest, Resizer};
use keg_proto::keg::v1 as pb;
use keg_proto::keg::v1::attach_request::Message as FromClient;
use keg_proto::keg::v1::attach_response::Message as ToClient;
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
pub(super) async fn attach(
    engine: &Engine,
    mut requests: Streaming<pb::AttachRequest>,
) -> Result<Response<AnswerStream<pb::AttachResponse>>, Status> {
    let first = requests.message().await?.and_then(|request| request.message);
    let Some(FromClient::Start(start)) = first else {
        return Err(invalid("start", "the first message must say what to attach to"));
    };
    let options = AttachOptions { stdin: start.stdin, stdout: start.stdout, stderr: start.stderr };
    let attachment =
        engine.attach(&start.container, options).await.map_err(|error| to_status(&error))?;
    let engine = engine.clone();
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let answers = Answers::new(sender);
    tokio::spawn(async move {
        let end = serve(&engine, &start, attachment, requests, &answers).await;
        if let Err(error) = end {
            answers.fail(to_status(&error)).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

async fn serve(
    engine: &Engine,
    start: &pb::AttachStart,
    mut attachment: Attachment,
    requests: Streaming<pb::AttachRequest>,
    answers: &Answers<pb::AttachResponse>,
) -> Result<(), EngineError> {
    if !answers.tell(answer(ToClient::Attached(pb::Attached {}))).await {
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
        let on_close = if start.stdin { OnClose::Stay } else { OnClose::Leave };
        tokio::select! {
            over = pump_output(&start.container, output, answers) => if !over? { return Ok(()) },
            () = pump_input(requests, input, start.stdin, on_close, attachment.resizer()) => return Ok(()),
            () = answers.closed() => return Ok(()),
        }
    }
    let end = tokio::select! {
        end = attachment.end() => end,
        () = answers.closed() => return Ok(()),
    };
    if let AttachEnd::Exited(exit) = end {
        answers.tell(answer(ToClient::Exited(convert::exit_to_pb(&exit)))).await;
    }
    Ok(())
}

/// Sends what the log holds.
async fn send_log(
    engine: &Engine,
    start: &pb::AttachStart,
    answers: &Answers<pb::AttachResponse>,
) -> Result<(), EngineError> {
    let mut request = LogsRequest::default();
    request.query.without_stdout = !start.stdout;
    request.query.without_stderr = !start.stderr;
    let mut log = engine.logs(&start.container, request).await?;
    while let Some(batch) = log.next().await {
        for entry in batch? {
            let entry = super::entry_to_pb(entry);
            let output = pb::Output { stream: entry.stream, data: entry.data };
            if !answers.tell(DaemonMessage::output(output)).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl ClientMessage for pb::AttachRequest {
    fn input(self) -> Input {
        match self.message {
            Some(FromClient::Stdin(bytes)) => Input::Stdin(bytes),
            Some(FromClient::StdinEnd(_)) => Input::StdinEnd,
            Some(FromClient::Resize(size)) => Input::Resize(size),
            Some(FromClient::Start(_)) | None => Input::Nothing,
        }
    }
}

impl DaemonMessage for pb::AttachResponse {
    fn output(output: pb::Output) -> Self {
        answer(ToClient::Output(output))
    }
}

impl Terminal for Resizer {
    async fn resize(&self, size: TerminalSize) {
        if let Err(error) = Self::resize(self, size).await {
            tracing::debug!(error = %error, "cannot resize a terminal");
        }
    }
}

fn answer(message: ToClient) -> pb::AttachResponse {
    pb::AttachResponse { message: Some(message) }
}
