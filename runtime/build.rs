//! Lets the program begin at its own entry point (`src/sys/entry.rs`), where there is one, and puts the
//! code of a start together (`link/hot.ld`).

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link/hot.ld");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        return;
    }
    println!("cargo:rustc-link-arg-bin=keg-runtime=-Wl,--entry=keg_runtime_entry");
    // Names and sizes are those of an optimized build.
    if let (Ok("release"), Ok(here)) =
        (env::var("PROFILE").as_deref(), env::var("CARGO_MANIFEST_DIR"))
    {
        println!("cargo:rustc-link-arg-bin=keg-runtime=-Wl,-T,{here}/link/hot.ld");
    }
}
