//! The module that runs in Envoy: a thin layer between proxy-wasm and `circuit-breaker-core`.
//!
//! `dispatch` is what Envoy calls. `root` has the configuration and the breaker of this VM, `stream` has one request,
//! `glance` tells how it ended, `heads` whether its answer was changed on the way, and `reply` what a rejected
//! request gets. All of them ask the trait in `envoy`, and only `host` calls Envoy. Nothing here decides anything
//! about a circuit.
//!
//! The module keeps few exports (the build removes the rest). Envoy calls each export that exists, and each call
//! costs every request something.

// Natively only the tests of the parts are built, and no export is called.
#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

mod dispatch;
mod envoy;
mod glance;
mod heads;
mod host;
mod name;
mod reply;
mod root;
#[cfg(test)]
mod script;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "wasm32")]
mod entry {
    // The macro exports `_initialize` under its plain name, which the language calls unsafe.
    #![allow(unsafe_code, missing_docs)]

    use proxy_wasm::types::LogLevel;

    proxy_wasm::main! {{
        // Also installs the panic hook that tells Envoy's log where we trapped.
        proxy_wasm::set_log_level(LogLevel::Info);
    }}

    // As linked, the module has the SDK's callbacks, would load, and would do nothing. So it imports what no host has, whose
    // name Envoy then says. The last step of the build (`filter/trim`) takes the export out, and the import with it.
    #[link(wasm_import_module = "this circuit breaker is not finished, build it with `make build`")]
    unsafe extern "C" {
        #[link_name = "filter/trim"]
        fn is_not_finished();
    }

    #[unsafe(no_mangle)]
    extern "C" fn not_finished() {
        unsafe { is_not_finished() }
    }
}
