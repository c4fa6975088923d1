//! Paths that are exempt from the breaker: health checks and the like.

/// A set of paths, each whole or with all that lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    whole: Vec<String>,
    /// With their last `/`.
    above: Vec<String>,
}

/// Whether a pattern can be read: it begins with `/`, and `*` stands only at its end, after a `/`.
pub(crate) fn is_valid(pattern: &str) -> bool {
    let plain = pattern.strip_suffix("/*").unwrap_or(pattern);
    (plain.starts_with('/') || pattern == "/*") && !plain.contains(['*', '?', '#'])
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
        ] {
            assert_eq!(is_valid(pattern), valid, "{pattern}");
        }
    }
}
