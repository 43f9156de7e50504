//! `keg` as people type it: output, errors, exit codes, terminals.

mod errors;
mod flags;
mod list;
mod run;
mod terminal;
