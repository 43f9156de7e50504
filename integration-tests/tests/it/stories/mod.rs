//! What people do with real servers, from the first command to the last.

mod mariadb;
mod redis;
