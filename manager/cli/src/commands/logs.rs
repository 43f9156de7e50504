//! `keg logs`: shows what a container has written.

use std::io::Write as _;

use clap::Args;
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use keg_proto::keg::v1::{LogEntry, LogsRequest, Stream};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::moment;

/// Bytes that are collected before they are written, while more keep coming.
const BATCH_BYTES: usize = 64 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg logs web
  keg logs -f --tail 20 web            the last 20 lines, and those to come
  keg logs -t --since 10m web          the last ten minutes, with their times")]
pub(crate) struct LogsArgs {
    /// Show the labels and variables that `run --log-opt` has chosen
    #[arg(long)]
    details: bool,
    /// Go on until the container ends
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only from this moment on (RFC 3339, a date, seconds since 1970, or a duration ago as in 10m)
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Only the last so many lines, or "all"
    #[arg(
        short = 'n',
        long,
        value_name = "LINES",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// Show times
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Only up to this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Not a number of lines.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no number of lines: give digits, or \"all\"")]
struct TailError {
    text: String,
}

impl LogsArgs {
    /// The request; negative numbers of lines mean all, as for Docker.
    fn request(&self, now: Timestamp) -> Result<LogsRequest, Failure> {
        let tail = match self.tail.as_str() {
            "all" | "" => None,
            text => {
                let lines: i64 = text
                    .parse()
                    .map_err(|_| Failure::usage(TailError { text: text.to_owned() }))?;
                u64::try_from(lines).ok()
            }
        };
        let at = |text: &Option<String>| {
            text.as_deref()
                .map(|text| moment::parse(text, now))
                .transpose()
                .map_err(Failure::senseless)
        };
        Ok(LogsRequest {
            container: self.container.clone(),
            follow: self.follow,
            tail,
            since: at(&self.since)?,
            until: at(&self.until)?,
            stdout: true,
            stderr: true,
            details: self.details,
        })
    }
}

/// Shows the log, each stream where it belongs.
pub(crate) async fn run(args: LogsArgs, host: &str) -> Result<u8, Failure> {
    let request = args.request(Timestamp::now())?;
    let daemon = Daemon::connect(host).await?;
    let mut entries = daemon.containers().logs(request).await?.into_inner();
    let mut batch = Batch::default();
    loop {
        let next = match entries.next().now_or_never() {
            Some(next) => next,
            // Nothing more at the moment: what is here should be seen.
            None => {
                batch.write()?;
                entries.next().await
            }
        };
        match next {
            None => break,
            Some(Ok(entry)) => batch.add(&entry, args.timestamps)?,
            Some(Err(status)) => {
                batch.write()?;
                return Err(status.into());
            }
        }
    }
    batch.write()?;
    Ok(0)
}

/// Lines of one stream that are written at once.
#[derive(Debug, Default)]
struct Batch {
    to_stderr: bool,
    bytes: Vec<u8>,
}

impl Batch {
    fn add(&mut self, entry: &LogEntry, with_time: bool) -> Result<(), Failure> {
        let to_stderr = entry.stream() == Stream::Stderr;
        if to_stderr != self.to_stderr || self.bytes.len() >= BATCH_BYTES {
            self.write()?;
            self.to_stderr = to_stderr;
        }
        if with_time {
            self.bytes.extend(moment::rfc3339_nanos(entry.time.as_ref()).into_bytes());
            self.bytes.push(b' ');
        }
        if !entry.details.is_empty() {
            self.bytes.extend_from_slice(entry.details.as_bytes());
            self.bytes.push(b' ');
        }
        self.bytes.extend_from_slice(&entry.data);
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        let written = if self.to_stderr {
            std::io::stderr().lock().write_all(&self.bytes)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(&self.bytes).and_then(|()| out.flush())
        };
        self.bytes.clear();
        written.map_err(|error| Failure::stream(&error, "write the log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Logs {
        #[command(flatten)]
        args: LogsArgs,
    }

    fn request(line: &str) -> Result<LogsRequest, String> {
        let words = ["logs"].into_iter().chain(line.split_whitespace());
        let logs = Logs::try_parse_from(words).map_err(|error| error.to_string())?;
        let now = Timestamp::new(1000, 0).expect("a moment");
        logs.args.request(now).map_err(|failure| failure.render())
    }

    #[test]
    fn tail_takes_numbers_all_and_negative_ones() {
        let table = [
            ("c", None),
            ("-n 5 c", Some(5)),
            ("--tail all c", None),
            ("-n 0 c", Some(0)),
            ("-n -1 c", None),
        ];
        for (line, tail) in table {
            assert_eq!(request(line).expect(line).tail, tail, "{line}");
        }
        assert!(request("-n many c").is_err());
    }

    #[test]
    fn moments_are_taken_from_now() {
        let request = request("--since 100s --until 2000 c").expect("a request");

        assert_eq!(request.since.map(|moment| moment.seconds), Some(900));
        assert_eq!(request.until.map(|moment| moment.seconds), Some(2000));
    }
}
