//! kegd: what survives its death, and the walls of a container that it makes.

mod crash;
mod exec;
mod isolation;
mod restart;
mod volumes;
