//! Finished text for standard output and standard error.

use std::io::Write as _;

use crate::failure::Failure;

/// Writes text to standard output.
///
/// # Errors
/// A [`Failure`], silent if nobody reads any more.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::stream(&error, "write to standard output"))
}

/// Writes a line to standard output.
///
/// # Errors
/// A [`Failure`], silent if nobody reads any more.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

/// Writes text to standard error. Nothing can be said of a failure, so nothing is.
pub(crate) fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Does something for each of several objects: prints what came of each, and of each failure, and
/// goes on. What came of it may be nothing to speak of, an empty text.
///
/// # Errors
/// A [`Failure`] if one of them failed, or nothing can be written.
pub(crate) async fn for_each<'a, F>(
    names: &'a [String],
    mut act: impl FnMut(&'a str) -> F,
) -> Result<u8, Failure>
where
    F: Future<Output = Result<String, Failure>>,
{
    let mut failed = false;
    for name in names {
        match act(name).await {
            Ok(line) if line.is_empty() => {}
            Ok(line) => print_line(&line)?,
            Err(failure) => {
                complain(&failure.render());
                failed = true;
            }
        }
    }
    if failed { Err(Failure::reported()) } else { Ok(0) }
}
