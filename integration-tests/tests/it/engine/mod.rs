//! kegd: what survives its death, and the walls of a container that it makes.

mod crash;
mod exec;
mod files;
mod frozen;
mod health;
mod hostile;
mod isolation;
mod race;
mod restart;
mod sharing;
mod tls;
mod volumes;
mod walls;
