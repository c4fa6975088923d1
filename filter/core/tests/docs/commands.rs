//! Every command that a document names exists.

use std::fs;
use std::path::Path;

use crate::markdown::{Document, Part, ROOT, documents};

/// The words after `make` in code: in a fence at a line's beginning, in prose after a backtick.
fn targets(document: &Document) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    for (at, part, line) in document.lines() {
        let code: Vec<&str> =
            if part == Part::Code { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for words in code.iter().map(|code| code.split_whitespace().collect::<Vec<_>>()) {
            // Variables may come first: `ENVOY=1.36.4 make test`.
            let rest = words.iter().skip_while(|word| word.contains('=')).collect::<Vec<_>>();
            if let [first, target, ..] = rest.as_slice()
                && **first == "make"
            {
                targets.push((at, (*target).trim_end_matches(',').to_owned()));
            }
        }
    }
    targets
}

#[test]
fn every_make_target_that_a_document_names_is_there() {
    let makefile = fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    let is_there = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    let mut seen = 0;
    for document in documents() {
        for (at, target) in targets(&document) {
            assert!(is_there(&target), "{}:{at}: make {target}", document.path);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} targets");
}

/// The commands that CI relies on: one does the main job, one passes the tests.
#[test]
fn the_readme_has_the_two_commands() {
    let readme = Document::read("README.md");
    let mut named = targets(&readme).into_iter().map(|(_, target)| target);
    assert!(readme.text.contains("\nmake demo ") && readme.text.contains("\nmake test "));
    assert!(named.any(|target| target == "demo"));
}

/// The install that a newcomer copies: its files exist, and they have the name that it replaces.
#[test]
fn the_install_of_the_readme_can_be_given() {
    let readme = Document::read("README.md");
    let code: Vec<&str> =
        readme.lines().filter(|(_, part, _)| *part == Part::Code).flat_map(|(_, _, line)| line.split(' ')).collect();
    let files: Vec<&&str> = code.iter().filter(|word| word.starts_with("istio/")).collect();
    assert!(!files.is_empty());
    for file in files {
        assert!(Path::new(ROOT).join(file).exists(), "{file}");
    }
    let replaced = code.iter().find_map(|word| word.strip_prefix("'s#")?.split('#').next()).unwrap_or_default();
    let plugin = fs::read_to_string(Path::new(ROOT).join("istio/base/circuit-breaker-wasmPlugin.yaml")).unwrap();
    assert!(plugin.contains(&format!("url: oci://{replaced}/circuit-breaker")), "{replaced}");
}
