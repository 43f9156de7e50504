//! Every file of the tests is compiled: a forgotten `mod` would be a test that never runs.

use std::fs;
use std::path::{Path, PathBuf};

use keg_fixtures::programs::source_tree;

use super::{files, shown};

/// Returns the files that `mod` declarations lead to from a crate's root file.
fn reached(file: &Path) -> Vec<PathBuf> {
    let source = fs::read_to_string(file).unwrap();
    let name = file.file_stem().unwrap();
    let directory = file.parent().unwrap();
    let base = if name == "main" || name == "lib" || name == "mod" {
        directory.to_owned()
    } else {
        directory.join(name)
    };
    let mut found = vec![file.to_owned()];
    let mut elsewhere = None;
    for line in source.lines().map(str::trim) {
        if let Some(path) =
            line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"))
        {
            elsewhere = Some(directory.join(path).canonicalize().unwrap());
        }
        let declaration = line
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ");
        let Some(module) = declaration.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        if let Some(path) = elsewhere.take() {
            found.extend(reached(&path));
            continue;
        }
        let candidates = [base.join(format!("{module}.rs")), base.join(module).join("mod.rs")];
        let next = candidates.into_iter().find(|path| path.is_file());
        found.extend(reached(&next.unwrap_or_else(|| panic!("mod {module} of {}", shown(file)))));
    }
    found
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    let tree = source_tree();
    let mut roots: Vec<PathBuf> = files(tree, "rs")
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap();
            let parent = path.parent().unwrap();
            let of_crate = parent.ends_with("src") && (name == "main.rs" || name == "lib.rs");
            let of_build = name == "build.rs" && parent.join("Cargo.toml").is_file();
            let of_target =
                ["bin", "tests", "benches", "examples", "fuzz_targets"].iter().any(|kind| {
                    parent.ends_with(kind)
                        || parent.parent().unwrap().ends_with(kind) && name == "main.rs"
                });
            of_crate || of_build || of_target
        })
        .collect();
    roots.sort();

    let mut all: Vec<PathBuf> = roots.iter().flat_map(|root| reached(root)).collect();
    all.sort();

    let forgotten: Vec<String> = files(tree, "rs")
        .iter()
        .filter(|path| all.binary_search(path).is_err())
        .map(|path| shown(path))
        .collect();
    assert_eq!(forgotten, [""; 0], "not part of any crate");
}
