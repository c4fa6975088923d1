//! How the module is linked.

/// The linker reserves a stack of 1 MiB in every VM, and a proxy has one VM for each worker. The module's deepest call
/// parses a configuration, whose nesting the JSON parser bounds at 128. That takes a tenth of this stack, and a test
/// parses such a configuration.
const STACK: u32 = 256 * 1024;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "wasm32") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
}
