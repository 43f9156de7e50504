//! What is read of archives, good and broken.

use proptest::prelude::*;

use super::*;

fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    padded
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| length - length.to_string().len() == rest).unwrap();
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn with_records(records: &[Vec<u8>], entry: &Header, data: &[u8]) -> Vec<u8> {
    let records = records.concat();
    let mut archive = header(EntryType::XHeader, "pax", records.len() as u64).as_bytes().to_vec();
    archive.extend(padded(&records));
    archive.extend_from_slice(entry.as_bytes());
    archive.extend(padded(data));
    archive.extend([0; 2 * BLOCK]);
    archive
}

fn read_all(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ExtractError> {
    let mut reader = TarReader::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        found.push((entry, data));
    }
    Ok(found)
}

#[test]
fn records_replace_what_the_header_says_and_binary_values_survive() {
    let capability = b"\x01\n\x00=\xff";
    let archive = with_records(
        &[
            record("path", "ä/long".as_bytes()),
            record("uid", b"4294967294"),
            record("mtime", b"-1.25"),
            record("SCHILY.xattr.security.capability", capability),
            record("comment", b"ignored"),
        ],
        &header(EntryType::Regular, "short", 3),
        b"abc",
    );

    let found = read_all(&archive).unwrap();

    let (entry, data) = &found[0];
    assert_eq!(entry.path, "ä/long".as_bytes());
    assert_eq!((entry.uid, entry.gid), (4_294_967_294, 2));
    assert_eq!((entry.mtime.tv_sec, entry.mtime.tv_nsec), (-2, 750_000_000));
    assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
    assert_eq!(data, b"abc");
}

#[test]
fn gnu_long_names_belong_to_the_next_entry_only() {
    let long = format!("{}\0", "d/".repeat(100));
    let mut archive =
        header(EntryType::GNULongName, "././@LongLink", long.len() as u64).as_bytes().to_vec();
    archive.extend(padded(long.as_bytes()));
    archive.extend_from_slice(header(EntryType::Directory, "d", 0).as_bytes());
    archive.extend_from_slice(header(EntryType::Regular, "f", 0).as_bytes());

    let found = read_all(&archive).unwrap();

    assert_eq!(found[0].0.path, "d/".repeat(100).as_bytes());
    assert_eq!((found[1].0.path.as_slice(), found[1].0.kind), (b"f".as_slice(), Kind::File));
}

#[test]
fn sparse_files_of_all_pax_versions_are_understood() {
    let expected = Sparse { size_bytes: 100, segments: vec![(10, 3), (50, 2)] };
    let entry = |size| header(EntryType::Regular, "GNUSparseFile.0/x", size);
    let version_0_0 = with_records(
        &[
            record("GNU.sparse.size", b"100"),
            record("GNU.sparse.numblocks", b"2"),
            record("GNU.sparse.offset", b"10"),
            record("GNU.sparse.numbytes", b"3"),
            record("GNU.sparse.offset", b"50"),
            record("GNU.sparse.numbytes", b"2"),
        ],
        &entry(5),
        b"abcde",
    );
    let version_0_1 = with_records(
        &[record("GNU.sparse.size", b"100"), record("GNU.sparse.map", b"10,3,50,2")],
        &entry(5),
        b"abcde",
    );
    let mut data = padded(b"2\n10\n3\n50\n2\n");
    data.extend_from_slice(b"abcde");
    let version_1_0 = with_records(
        &[
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.name", b"x"),
            record("GNU.sparse.realsize", b"100"),
        ],
        &entry(data.len() as u64),
        &data,
    );

    for archive in [version_0_0, version_0_1, version_1_0] {
        let found = read_all(&archive).unwrap();
        assert_eq!(found[0].0.sparse.as_ref(), Some(&expected));
        assert_eq!(found[0].1, b"abcde");
    }
}

#[test]
fn broken_archives_are_refused() {
    let mut checksum = header(EntryType::Regular, "a", 0).as_bytes().to_vec();
    checksum[0] ^= 1;
    let whole = header(EntryType::Regular, "a", 100);
    let truncated = &whole.as_bytes()[..];
    let huge = header(EntryType::XHeader, "pax", MAX_EXTENSION_BYTES + 1);
    let bad_record =
        with_records(&[b"99 path=x\n".to_vec()], &header(EntryType::Regular, "a", 0), b"");
    let long = with_records(
        &[record("path", &[b'a'; MAX_PATH_BYTES + 1])],
        &header(EntryType::Regular, "a", 0),
        b"",
    );

    assert!(matches!(read_all(&checksum), Err(ExtractError::Archive { .. })));
    assert!(matches!(read_all(truncated), Err(ExtractError::Read { .. })));
    assert!(matches!(read_all(&truncated[..300]), Err(ExtractError::Read { .. })));
    assert!(matches!(read_all(huge.as_bytes()), Err(ExtractError::Limit { .. })));
    assert!(matches!(read_all(&bad_record), Err(ExtractError::Archive { .. })));
    assert!(matches!(read_all(&long), Err(ExtractError::Limit { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn no_records_make_the_parser_panic(records: Vec<u8>) {
        let _ = parse_records(&records, &mut Extensions::default());
    }
}
