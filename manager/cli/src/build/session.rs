//! One build: sends what to build, answers questions until the daemon is done.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keg_proto::keg::v1::build_request::Part;
use keg_proto::keg::v1::build_response::Event;
use keg_proto::keg::v1::{
    BuildDone, BuildRefusal, BuildRequest, BuildResponse, BuildStart, CredentialsAnswer,
    FetchFiles, OutputPiece, SecretAnswer, ShellOutput,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::agent::Agents;
use super::display::Display;
use super::files::{Root, send_all};
use super::flags::Secret;
use super::output::{Destination, Sink};
use super::shell::{self, Shell};
use crate::client::Daemon;
use crate::credentials;
use crate::failure::Failure;

/// Messages that wait for the daemon.
const MESSAGES: usize = 64;

/// What the client has.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// Directories, by the names of contexts.
    pub(crate) roots: HashMap<String, Arc<Root>>,
    /// What was read from standard input already, if that is the context.
    pub(crate) archive: Option<Vec<u8>>,
    /// Secrets.
    pub(crate) secrets: HashMap<String, Secret>,
    /// SSH agents.
    pub(crate) agents: Agents,
    /// Where what is sent goes.
    pub(crate) destination: Option<Destination>,
    /// Directories of caches, by the numbers under which they are sent.
    pub(crate) caches: HashMap<u32, PathBuf>,
}

/// Builds.
pub(crate) async fn build(
    daemon: &Daemon,
    start: BuildStart,
    mut offer: Offer,
    display: &mut Display,
) -> Result<BuildDone, Failure> {
    let (answers, outgoing) = mpsc::channel(MESSAGES);
    // The receiver is there, and the queue is empty.
    let _ = answers.try_send(BuildRequest { part: Some(Part::Start(start)) });
    let mut events = daemon.builds().build(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut sinks = Sinks::default();
    let mut done = None;
    let mut shell: Option<Shell> = None;
    // What is told while a shell has the terminal.
    let mut held = Vec::new();
    while let Some(response) = next(&mut events, &mut shell).await? {
        match response.event {
            Some(Event::List(question)) => {
                let root = offer.roots.get(&question.context).cloned();
                answer(&answers, question.question, move |_| {
                    let root = root.ok_or(io::ErrorKind::NotFound)?;
                    root.list(&question).map(Part::Listing).map(Some)
                });
            }
            Some(Event::Fetch(question)) => fetch(&answers, question, &mut offer),
            Some(Event::Secret(question)) => {
                let secret = offer.secrets.get(&question.id).cloned();
                answer(&answers, question.question, move |_| {
                    let value = secret.as_ref().map(read_secret).transpose()?;
                    Ok(Some(Part::Secret(SecretAnswer {
                        question: question.question,
                        found: value.is_some(),
                        value: value.unwrap_or_default(),
                    })))
                });
            }
            Some(Event::Credentials(question)) => {
                answer(&answers, question.question, move |_| {
                    let auth = credentials::for_registry(&question.registry);
                    let question = question.question;
                    Ok(Some(Part::Credentials(CredentialsAnswer { question, auth })))
                });
            }
            Some(Event::Agent(frame)) => offer.agents.frame(frame, &answers).await,
            Some(Event::Shell(output)) => {
                shell = on_shell(shell, &output, &answers, display).await?;
                if shell.is_none() {
                    held.drain(..).for_each(|event| display.tell(&event));
                }
            }
            Some(Event::Output(piece)) => sinks.write(&piece, &offer)?,
            Some(Event::Failure(failure)) => display.failure(&failure),
            Some(Event::Done(message)) => done = Some(message),
            Some(event) if shell.is_some() => held.push(event),
            Some(event) => display.tell(&event),
            None => {}
        }
    }
    sinks.finish()?;
    Ok(done.unwrap_or_default())
}

/// Waits for what the daemon tells; a signal ends us while a shell has the terminal.
async fn next(
    events: &mut tonic::Streaming<BuildResponse>,
    shell: &mut Option<Shell>,
) -> Result<Option<BuildResponse>, Failure> {
    let Some(shell) = shell else { return Ok(events.next().await.transpose()?) };
    tokio::select! {
        event = events.next() => Ok(event.transpose()?),
        signal = shell.interrupted() => Err(Failure::client(signal)),
    }
}

/// Opens a shell, shows what it writes, or ends it.
async fn on_shell(
    shell: Option<Shell>,
    output: &ShellOutput,
    answers: &mpsc::Sender<BuildRequest>,
    display: &mut Display,
) -> Result<Option<Shell>, Failure> {
    match shell {
        None if output.end => Ok(None),
        None if !crate::terminal::stdin_is_terminal() => {
            shell::refuse(output, answers).await;
            Ok(None)
        }
        None => {
            display.make_room(&output.place);
            Shell::accept(output, answers).await.map(Some)
        }
        Some(shell) if shell.show(output) => Ok(Some(shell)),
        Some(shell) => {
            drop(shell);
            shell::farewell(output);
            Ok(None)
        }
    }
}

/// What takes what is sent: the output, and directories of caches.
#[derive(Debug, Default)]
struct Sinks(HashMap<u32, Sink>);

impl Sinks {
    fn write(&mut self, piece: &OutputPiece, offer: &Offer) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::stream(&error, "write the result");
        let sink = match self.0.entry(piece.cache) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let destination = match (piece.cache, offer.caches.get(&piece.cache)) {
                    (0, _) => offer.destination.clone().unwrap_or(Destination::Stdout),
                    (_, Some(directory)) => Destination::Directory(directory.clone()),
                    (_, None) => return Err(failed(io::ErrorKind::NotFound.into())),
                };
                entry.insert(Sink::open(&destination).map_err(failed)?)
            }
        };
        sink.write(&piece.data).map_err(failed)
    }

    fn finish(self) -> Result<(), Failure> {
        self.0.into_values().try_for_each(|sink| {
            sink.finish().map_err(|error| Failure::stream(&error, "write the result"))
        })
    }
}

fn read_secret(secret: &Secret) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;

    match secret {
        Secret::File(path) => std::fs::read(path),
        Secret::Variable(name) => Ok(std::env::var_os(name).unwrap_or_default().into_vec()),
    }
}

/// Answers a question on a thread made for waiting; `work` may send pieces by itself.
fn answer(
    answers: &mpsc::Sender<BuildRequest>,
    question: u64,
    work: impl FnOnce(&mpsc::Sender<BuildRequest>) -> io::Result<Option<Part>> + Send + 'static,
) {
    let answers = answers.clone();
    tokio::task::spawn_blocking(move || {
        let part = match work(&answers) {
            Ok(None) => return,
            Ok(part) => part,
            Err(error) => Some(Part::Refusal(BuildRefusal { question, why: error.to_string() })),
        };
        // The daemon may have given the build up.
        let _ = answers.blocking_send(BuildRequest { part });
    });
}

fn fetch(answers: &mpsc::Sender<BuildRequest>, question: FetchFiles, offer: &mut Offer) {
    let number = question.question;
    let is_archive = question.paths == [String::new()];
    let archive = if is_archive { offer.archive.take() } else { None };
    let root = offer.roots.get(&question.context).cloned();
    answer(answers, number, move |answers| {
        let mut send = |piece| {
            answers
                .blocking_send(BuildRequest { part: Some(Part::Piece(piece)) })
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        };
        if is_archive {
            let rest = io::stdin().lock();
            let whole = io::Read::chain(io::Cursor::new(archive.unwrap_or_default()), rest);
            send_all(whole, number, 0, &mut send)?;
        } else {
            root.ok_or(io::ErrorKind::NotFound)?.fetch(&question, send)?;
        }
        Ok(None)
    });
}
