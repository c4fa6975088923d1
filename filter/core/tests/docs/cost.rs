//! The documents tell the same cost of a request as the gate of CI.

use std::fs;
use std::path::Path;

use crate::markdown::{Document, ROOT};

/// A number of the baseline, with a comma at the thousands as in the documents.
fn baseline(name: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join("integration/bench-baseline.json")).unwrap();
    let (_, rest) = text.split_once(&format!("\"{name}\": ")).unwrap_or_else(|| panic!("no {name} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    format!("{thousands},{rest}")
}

#[test]
fn the_documents_tell_the_cost_of_the_baseline() {
    let added = baseline("added_instructions");
    for path in ["README.md", "integration/README.md"] {
        assert!(Document::read(path).text.contains(&added), "{path}: a request costs {added} instructions");
    }
    let empty = baseline("empty_filter");
    assert!(Document::read("integration/README.md").text.contains(&empty), "an empty filter costs {empty}");
}
