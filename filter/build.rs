//! How the module is linked.

/// The linker reserves a stack of 1 MiB in every VM, and a proxy has one VM for each worker. The deepest that the module goes is
/// into a configuration, whose nesting the JSON parser bounds at 128: a tenth of this (a test parses such a one).
const STACK: u32 = 256 * 1024;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "wasm32") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
}
