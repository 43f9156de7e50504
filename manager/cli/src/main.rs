//! keg: the command line that people type.

fn main() {}
