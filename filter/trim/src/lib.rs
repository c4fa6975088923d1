//! Takes out of a linked module the exports that do nothing and that Envoy would call.
//!
//! The SDK exports every callback of the ABI. Envoy calls each export that it finds, for every request and every body
//! chunk, and skips the others. One that does nothing costs about 1,900 instructions. So the build removes the
//! exports that the filter does not use, and the code that only they reached. Where the filter has a callback of its
//! own (`own_proxy_on_log`), it gets the ABI's name in place of the SDK's.
//!
//! It also writes a hash of the module into the module's name, so that two modules of one version can be told apart.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use walrus::{ExportItem, Module, ModuleConfig, passes};

/// Exports that stay, and why. Without any one of them a module does not load, or does not work.
pub const KEPT: &[(&str, &str)] = &[
    ("memory", "the host reads and writes it"),
    ("malloc", "the host asks for room for the values it returns"),
    ("proxy_abi_version_0_2_1", "tells the host how to talk to the module"),
    ("_initialize", "sets the root context"),
    ("proxy_on_context_create", "a request begins"),
    ("proxy_on_vm_start", "the SDK's life cycle"),
    ("proxy_on_configure", "the configuration"),
    ("proxy_on_tick", "time"),
    ("proxy_on_http_call_response", "the answer to a probe of the breaker's own"),
    ("proxy_on_request_headers", "admission"),
    ("proxy_on_request_body", "the request's last byte: only then the upstream owes an answer"),
    ("proxy_on_request_trailers", "the same, where a request ends with trailers"),
    ("proxy_on_response_headers", "time to the first byte; probes"),
    ("proxy_on_response_trailers", "gRPC's status"),
    ("proxy_on_log", "the outcome"),
    ("proxy_on_delete", "a request is over: the outcome where HTTP/3 never logs, and its memory"),
];

/// Largest module that may be shipped: every proxy of a mesh fetches it, and every worker compiles it.
pub const LARGEST: usize = 400 * 1024;

/// The trimmed module.
///
/// # Errors
/// `linked` is not a module, lacks one of [`KEPT`], or is still larger than [`LARGEST`].
pub fn trim(linked: &[u8]) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config.generate_name_section(false).generate_producers_section(false);
    let mut module = config.parse(linked).context("not a WebAssembly module")?;
    name_own_exports(&mut module);
    for (name, why) in KEPT {
        let found = module.exports.iter().any(|export| export.name == *name);
        ensure!(found, "the module does not export {name}, which it must: {why}");
    }
    let is_kept = |name: &str| KEPT.iter().any(|(kept, _)| *kept == name);
    let unused: Vec<_> = module.exports.iter().filter(|export| !is_kept(&export.name)).map(|e| e.id()).collect();
    for id in unused {
        module.exports.delete(id);
    }
    drop_custom_sections(&mut module);
    passes::gc::run(&mut module);
    let mut trimmed = module.emit_wasm();
    name(&mut trimmed)?;
    if trimmed.len() > LARGEST {
        bail!("the trimmed module has {} bytes; at most {LARGEST} are allowed", trimmed.len());
    }
    Ok(trimmed)
}

/// What stands before a module's name in its data (`filter/src/name.rs`). The name is a version, `-` and a hash.
const MARK: &[u8] = b"the name of this module: ";

/// Hexadecimal digits of the hash in a module's name: enough to tell the modules of a mesh apart, and short enough for
/// a person to compare.
const DIGITS: usize = 8;

/// Writes the hash of a module into its name, in place of the digits that are there. The hash is of the module with
/// zeros in their place.
///
/// # Errors
/// The module has no name.
pub fn name(module: &mut [u8]) -> Result<()> {
    let at = digits(module).context("the module has no name (filter/src/name.rs)")?;
    let digits = |module: &mut [u8], digits: &[u8]| {
        module.iter_mut().skip(at).zip(digits).for_each(|(byte, digit)| *byte = *digit);
    };
    digits(module, &[b'0'; DIGITS]);
    let hash: String = Sha256::digest(&*module).iter().map(|byte| format!("{byte:02x}")).collect();
    digits(module, hash.as_bytes().first_chunk::<DIGITS>().context("a hash of few digits")?);
    Ok(())
}

/// Where the digits of a module's name begin.
fn digits(module: &[u8]) -> Option<usize> {
    let mark = module.windows(MARK.len()).position(|bytes| bytes == MARK)?;
    let dash = module.iter().skip(mark).position(|byte| *byte == b'-')?;
    let at = mark.checked_add(dash)?.checked_add(1)?;
    module.get(at..)?.first_chunk::<DIGITS>()?.iter().all(u8::is_ascii_hexdigit).then_some(at)
}

/// The prefix of a module's own callbacks, before they get their names.
const OWN: &str = "own_";

/// Gives the module's own callbacks the ABI's names, and removes the SDK's callbacks of the same names.
fn name_own_exports(module: &mut Module) {
    let own = module.exports.iter().filter(|export| export.name.starts_with(OWN));
    let own: Vec<_> = own.map(|export| (export.id(), export.name[OWN.len()..].to_owned())).collect();
    for (id, name) in own {
        let replaced: Vec<_> =
            module.exports.iter().filter(|export| export.name == name).map(walrus::Export::id).collect();
        replaced.into_iter().for_each(|id| module.exports.delete(id));
        module.exports.get_mut(id).name = name;
    }
}

/// Names and build notes are for debuggers. The section with the instruction set stays, since the engine needs it.
fn drop_custom_sections(module: &mut Module) {
    let dropped: Vec<_> =
        module.customs.iter().filter(|(_, section)| section.name() != "target_features").map(|(id, _)| id).collect();
    for id in dropped {
        module.customs.delete(id);
    }
}

/// Names of the functions that a module exports, in its order.
///
/// # Errors
/// `bytes` is not a module.
pub fn exported_functions(bytes: &[u8]) -> Result<Vec<String>> {
    let module = Module::from_buffer(bytes)?;
    let functions = module.exports.iter().filter(|export| matches!(export.item, ExportItem::Function(_)));
    Ok(functions.map(|export| export.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with all sections that it must have, without `left_out`, and with `more`.
    fn module(left_out: &str, more: &str) -> Vec<u8> {
        let mut text = String::from("(module (memory (export \"memory\") 1)");
        text.push_str("(data (i32.const 0) \"the name of this module: 1.2.3-00000000, and so on\")");
        for (name, _) in KEPT.iter().filter(|(name, _)| *name != "memory" && *name != left_out) {
            text.push_str(&format!("(func (export \"{name}\"))"));
        }
        text.push_str(more);
        text.push(')');
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn an_export_that_is_not_used_goes_and_takes_its_code_along() {
        let body = "i32.const 1 drop ".repeat(1000);
        let more = format!("(func $inner {body}) (func (export \"proxy_on_response_body\") (call $inner))");
        let trimmed = trim(&module("", &more)).unwrap();
        assert!(!exported_functions(&trimmed).unwrap().contains(&"proxy_on_response_body".to_owned()));
        assert!(trimmed.len() < 1000, "{} bytes are left", trimmed.len());
        assert_eq!(trim(&trimmed).unwrap(), trimmed, "trimming again changes nothing");
    }

    #[test]
    fn a_callback_of_the_modules_own_takes_the_place_of_the_sdks() {
        let body = "i32.const 1 drop ".repeat(1000);
        let more = format!("(func (export \"own_proxy_on_done\")) (func (export \"own_proxy_on_log\") {body})");
        let trimmed = trim(&module("", &more)).unwrap();
        assert!(trimmed.len() > 1000, "the own one stays");
        let names = exported_functions(&trimmed).unwrap();
        assert_eq!(names.iter().filter(|name| name.contains("proxy_on_log")).count(), 1);
        assert!(
            !names.iter().any(|name| name.contains("proxy_on_done")),
            "what Envoy is not to call goes all the same"
        );
    }

    #[test]
    fn what_is_used_stays() {
        let trimmed = trim(&module("", "")).unwrap();
        let mut names = exported_functions(&trimmed).unwrap();
        names.push("memory".to_owned());
        names.sort();
        let mut kept: Vec<&str> = KEPT.iter().map(|(name, _)| *name).collect();
        kept.sort_unstable();
        assert_eq!(names, kept);
    }

    #[test]
    fn a_module_that_lacks_what_it_needs_is_refused_by_name() {
        for (name, _) in KEPT.iter().filter(|(name, _)| *name != "memory") {
            let error = trim(&module(name, "")).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_module_over_the_budget_is_refused() {
        let data = "x".repeat(LARGEST);
        let error = trim(&module("", &format!("(data (i32.const 0) \"{data}\")"))).unwrap_err().to_string();
        assert!(error.contains(&format!("at most {LARGEST}")), "{error}");
    }

    #[test]
    fn the_name_tells_modules_apart_that_differ_in_one_byte() {
        let named = |more| {
            let trimmed = trim(&module("", more)).unwrap();
            let at = digits(&trimmed).unwrap();
            String::from_utf8(trimmed[at..at + DIGITS].to_vec()).unwrap()
        };
        let (one, other) = ("(data (i32.const 99) \"1\")", "(data (i32.const 99) \"2\")");
        assert_eq!(named(one), named(one));
        assert_ne!(named(one), named(other));
        assert_ne!(named(one), "00000000");
    }

    #[test]
    fn a_module_without_a_name_is_refused() {
        for data in ["", "the name of this module: 1.2.3", "the name of this module: 1.2.3-0000000x"] {
            assert!(name(&mut data.as_bytes().to_vec()).unwrap_err().to_string().contains("no name"), "{data}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(trim(b"garbage").unwrap_err().to_string().contains("not a WebAssembly module"));
    }
}
