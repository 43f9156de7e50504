//! Files as readers find them, whatever happens to the writer.

use super::*;
use crate::log::compress::compressed;

fn settings(dir: &Path, format: Format, max_size: u64, max_files: u32) -> LogSettings {
    LogSettings {
        path: dir.join("sub/c.log"),
        format,
        max_size_bytes: NonZeroU64::new(max_size),
        max_files: NonZeroU32::new(max_files).unwrap(),
        when_full: WhenFull::Drop,
        compress: false,
        max_bytes_per_sec: None,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("sub")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Reads all files, the oldest first, each of which must be whole lines within the limit.
fn whole_files(dir: &Path, max_size: usize) -> String {
    let count = u32::try_from(names(dir).len()).unwrap();
    let base = dir.join("sub/c.log");
    let older = (1..count).rev().map(|number| numbered(&base, number));
    let texts = older.chain([base.clone()]).map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= max_size && text.ends_with('\n'), "{path:?}: {text}");
        text
    });
    texts.collect()
}

#[test]
fn rotation_keeps_the_newest_entries_whole_and_files_within_the_limit() {
    for format in [Format::JsonFile, Format::Cri, Format::Raw] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), format, 300, 3)).unwrap();
        let line = |number: u32| format!("line {number:04}\n");

        for number in 0..200 {
            assert_eq!(log.append(Stream::Stdout, line(number).as_bytes()), Outcome::Done);
        }

        assert_eq!(names(dir.path()), ["c.log", "c.log.1", "c.log.2"]);
        let all = whole_files(dir.path(), 300);
        let numbers: Vec<&str> = all
            .lines()
            .map(|line| {
                let at = line.find("line ").unwrap() + 5;
                &line[at..at + 4]
            })
            .collect();
        let expected: Vec<String> =
            (200 - numbers.len()..200).map(|number| format!("{number:04}")).collect();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn one_large_append_is_spread_over_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Cri, 500, 100)).unwrap();
    let input: String = (0..100).map(|number| format!("{number}\n")).collect();

    assert_eq!(log.append(Stream::Stderr, input.as_bytes()), Outcome::Done);

    let mut count = 0;
    for name in names(dir.path()) {
        let text = fs::read_to_string(dir.path().join("sub").join(name)).unwrap();
        assert!(text.len() <= 500);
        count += text.lines().count();
    }
    assert_eq!(count, 100);
}

#[test]
fn raw_output_is_rotated_between_lines_however_it_arrives() {
    for block in [1, 7, 64, 1000, 5000] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 400, 1000)).unwrap();
        let input: String = (0..500).map(|number| format!("line {number}\n")).collect();

        for piece in input.as_bytes().chunks(block) {
            assert_eq!(log.append(Stream::Stdout, piece), Outcome::Done);
        }

        assert_eq!(whole_files(dir.path(), 400), input, "{block}");
    }
}

#[test]
fn raw_output_that_the_kernel_moves_is_all_there_and_rotated_between_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 20_000, 1000)).unwrap();
    let (mut reader, mut writer) = io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
    rustix::fs::fcntl_setfl(&reader, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let input: String = (0..9000).map(|number| format!("line {number}\n")).collect();
    let (mut moved, mut read) = (0, 0);

    for piece in input.as_bytes().chunks(5000) {
        writer.write_all(piece).unwrap();
        loop {
            match log.move_from(std::os::fd::AsFd::as_fd(&reader), 4096) {
                Some(Ok(count)) => moved += count,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Some(Err(error)) => panic!("{error}"),
                None => {
                    let mut block = [0; 4096];
                    let Ok(count) = io::Read::read(&mut reader, &mut block) else { break };
                    assert_eq!(log.append(Stream::Stdout, &block[..count]), Outcome::Done);
                    read += count;
                }
            }
        }
    }
    drop(writer);

    assert!(moved > read && read > 0, "{moved} moved, {read} read");
    assert!(matches!(log.move_from(std::os::fd::AsFd::as_fd(&reader), 1), Some(Ok(0)) | None));
    assert!(whole_files(dir.path(), 20_000) == input);
}

#[test]
fn a_file_that_someone_empties_begins_anew_also_when_the_kernel_moves() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 0, 1)).unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let mut move_all = |text: &str| {
        writer.write_all(text.as_bytes()).unwrap();
        let moved = log.move_from(std::os::fd::AsFd::as_fd(&reader), 4096).unwrap().unwrap();
        assert_eq!(moved, text.len());
    };
    let path = dir.path().join("sub/c.log");

    move_all("before\n");
    File::options().write(true).truncate(true).open(&path).unwrap();
    move_all("after\n");

    assert_eq!(fs::read_to_string(path).unwrap(), "after\n");
}

#[test]
fn a_raw_line_longer_than_a_file_is_cut_rather_than_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 100, 1000)).unwrap();

    assert_eq!(log.append(Stream::Stdout, &[b'x'; 950]), Outcome::Done);

    let sizes = names(dir.path())
        .into_iter()
        .map(|name| fs::metadata(dir.path().join("sub").join(name)).unwrap().len());
    let sizes: Vec<u64> = sizes.collect();
    assert_eq!(sizes.iter().sum::<u64>(), 950);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
}

/// Unpacks a gzip file.
fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    let file = File::open(path).unwrap();
    io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    text
}

#[test]
fn rotated_files_are_compressed_also_when_rotations_overtake() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LogSettings { compress: true, ..settings(dir.path(), Format::Raw, 1000, 4) };
    let mut log = LogWriter::open(settings).unwrap();
    let input: Vec<String> = (0..400).map(|number| format!("line {number:04}\n")).collect();

    for (count, line) in input.iter().enumerate() {
        assert_eq!(log.append(Stream::Stdout, line.as_bytes()), Outcome::Done);
        // One small step now and then: the next rotation comes before the end.
        if log.begin_compression() || count % 60 == 0 {
            log.compress_some();
        }
    }
    while log.compress_some() {}

    let gz = |number| compressed(&dir.path().join("sub/c.log"), number);
    assert_eq!(names(dir.path()), ["c.log", "c.log.1.gz", "c.log.2.gz", "c.log.3.gz"]);
    let current = fs::read_to_string(dir.path().join("sub/c.log")).unwrap();
    let all = [unpacked(&gz(3)), unpacked(&gz(2)), unpacked(&gz(1)), current].concat();
    assert!(input.concat().ends_with(&all), "{all}");
    assert!(all.len() > 2000);
}

#[test]
fn a_reached_rate_limit_loses_or_holds_whole_entries() {
    for (when_full, expected) in
        [(WhenFull::Drop, Outcome::Done), (WhenFull::Block, Outcome::Blocked)]
    {
        let dir = tempfile::tempdir().unwrap();
        let settings = LogSettings {
            when_full,
            max_bytes_per_sec: NonZeroU64::new(10),
            ..settings(dir.path(), Format::Raw, 0, 1)
        };
        let mut log = LogWriter::open(settings).unwrap();

        assert_eq!(log.append(Stream::Stdout, &[b'x'; 100]), Outcome::Done);
        assert_eq!(log.append(Stream::Stdout, b"more"), expected);

        let written = fs::read(dir.path().join("sub/c.log")).unwrap();
        assert_eq!(written.len(), 100);
        assert_eq!(log.lost_bytes, if when_full == WhenFull::Drop { 4 } else { 0 });
    }
}

#[test]
fn a_single_file_is_emptied_instead_of_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 10, 1)).unwrap();

    for _ in 0..5 {
        assert_eq!(log.append(Stream::Stdout, b"1234567\n"), Outcome::Done);
    }

    assert_eq!(names(dir.path()), ["c.log"]);
    assert_eq!(fs::read(dir.path().join("sub/c.log")).unwrap(), b"1234567\n");
}

#[test]
fn half_lines_of_two_streams_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(settings(dir.path(), Format::Cri, 0, 1)).unwrap();

    assert_eq!(log.append(Stream::Stdout, b"out"), Outcome::Done);
    assert_eq!(log.append(Stream::Stderr, b"err\n"), Outcome::Done);
    assert_eq!(log.append(Stream::Stdout, b"put\nrest"), Outcome::Done);
    assert_eq!(log.finish(Stream::Stdout), Outcome::Done);

    let text = fs::read_to_string(dir.path().join("sub/c.log")).unwrap();
    let entries: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
    assert_eq!(entries, ["stderr F err", "stdout F output", "stdout P rest"]);
}

#[test]
fn a_reopened_log_goes_on_at_its_end_and_counts_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut log = LogWriter::open(settings(dir.path(), Format::Raw, 12, 2)).unwrap();
        assert_eq!(log.append(Stream::Stdout, b"1234567\n"), Outcome::Done);
    }

    assert_eq!(names(dir.path()), ["c.log", "c.log.1"]);
}

#[test]
fn whole_entries_end_at_the_last_newline() {
    let mut file = tempfile::tempfile().unwrap();
    for (text, whole) in [("", 0), ("half", 0), ("one\nhal", 4), ("one\ntwo\n", 8)] {
        file.set_len(0).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file.write_all(text.as_bytes()).unwrap();

        assert_eq!(whole_entries(&file, text.len() as u64), Some(whole), "{text:?}");
    }
}
