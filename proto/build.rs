//! Compiles every `.proto` file below this directory, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// Directories that hold interfaces; each is a root of package names.
const ROOTS: [&str; 2] = ["keg", "containerd"];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for root in ROOTS {
        println!("cargo:rerun-if-changed={root}");
        collect(&here.join(root), &mut files)?;
    }
    files.sort();

    let descriptors = protox::compile(&files, [&here])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let enabled = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    tonic_prost_build::configure()
        .build_client(enabled("CLIENT"))
        .build_server(enabled("SERVER"))
        .build_transport(false)
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Adds the `.proto` files below `dir` to `files`. A directory that is not there holds none.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
