//! Questions before something is gone for good.

use std::io::{BufRead as _, Write as _};

use crate::failure::Failure;

/// Shows a warning and asks whether to go on; the end of the input means no.
///
/// # Errors
/// A [`Failure`] if the terminal cannot be written to or read from.
pub(crate) fn confirm(warning: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    write!(out, "WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::stream(&error, "standard output"))?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::stream(&error, "standard input"))?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("Y", true), ("", false), ("n", false), ("x", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }
}
