//! kegd: what survives its death, and the walls of a container that it makes.

mod crash;
mod disk_full;
mod exec;
mod files;
mod frozen;
mod health;
mod hostile;
mod isolation;
mod kills;
mod labels;
mod race;
mod restart;
mod selinux;
mod sharing;
mod tls;
mod volumes;
mod walls;
