//! The house: which room of `src` may know which, that no two files know each other, and that none has grown too long.
#![cfg(not(target_arch = "wasm32"))]
// Tests say what they expect by panicking.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms, each of which may know those before it and none behind it. What all use comes first.
const ROOMS: [&str; 14] = [
    "clock",
    "share",
    "random",
    "json",
    "names",
    "keys",
    "policy",
    "config",
    "envoy",
    "circuit",
    "host",
    "telemetry",
    "shared",
    "breaker",
];

/// Lines of a file without its tests: about what a reader keeps in mind.
const LONGEST: usize = 400;

/// A module's path (`breaker::view`) and its code without comments and tests.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = path.strip_prefix(&root).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            if module == "lib" || module.starts_with("testing") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\n").next().unwrap();
            assert!(code.lines().count() <= LONGEST, "{} has more than {LONGEST} lines", path.display());
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.insert(module, code.join("\n"));
        }
    }
    found
}

/// The paths behind each `prefix` in the code, as far as they are names of modules.
fn paths<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    code.split(prefix).skip(1).map(|rest| {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_' || c == ':';
        rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].trim_end_matches(':').to_owned()
    })
}

/// The modules that each one names.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let files = files();
    let module_of = |path: &str| {
        let mut path = path;
        while !files.contains_key(path) {
            path = path.rsplit_once("::")?.0;
        }
        Some(path.to_owned())
    };
    let named = |module: &str, code: &str| {
        let above = module.rsplit_once("::").map_or("", |(above, _)| above);
        let from_root = paths(code, "crate::");
        let beside = paths(code, "super::").map(|path| format!("{above}::{path}"));
        let all = from_root.chain(beside).filter_map(|path| module_of(&path));
        // A room and what is in it are one.
        all.filter(|other| other != module && *other != above).collect()
    };
    files.iter().map(|(module, code)| (module.clone(), named(module, code))).collect()
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

#[test]
fn a_room_knows_only_those_before_it() {
    let floor = |module: &str| {
        let found = ROOMS.iter().position(|known| *known == room(module));
        found.unwrap_or_else(|| panic!("`{module}` is in no room: say in lib.rs and here what it is for"))
    };
    for (module, others) in arrows() {
        for other in others.iter().filter(|other| room(other) != room(&module)) {
            assert!(floor(other) < floor(&module), "{module} must not know {other}");
        }
    }
}

#[test]
fn no_two_files_know_each_other_whatever_way_round() {
    let mut arrows = arrows();
    // Who knows nobody that is left goes, until nobody is left.
    while !arrows.is_empty() {
        let free: Vec<String> = arrows
            .iter()
            .filter(|(_, others)| !others.iter().any(|other| arrows.contains_key(other)))
            .map(|(m, _)| m.clone())
            .collect();
        assert!(!free.is_empty(), "a circle among {:?}", arrows.keys());
        arrows.retain(|module, _| !free.contains(module));
    }
}

#[test]
fn the_crate_says_what_each_room_is_for() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("//! - ")).collect();
    for room in ROOMS {
        assert!(
            said.iter().any(|line| line.contains(&format!("`{room}`"))),
            "lib.rs does not say what `{room}` is for"
        );
    }
}
