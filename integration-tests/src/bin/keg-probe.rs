//! Reports from inside a container what it sees.

fn main() {}
