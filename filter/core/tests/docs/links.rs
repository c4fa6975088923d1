//! Every link from one file of the repository to another leads somewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::markdown::{Document, Part, ROOT, documents};

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &Document) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = document.lines().filter(|(_, part, line)| *part == Part::Prose && line.starts_with('#'));
    let mut anchor = |title: &str| {
        let slug = slug(title);
        let times = seen.entry(slug.clone()).or_default();
        *times += 1;
        if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
    };
    headings.map(|(_, _, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

fn slug(title: &str) -> String {
    let kept = title.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The targets of the links in a line: `](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Why a link leads nowhere.
fn broken(document: &Document, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let here = Path::new(ROOT).join(&document.path);
    let there = if path.is_empty() { here } else { here.parent().unwrap_or(Path::new("")).join(path) };
    let Ok(there) = there.canonicalize() else { return Some("there is no such file".to_owned()) };
    (!anchor.is_empty() && !has(&there, anchor)).then(|| "there is no such heading".to_owned())
}

fn has(path: &Path, anchor: &str) -> bool {
    let root = PathBuf::from(ROOT).canonicalize().unwrap();
    let below = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    anchors(&Document::read(&below)).iter().any(|found| found == anchor)
}

#[test]
fn every_link_leads_somewhere() {
    let (mut seen, mut lost) = (0, Vec::new());
    for document in documents() {
        for (at, _, line) in document.lines().filter(|(_, part, _)| *part != Part::Code) {
            for target in targets(line) {
                seen += 1;
                lost.extend(broken(&document, target).map(|why| format!("{}:{at}: {target}: {why}", document.path)));
            }
        }
    }
    assert!(seen > 20, "{seen} links");
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn an_anchor_is_the_heading_without_what_a_link_cannot_hold() {
    let text = "# What a *window* holds\n## `a.b`: c, d\n## Twice\n```text\n# no heading\n```\n## Twice\n".to_owned();
    let found = anchors(&Document { path: String::new(), text });
    assert_eq!(found, ["what-a-window-holds", "ab-c-d", "twice", "twice-1"]);
}
