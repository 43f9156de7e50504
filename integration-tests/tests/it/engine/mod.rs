//! kegd: what survives its death, and the walls of a container that it makes.

mod crash;
mod exec;
mod files;
mod health;
mod isolation;
mod restart;
mod sharing;
mod volumes;
