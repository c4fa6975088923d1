//! How long lines and documents may be.

use crate::markdown::{Document, Part, documents};

/// Characters of a line at most: what a terminal beside an editor shows without wrapping.
const WIDTH: usize = 160;

/// Lines of the README at most: what a newcomer reads in two minutes.
const README: usize = 170;

#[test]
fn the_readme_is_read_in_two_minutes() {
    let readme = Document::read("README.md");
    assert!(readme.text.lines().count() <= README, "README.md has {} lines", readme.text.lines().count());
    for (at, _, line) in readme.lines() {
        assert!(line.chars().count() <= WIDTH, "README.md:{at} is {} wide", line.chars().count());
    }
}

#[test]
fn no_line_is_too_long_to_read() {
    let documents = documents();
    let too_long: Vec<String> = documents
        .iter()
        .flat_map(|document| document.lines().map(move |line| (document, line)))
        .filter(|(_, (_, part, line))| *part == Part::Prose && line.chars().count() > WIDTH)
        .map(|(document, (at, _, line))| format!("{}:{at} is {} wide", document.path, line.chars().count()))
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}
