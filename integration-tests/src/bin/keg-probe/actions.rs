//! Does what a test wants done inside a container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use std::{env, iter};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;

/// Kills this process; as PID 1 of a namespace it is immune, and says so.
pub(crate) fn die(signal: &str) -> anyhow::Result<()> {
    raise(signal.parse::<Signal>()?)?;
    anyhow::bail!("survived {signal}")
}

/// Waits for SIGTERM or SIGINT.
pub(crate) fn pause() -> anyhow::Result<()> {
    let ends = block(&[Signal::SIGTERM, Signal::SIGINT])?;
    say("ready")?;
    ends.wait()?;
    Ok(())
}

/// Waits for ever: a blocked signal of PID 1 stays pending, SIGKILL does not.
pub(crate) fn stubborn() -> anyhow::Result<()> {
    block(&[Signal::SIGTERM, Signal::SIGINT])?;
    say("ready")?;
    loop {
        nix::unistd::pause();
    }
}

/// Prints the signals that arrive.
pub(crate) fn signals() -> anyhow::Result<()> {
    let all: Vec<Signal> = Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCHLD))
        .collect();
    let arriving = block(&all)?;
    say("ready")?;
    loop {
        let signal = arriving.wait()?;
        say(signal.as_str())?;
        if signal == Signal::SIGTERM {
            return Ok(());
        }
    }
}

fn block(signals: &[Signal]) -> nix::Result<SigSet> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block()?;
    Ok(set)
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Prints numbers, a line each.
pub(crate) fn count(millis: u64, last: Option<u64>) -> anyhow::Result<()> {
    for number in 1..=last.unwrap_or(u64::MAX) {
        say(&number.to_string())?;
        thread::sleep(Duration::from_millis(millis));
    }
    Ok(())
}

/// Prints the time of each line's writing, which a reader on the same machine compares with its own.
pub(crate) fn clock(millis: u64, count: u64) -> anyhow::Result<()> {
    for _ in 0..count {
        thread::sleep(Duration::from_millis(millis));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        say(&format!("{:019}", now.as_nanos()))?;
    }
    Ok(())
}

/// Prints numbered lines of one length, line feed included.
pub(crate) fn lines(count: u64, bytes: usize) -> anyhow::Result<()> {
    let mut stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for number in 1..=count {
        let digits = number.to_string();
        let zeros = bytes.saturating_sub(digits.len() + 1);
        writeln!(stdout, "{}{digits}", "0".repeat(zeros))?;
    }
    stdout.flush().context("flush")
}

/// Prints to both streams.
pub(crate) fn both(texts: &[String]) -> anyhow::Result<()> {
    let [output, errors] = texts else { anyhow::bail!("both TEXT TEXT") };
    say(output)?;
    eprintln!("{errors}");
    Ok(())
}

/// Copies input to output.
pub(crate) fn echo() -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = io::stdin().lock().read(&mut buffer)?;
        if count == 0 {
            writeln!(stdout, "end of input")?;
            return stdout.flush().context("flush");
        }
        stdout.write_all(&buffer[..count])?;
        stdout.flush()?;
    }
}

/// Uses memory.
pub(crate) fn eat(mib: usize) {
    let chunks: Vec<Vec<u8>> = iter::repeat_with(|| vec![1; 1 << 20]).take(mib).collect();
    println!("ate {}", chunks.len());
}

/// Starts children until it may not.
pub(crate) fn fork_many(wanted: u64) -> anyhow::Result<()> {
    let mut children: Vec<Child> = Vec::new();
    let this = env::current_exe()?;
    for _ in 0..wanted {
        let child =
            Command::new(&this).arg("echo").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        match child {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    say(&format!("forked {}", children.len()))?;
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

/// Leaves a grandchild to whoever adopts orphans here.
pub(crate) fn orphan() -> anyhow::Result<()> {
    let this = env::current_exe()?;
    Command::new("/bin/sh")
        .args(["-c", "\"$0\" both orphan '' &"])
        .arg(this)
        .status()
        .context("run /bin/sh")?;
    Ok(())
}

/// Reports the terminal's size, now and whenever it changes.
pub(crate) fn terminal() -> anyhow::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    let stdin = io::stdin();
    loop {
        let size = rustix::termios::tcgetwinsize(&stdin).context("size of the terminal")?;
        say(&format!("size {}x{}", size.ws_col, size.ws_row))?;
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        let [signalled, typed] = ready.map(|fd| fd.any().unwrap_or_default());
        if typed {
            let mut buffer = [0; 256];
            if stdin.lock().read(&mut buffer).unwrap_or(0) == 0 {
                return Ok(());
            }
        }
        let last = if signalled { signals.read_signal()? } else { None };
        if last.is_some_and(|info| info.ssi_signo == libc::SIGTERM.cast_unsigned()) {
            return Ok(());
        }
    }
}

/// Uses processor time.
pub(crate) fn burn(millis: u64) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_millis(millis);
    let mut spins = 0_u64;
    while Instant::now() < end {
        spins = std::hint::black_box(spins.wrapping_add(1));
    }
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    say(&(usage.user_time() + usage.system_time()).num_milliseconds().to_string())?;
    Ok(())
}

/// Looks for a process whose program is of another file system or unlinked, keeps that open, and
/// writes to it as soon as the kernel lets it, that is, when nobody executes it any more.
pub(crate) fn hunt() -> anyhow::Result<()> {
    let own = fs::metadata("/")?.dev();
    say("ready")?;
    let mut caught: Vec<File> = Vec::new();
    loop {
        for entry in fs::read_dir("/proc")?.flatten() {
            let exe = entry.path().join("exe");
            if let Ok(program) = File::open(exe)
                && (program.metadata()?.dev() != own || is_of_host(&program))
                && caught.len() < 100
            {
                caught.push(program);
            }
        }
        for program in &caught {
            let path = format!("/proc/self/fd/{}", program.as_raw_fd());
            if let Ok(mut writable) = OpenOptions::new().append(true).open(path) {
                writable.write_all(b"overwritten")?;
                say("overwritten")?;
            }
        }
    }
}

/// Whether a file has no name in this root filesystem: its path leads to nothing, or to another file.
fn is_of_host(program: &File) -> bool {
    let path = fs::read_link(format!("/proc/self/fd/{}", program.as_raw_fd())).unwrap_or_default();
    match (fs::metadata(path), program.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
        _ => true,
    }
}
