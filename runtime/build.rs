//! Lets the program begin at its own entry point (`src/sys/entry.rs`), where there is one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo:rustc-link-arg-bin=keg-runtime=-Wl,--entry=keg_runtime_entry");
    }
}
