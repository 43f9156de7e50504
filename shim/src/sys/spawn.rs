//! Starts a program the way `vfork` does: of this process nothing is copied, and it goes on when the
//! program is executed.
//!
//! The standard library does the same, unless something is to be done between the two: then it makes
//! a copy. What this does there is to tie the program's end to this process's.

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{keep_on_exec, set_parent_death_signal};

/// Room for the few calls before the program is executed; looking for it in PATH takes most of it.
const STACK_BYTES: usize = 64 << 10;

/// A descriptor that a program gets beside its streams, after the variable that tells it the number.
pub(crate) type Passed<'a> = (&'static str, BorrowedFd<'a>);

/// What is to be executed.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The file; a name without a slash is looked for in PATH.
    pub(crate) path: PathBuf,
    /// Its arguments, without its name.
    pub(crate) args: Vec<OsString>,
    /// Standard input, output and error. None of them is one of this process's own three.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// Further descriptors that it gets, each with the variable that tells it the number.
    pub(crate) passed: &'a [Passed<'a>],
    /// Whether the kernel kills it when this process ends, however that comes.
    pub(crate) ends_with_parent: bool,
}

/// What the new process is told, and its answer: both run on the same memory.
struct Orders<'a> {
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    streams: [RawFd; 3],
    passed: &'a [Passed<'a>],
    parent: Option<libc::pid_t>,
    errno: c_int,
}

/// Executes `program` in a new process and returns its number. It is reaped by whoever reaps.
///
/// # Errors
/// Why it could not be executed; no process is left then.
pub(crate) fn spawn(program: Program<'_>) -> io::Result<i32> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::other);
    let path = text(program.path.into_os_string())?;
    let args = program.args.into_iter().map(text).collect::<io::Result<Vec<CString>>>()?;
    let env = environment(program.passed)?;
    let argv = pointers(std::iter::once(&path).chain(&args));
    let envp = pointers(&env);
    let parent = program.ends_with_parent.then(|| rustix::process::getpid().as_raw_pid());
    let mut orders = Orders {
        path: path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        streams: program.streams.map(|stream| stream.as_raw_fd()),
        passed: program.passed,
        parent,
        errno: 0,
    };
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows downwards from the end of `stack`, which is aligned and nobody else's.
    // CLONE_VFORK keeps this thread from going on until the child has executed its program or ended:
    // so `orders`, what it points to, the stack and errno are the child's alone while it uses them,
    // and outlive that. `execute` neither allocates nor takes a lock.
    let pid = unsafe {
        libc::clone(
            execute,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            (&raw mut orders).cast::<c_void>(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if orders.errno == 0 {
        return Ok(pid);
    }
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It has ended; the reaper may see that first.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
    Err(io::Error::from_raw_os_error(orders.errno))
}

/// This process's environment, and what tells of the descriptors that are passed.
fn environment(passed: &[Passed<'_>]) -> io::Result<Vec<CString>> {
    let own = std::env::vars_os()
        .filter(|(name, _)| passed.iter().all(|(variable, _)| name != OsStr::new(variable)));
    let told = passed.iter();
    let told = told.map(|(variable, fd)| (variable.into(), fd.as_raw_fd().to_string().into()));
    let text = |(name, value): (OsString, OsString)| {
        CString::new([name.into_vec(), value.into_vec()].join(&b'=')).map_err(io::Error::other)
    };
    own.chain(told).map(text).collect()
}

/// The array that exec(3) wants, with a null at its end; it points into `texts`.
fn pointers<'a>(texts: impl IntoIterator<Item = &'a CString>) -> Vec<*const c_char> {
    texts.into_iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The new process: returns only if there is no program.
extern "C" fn execute(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes the address of its `Orders`, which nobody else uses meanwhile.
    let orders = unsafe { &mut *orders.cast::<Orders<'_>>() };
    if let Err(error) = prepare(orders) {
        orders.errno = error.raw_os_error().unwrap_or(libc::EIO);
        return 127;
    }
    // SAFETY: the path is NUL-terminated, and arguments and environment are such strings with a null
    // at their end; all live in `spawn`, which waits.
    unsafe { libc::execvpe(orders.path, orders.argv, orders.envp) };
    orders.errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    127
}

fn prepare(orders: &Orders<'_>) -> io::Result<()> {
    if let Some(parent) = orders.parent {
        set_parent_death_signal(libc::SIGKILL)?;
        // It may have ended before the kernel was told.
        // SAFETY: takes nothing and cannot fail.
        if unsafe { libc::getppid() } != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    for (stream, number) in orders.streams.into_iter().zip(0..) {
        super::duplicate_to(stream, number)?;
    }
    orders.passed.iter().try_for_each(|(_, fd)| keep_on_exec(fd.as_raw_fd()))?;
    // SAFETY: changes what a signal does in this process, which has its own table of that; the
    // standard library has this one ignored, which the program would inherit.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn run(path: &str, args: &[&str]) -> io::Result<(String, Option<i32>)> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let (mut reader, writer) = io::pipe()?;
        let pid = spawn(Program {
            path: path.into(),
            args: args.iter().map(OsString::from).collect(),
            streams: [null.as_fd(), writer.as_fd(), null.as_fd()],
            passed: &[("PASSED", writer.as_fd())],
            ends_with_parent: true,
        })?;
        drop(writer);
        let mut printed = String::new();
        reader.read_to_string(&mut printed)?;
        let status = waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::empty())?;
        Ok((printed, status.and_then(|(_, status)| status.exit_status())))
    }

    #[test]
    fn a_program_gets_its_arguments_and_streams_and_returns_its_code() {
        let ran = run("/bin/sh", &["-c", "echo \"$0 $1\"; exit 3", "a", "b c"]).unwrap();

        assert_eq!(ran, ("a b c\n".to_owned(), Some(3)));
    }

    #[test]
    fn a_program_gets_the_descriptor_that_is_passed_and_the_environment() {
        // By name, since a shell may know no descriptor of two digits.
        let script = r#"echo passed > "/proc/self/fd/$PASSED"; env | grep -c ^PATH="#;

        assert_eq!(run("/bin/sh", &["-c", script]).unwrap(), ("passed\n1\n".to_owned(), Some(0)));
    }

    #[test]
    fn a_bare_name_is_looked_for_in_path_and_a_missing_program_is_an_error() {
        assert_eq!(run("true", &[]).unwrap().1, Some(0));
        for missing in ["/nonexistent/program", "no-such-program-anywhere"] {
            assert_eq!(run(missing, &[]).unwrap_err().kind(), io::ErrorKind::NotFound, "{missing}");
        }
        assert_eq!(run("/etc/passwd", &[]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_rust_programs_ignore_is_not_ignored_by_the_program() {
        let (printed, code) = run("grep", &["SigIgn", "/proc/self/status"]).unwrap();

        let ignored = u64::from_str_radix(printed.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!((ignored & 1 << (libc::SIGPIPE - 1), code), (0, Some(0)), "{printed}");
    }
}
