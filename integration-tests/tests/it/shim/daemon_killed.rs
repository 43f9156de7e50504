//! A daemon that is killed again and again, and a log that misses nothing.

use std::time::{Duration, Instant};

use keg_fixtures::{Daemon, requires};

/// How long the container logs a line per millisecond; `KEG_TEST_SOAK_SECS` says otherwise.
fn soak() -> Duration {
    let secs = std::env::var("KEG_TEST_SOAK_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(secs.unwrap_or(10))
}

#[test]
fn every_line_is_in_the_log_once_however_often_the_daemon_is_killed() {
    requires!(root);
    let (mut daemon, image) = Daemon::with_busybox();
    let _ = daemon.run_detached(["--name", "one", &image, "/probe", "count", "1"]);
    daemon.wait_for_line("one", "1");
    let (begin, soak) = (Instant::now(), soak());
    let mut kills = 0;

    while kills < 10 || begin.elapsed() < soak {
        daemon.kill9();
        daemon.start();
        kills += 1;
        let last = lines(&daemon).last().copied().unwrap();
        let pause = soak.saturating_sub(begin.elapsed()) / 10;
        let lines = u64::try_from(pause.as_millis() / 2).unwrap().max(20);
        daemon.wait_for_line("one", &(last + lines).to_string());
    }
    let _ = daemon.keg(["stop", "-t", "0", "one"]).success();

    let all = lines(&daemon);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<u64>>());
}

fn lines(daemon: &Daemon) -> Vec<u64> {
    let log = daemon.keg(["logs", "one"]).success().stdout;
    log.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} in the log"))).collect()
}
