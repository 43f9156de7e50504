//! Writes the linker script that puts together what a start of the runtime executes (`make hot`).
//!
//! ```text
//! keg-hot MAP KEG-RUNTIME > runtime/link/hot.ld
//!
//! link map ── sections of code, by address ──┐
//! run, create, start, exec, delete ── single steps of all processes ──▶ sections executed ──▶ patterns
//! ```
//!
//! A page of code that is needed is read into memory with the pages around it, sixteen at a time. The
//! code of a start is a fifth of the program, but linked in no order it lies everywhere, so that nearly
//! all of the program is mapped at each start. Names carry the compiler's hashes, which the patterns
//! leave open where that does not take in much else: a script that is old, or for another compiler, does
//! less, and no harm.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use keg_fixtures::{Bundle, Runtime, sys};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What is left open may match so much more than what is executed, in bytes.
const SLACK_BYTES: u64 = 2048;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [map, program] = &args[..] else { bail!("usage: keg-hot MAP KEG-RUNTIME") };
    let map = fs::read_to_string(map).with_context(|| format!("read {map}"))?;
    let sections = sections(&map);
    let life = Life::new(Runtime::of(fs::canonicalize(program)?));
    let mut executed = BTreeSet::new();
    for step in ["run", "create", "start", "exec", "state", "delete"] {
        executed.extend(step_through(life.command(step)).with_context(|| step.to_owned())?);
    }
    print!("{}", script(&sections, &executed));
    Ok(())
}

/// One container that is run, and one that is created, started, entered, looked at and deleted.
struct Life {
    runtime: Runtime,
    short: Bundle,
    long: Bundle,
}

impl Life {
    const SHORT: &str = "keg-hot-short";
    const LONG: &str = "keg-hot-long";

    fn new(runtime: Runtime) -> Self {
        let bundle = |id: &str, command: &[&str]| {
            let path = format!("/{id}");
            Bundle::busybox().command(command).set("/linux/cgroupsPath", path)
        };
        let short = bundle(Self::SHORT, &["/bin/true"]);
        let long = bundle(Self::LONG, &["/bin/sleep", "1000"]);
        Self { runtime, short, long }
    }

    fn command(&self, step: &str) -> Command {
        let mut command = self.runtime.command([step]);
        match step {
            "run" => command.arg("--bundle").arg(self.short.path()).arg(Self::SHORT),
            "create" => command.arg("--bundle").arg(self.long.path()).arg(Self::LONG),
            "exec" => command.args([Self::LONG, "/bin/true"]),
            "delete" => command.args(["--force", Self::LONG]),
            _ => command.arg(Self::LONG),
        };
        command
    }
}

/// A piece of code that the linker can move.
struct Section {
    start: u64,
    size_bytes: u64,
    file: String,
    name: String,
}

/// Reads the sections of code out of a link map of LLD: address, load address, size, alignment, and
/// `FILE:(SECTION)`, the latter with nine spaces before it.
fn sections(map: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = map
        .lines()
        .filter_map(|line| {
            // Address, load address, size, alignment, place: as many blanks as make columns.
            let mut words = line.split_whitespace();
            let start = u64::from_str_radix(words.next()?, 16).ok()?;
            let size_bytes = u64::from_str_radix(words.nth(1)?, 16).ok()?;
            let place = words.nth(1)?;
            let (file, name) = place.strip_suffix(')')?.rsplit_once(":(")?;
            // The pieces of .init and .fini, and what surrounds them, must stay in their order.
            let own = name.starts_with(".text") && size_bytes > 0 && !file.contains("crt");
            own.then(|| Section { start, size_bytes, file: file.to_owned(), name: name.to_owned() })
        })
        .collect();
    sections.sort_by_key(|section| section.start);
    sections
}

/// Runs a program, one instruction after the other, with all that it forks, until it has ended; returns
/// the addresses seen. A process that executes another program, or still waits then, is let go.
fn step_through(mut command: Command) -> anyhow::Result<BTreeSet<u64>> {
    sys::be_traced(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let main = Pid::from_raw(child.id().cast_signed());
    waitpid(main, None)?;
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(main, options)?;
    ptrace::step(main, None)?;
    let mut seen = BTreeSet::new();
    let mut others = BTreeSet::new();
    loop {
        let (pid, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == main => break,
            // The runtime begins anew from a protected file; in a child it is the container's program.
            Ok(WaitStatus::PtraceEvent(pid, _, event))
                if event == libc::PTRACE_EVENT_EXEC && pid != main =>
            {
                ptrace::detach(pid, None)?;
                others.remove(&pid);
                continue;
            }
            Ok(WaitStatus::PtraceEvent(pid, ..) | WaitStatus::Stopped(pid, Signal::SIGSTOP)) => {
                (pid, None)
            }
            Ok(WaitStatus::Stopped(pid, Signal::SIGTRAP)) => {
                seen.insert(ptrace::getregs(pid)?.rip);
                (pid, None)
            }
            Ok(WaitStatus::Stopped(pid, signal)) => (pid, Some(signal)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if pid != main {
            others.insert(pid);
        }
        match ptrace::step(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    others.into_iter().try_for_each(let_go)?;
    Ok(seen)
}

/// Lets a process that waits in the kernel go on without a tracer: it must stop once more for that.
fn let_go(pid: Pid) -> anyhow::Result<()> {
    match kill(pid, Signal::SIGSTOP) {
        Err(Errno::ESRCH) => return Ok(()),
        result => result?,
    }
    if let WaitStatus::Stopped(..) = waitpid(pid, Some(WaitPidFlag::__WALL))? {
        ptrace::detach(pid, None)?;
        kill(pid, Signal::SIGCONT)?;
    }
    Ok(())
}

/// The pattern of a section, with the compiler's hash left open where there is one.
fn open_name(name: &str) -> String {
    let name = match name.rsplit_once(".llvm.") {
        Some((name, _)) => name,
        None => name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('.'),
    };
    match name.rfind("17h").filter(|at| name.len() == at + 20 && name.ends_with('E')) {
        Some(at) => format!("{}17h*", &name[..at]),
        None => name.to_owned(),
    }
}

fn is_rust(section: &Section) -> bool {
    section.file.ends_with(".rcgu.o") || section.file.contains(".rlib(")
}

/// The script: sections of which most is executed come first.
fn script(sections: &[Section], executed: &BTreeSet<u64>) -> String {
    let mut hot: Vec<(&Section, u64)> = Vec::new();
    let (mut whole, mut wanted): (HashMap<String, u64>, HashMap<String, u64>) = Default::default();
    for section in sections {
        let end = section.start + section.size_bytes;
        let count = executed.range(section.start..end).count() as u64;
        let name = open_name(&section.name);
        *whole.entry(name.clone()).or_default() += section.size_bytes;
        if count > 0 {
            *wanted.entry(name).or_default() += section.size_bytes;
            hot.push((section, count * 1000 / section.size_bytes));
        }
    }
    hot.sort_by_key(|(section, density)| (std::cmp::Reverse(*density), section.start));
    let mut patterns: BTreeMap<String, usize> = BTreeMap::new();
    for (section, _) in hot {
        let open = open_name(&section.name);
        let fits = whole[&open] <= 2 * wanted[&open] + SLACK_BYTES;
        let name = if fits { open } else { section.name.clone() };
        let pattern = match archive_member(&section.file) {
            _ if is_rust(section) => format!("*({})", name.replace('$', "?")),
            Some((archive, member)) => format!("*{archive}:{member}({})", section.name),
            None => continue,
        };
        let place = patterns.len();
        patterns.entry(pattern).or_insert(place);
    }
    let mut patterns: Vec<(String, usize)> = patterns.into_iter().collect();
    patterns.sort_by_key(|(_, place)| *place);
    let lines: String =
        patterns.into_iter().map(|(pattern, _)| format!("    {pattern}\n")).collect();
    format!(
        "/* What a start executes, together. Written by `make hot`; see keg-hot. */\n\
         SECTIONS\n{{\n  .text.hot :\n  {{\n{lines}  }}\n}}\nINSERT BEFORE .text;\n"
    )
}

/// `/usr/lib/libc.a(malloc.o)` as archive and member.
fn archive_member(file: &str) -> Option<(&str, &str)> {
    let (archive, member) = file.strip_suffix(')')?.split_once('(')?;
    Some((Path::new(archive).file_name()?.to_str()?, member))
}
