//! Paths that are exempt from the breaker: health checks and the like.
//!
//! An exempt path passes an OPEN circuit, so nobody may make another path look like one. Servers read some paths as
//! others: `/readyz/../pay` as `/pay`, `%2f` as `/`, and they may drop what comes after a `;`. A path with any of
//! these is never exempt: no health check needs them.

/// A set of paths, each whole or with all that lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    whole: Vec<String>,
    /// Prefixes, each with its last `/`.
    above: Vec<String>,
}

/// Whether a pattern is valid: it begins with `/`, and `*` stands only at its end, after a `/`.
pub(crate) fn is_valid(pattern: &str) -> bool {
    let plain = pattern.strip_suffix("/*").unwrap_or(pattern);
    (plain.starts_with('/') || pattern == "/*")
        && !plain.contains(['*', '?', '#'])
        && is_plain(pattern.trim_end_matches('*'))
}

/// Encoded `/`, `\\`, `.` and `%`: a server may decode them to another path, and `%` where it decodes twice.
const ENCODED: [&str; 4] = ["2f", "5c", "2e", "25"];

/// Whether every server reads this path as it is written.
fn is_plain(path: &str) -> bool {
    let encodes = |rest: &str| {
        let digits = rest.get(..2).unwrap_or_default();
        ENCODED.iter().any(|code| code.eq_ignore_ascii_case(digits))
    };
    let (middle, last) = path.rsplit_once('/').unwrap_or(("", path));
    // Some servers merge slashes: they drop an empty segment in the middle.
    let middle = middle.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."));
    let ends = !matches!(last, "." | "..");
    middle && ends && !path.contains([';', '\\']) && !path.split('%').skip(1).any(encodes)
}

impl Paths {
    pub(crate) fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Paths {
        let mut paths = Paths::default();
        for pattern in patterns {
            match pattern.strip_suffix('*') {
                Some(above) => paths.above.push(above.to_owned()),
                None => paths.whole.push(pattern.to_owned()),
            }
        }
        paths
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.above.is_empty()
    }

    /// Whether a request's path, with its query, is one of them.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        if !is_plain(path) {
            return false;
        }
        self.whole.iter().any(|whole| whole == path) || self.above.iter().any(|above| path.starts_with(above.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn paths_match_whole_or_by_what_lies_above() {
        let paths = Paths::new(["/healthz", "/readyz/*"].into_iter());
        for (path, exempt) in [
            ("/healthz", true),
            ("/healthz?full=1", true),
            ("/healthz/", false),
            ("/healthzz", false),
            ("/readyz/db", true),
            ("/readyz/", true),
            ("/readyz", false),
            ("/", false),
        ] {
            assert_eq!(paths.contains(path), exempt, "{path}");
        }
        assert!(Paths::new(["/*"].into_iter()).contains("/anything"));
    }

    #[test]
    fn no_path_that_a_server_may_read_as_another_is_exempt() {
        let paths = Paths::new(["/readyz/*", "/a.b/c"].into_iter());
        for forged in [
            "/readyz/../pay",
            "/readyz/..",
            "/readyz/.",
            "/readyz/./pay",
            "/readyz/..%2fpay",
            "/readyz/..%2Fpay",
            "/readyz/%2e%2e/pay",
            "/readyz/.%2E/pay",
            "/readyz/%252e%252e/pay",
            "/readyz/..;/pay",
            "/readyz/x;y=1",
            "/readyz/..\\pay",
            "/readyz/..%5cpay",
            "/readyz//pay",
            "//readyz/x",
        ] {
            assert!(!paths.contains(forged), "{forged}");
            assert!(!paths.contains(&format!("{forged}?x=1")), "{forged} with a query");
        }
        for plain in ["/readyz/a.b", "/readyz/...", "/readyz/%20x", "/readyz/x/", "/a.b/c", "/readyz/x?to=/../y;z"] {
            assert!(paths.contains(plain), "{plain}");
        }
    }

    #[test]
    fn a_star_stands_only_at_the_end_after_a_slash() {
        for (pattern, valid) in [
            ("/a", true),
            ("/a/*", true),
            ("/*", true),
            ("a", false),
            ("/a*", false),
            ("/*/a", false),
            ("", false),
            ("/a?b", false),
            ("/a/../b", false),
            ("/a/./*", false),
            ("/a;b", false),
            ("/a%2fb", false),
            ("/a//b", false),
        ] {
            assert_eq!(is_valid(pattern), valid, "{pattern}");
        }
    }
}
