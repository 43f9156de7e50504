//! Standard streams as containerd's clients name them: FIFOs, files, logging programs, terminals.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use keg_fixtures::scratch::write_program;
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Shim, requires, wait_until};
use keg_proto::containerd::task::v2::{CloseIoRequest, ResizePtyRequest};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

fn fifo(shim: &Shim, name: &str) -> PathBuf {
    let path = shim.scratch().join(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    path
}

#[test]
fn fifos_carry_all_three_streams() {
    requires!(root);
    let script = "while read line; do echo out $line; echo err $line >&2; done; echo end";
    let shim = Shim::new(Bundle::busybox().sh(script));
    let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(&shim, name));
    // A FIFO that is opened for both needs no partner, so that the test never waits to open one.
    let both = |path: &PathBuf| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (out, err) = (both(&stdout), both(&stderr));
    shim.create_with(|request| {
        request.stdin = stdin.display().to_string();
        request.stdout = stdout.display().to_string();
        request.stderr = stderr.display().to_string();
    })
    .unwrap();
    shim.start("");

    let mut input = OpenOptions::new().write(true).open(&stdin).unwrap();
    input.write_all(b"one\ntwo\n").unwrap();
    drop(input);
    let close = CloseIoRequest { id: shim.id().into(), stdin: true, ..CloseIoRequest::default() };
    shim.call::<_, ()>("CloseIO", &close).unwrap();

    assert_eq!(shim.wait("").exit_status, 0);
    let lines = |file: File, count: usize| -> Vec<String> {
        BufReader::new(file).lines().take(count).map(Result::unwrap).collect()
    };
    assert_eq!(lines(out, 3), ["out one", "out two", "end"]);
    assert_eq!(lines(err, 2), ["err one", "err two"]);
}

#[test]
fn a_fifo_without_reader_holds_the_output_until_one_comes() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["lines", "5000", "100"]));
    let stdout = fifo(&shim, "out");
    shim.create_with(|request| {
        request.stdout = stdout.display().to_string();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");

    // The first reader takes a part and leaves, as a daemon that is killed.
    let mut taken = vec![0; 10_000];
    File::open(&stdout).unwrap().read_exact(&mut taken).unwrap();
    let mut rest = File::open(&stdout).unwrap();
    while taken.iter().filter(|octet| **octet == b'\n').count() < 5000 {
        let mut block = [0; 4096];
        let count = rest.read(&mut block).unwrap();
        assert_ne!(count, 0, "the shim holds the FIFO open");
        taken.extend_from_slice(&block[..count]);
    }

    assert_eq!(shim.wait("").exit_status, 0);
    let text = String::from_utf8(taken).unwrap();
    let numbers = text.lines().map(|line| line.trim().parse::<u32>().unwrap());
    assert!(numbers.eq(1..=5000));
}

#[test]
fn output_waits_in_its_fifo_for_a_reader_that_opens_it_after_the_exit() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo late"));
    let stdout = fifo(&shim, "out");
    shim.create_with(|request| {
        request.stdout = stdout.display().to_string();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");
    assert_eq!(shim.wait("").exit_status, 0);

    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&stdout).unwrap();
    let mut text = String::new();
    // The end comes when the shim has seen that all is read.
    wait_until("the output and its end", PATIENCE, || reader.read_to_string(&mut text).is_ok());

    assert_eq!(text, "late\n");
}

#[test]
fn a_fifo_that_nobody_ever_reads_goes_with_the_task() {
    requires!(root);
    let shim = Shim::new(Bundle::busybox().sh("echo in vain"));
    let stdout = fifo(&shim, "out");
    shim.create_with(|request| {
        request.stdout = stdout.display().to_string();
        request.stderr = String::new();
    })
    .unwrap();
    shim.start("");
    shim.wait("");

    shim.delete("").unwrap();

    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&stdout).unwrap();
    let mut text = String::new();
    wait_until("the shim lets go", PATIENCE, || reader.read_to_string(&mut text).is_ok());
    assert_eq!(text, "", "nobody can have it any more");
}

#[test]
fn a_file_uri_is_made_and_appended_to() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["both", "out", "err"]));
    let file = shim.scratch().join("sub dir/out.log");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, "before\n").unwrap();
    let uri = format!("file://{}", file.display().to_string().replace(' ', "%20"));

    shim.create_with(|request| {
        request.stdout = uri.clone();
        request.stderr = uri.clone();
    })
    .unwrap();
    shim.start("");
    shim.wait("");

    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "before");
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
}

#[test]
fn a_logging_program_gets_streams_environment_and_arguments() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["both", "out", "err"]));
    let log = shim.scratch().join("logged");
    let program = shim.scratch().join("logger");
    let script = "#!/bin/sh\nexec 5>&-\n\
        { echo \"$CONTAINER_ID $CONTAINER_NAMESPACE\"; cat <&3; cat <&4; } > $2.tmp\n\
        mv $2.tmp $2\n";
    write_program(&program, script);

    let uri = format!("binary://{}?-o={}", program.display(), log.display());
    shim.create_with(|request| {
        request.stdout = uri.clone();
        request.stderr = uri.clone();
    })
    .unwrap();
    shim.start("");
    shim.wait("");

    wait_until("the logging program ends", PATIENCE, || log.exists());
    assert_eq!(fs::read_to_string(log).unwrap(), format!("{} it\nout\nerr\n", shim.id()));
}

#[test]
fn a_logging_program_that_is_not_there_fails_the_create_by_name() {
    requires!(root);
    let shim = Shim::new(Bundle::probe());

    let error =
        shim.create_with(|request| request.stdout = "binary:///no/such/logger".into()).unwrap_err();

    assert!(error.status().unwrap().message.contains("/no/such/logger"), "{error:?}");
}

#[test]
fn a_terminal_has_the_size_that_it_is_given() {
    requires!(root);
    let shim = Shim::new(Bundle::probe().args(["terminal"]).set("/process/terminal", true));
    shim.create_with(|request| {
        request.terminal = true;
        request.stderr = String::new();
    })
    .unwrap();
    let resize = |width, height| {
        let id = shim.id().to_owned();
        let request = ResizePtyRequest { id, width, height, ..ResizePtyRequest::default() };
        shim.call::<_, ()>("ResizePty", &request).unwrap();
    };
    resize(100, 30);
    shim.start("");
    wait_until("the first size", PATIENCE, || !shim.logged("stdout").is_empty());
    let first = shim.logged("stdout");

    resize(55, 22);
    wait_until("the second size", PATIENCE, || {
        shim.logged("stdout").lines().count() > first.lines().count()
    });

    let second = shim.logged("stdout");
    assert!(first.contains("100") && first.contains("30"), "{first}");
    let last = second.lines().last().unwrap();
    assert!(last.contains("55") && last.contains("22"), "{second}");
    shim.kill("", 15, false).unwrap();
    shim.wait("");
}
