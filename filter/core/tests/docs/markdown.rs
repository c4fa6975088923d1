//! The repository's Markdown files, as far as the tests must understand them.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// One Markdown file.
pub struct Document {
    /// Its path below the repository.
    pub path: String,
    pub text: String,
}

/// What a line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Prose,
    /// A row of a table, which Markdown cannot wrap.
    Row,
    /// A fence, or a line between two.
    Code,
}

impl Document {
    pub fn read(path: &str) -> Document {
        let text = fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|why| panic!("{path}: {why}"));
        Document { path: path.to_owned(), text }
    }

    /// Every line, with its number and its kind.
    pub fn lines(&self) -> impl Iterator<Item = (usize, Part, &str)> {
        let mut within = false;
        self.text.lines().enumerate().map(move |(at, line)| {
            let fence = line.trim_start().starts_with("```");
            within ^= fence;
            let part = match () {
                () if fence || within => Part::Code,
                () if line.trim_start().starts_with('|') => Part::Row,
                () => Part::Prose,
            };
            (at + 1, part, line)
        })
    }
}

/// Every Markdown file of the repository, by path.
pub fn documents() -> Vec<Document> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from(ROOT)]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".md") {
                let below = path.strip_prefix(ROOT).unwrap().to_string_lossy().into_owned();
                found.push(Document::read(&below));
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}
