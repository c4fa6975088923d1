//! The name under which Envoy keeps a metric.
//!
//! Envoy has no labels; a proxy that runs stock Istio's bootstrap cuts them out of the name. Labels stand first:
//! `wasm_filter.circuit_breaker.component.<value>.tag.<upstream>;.<metric>` becomes
//! `<metric>{wasm_filter="circuit_breaker", tag="<upstream>", component="<value>"}`.
//!
//! Each label is cut out by a pattern that takes its first match, so that an upstream's name stands behind `component`,
//! and what would end it or pass for another label in it is escaped: two upstreams never share a series.

/// The stat name of a metric. `upstream` and `component` are left out where they are empty.
pub(crate) fn stat_name(metric: &str, upstream: &str, component: &str) -> String {
    let mut name = String::with_capacity(96_usize.saturating_add(upstream.len()));
    name.push_str("wasm_filter.circuit_breaker.");
    if !component.is_empty() {
        name.push_str("component.");
        name.push_str(component);
        name.push('.');
    }
    if !upstream.is_empty() {
        name.push_str("tag.");
        push_label(&mut name, upstream);
        name.push_str(";.");
    }
    name.push_str(metric);
    name
}

/// What begins another label.
const OTHER_LABEL: &str = "component";

/// Writes an upstream's name so that it can be told from any other and is one label: as in a URL, `%` and two digits
/// stand for what may not stand there itself. That is `;`, which ends the label, `%`, control characters, which no pattern
/// spans, and a dot after `component` (a service `web-component`).
fn push_label(label: &mut String, upstream: &str) {
    let from = label.len();
    for character in upstream.chars() {
        let ends = matches!(character, ';' | '%') || character.is_ascii_control();
        let begins = character == '.' && label.get(from..).is_some_and(|label| label.ends_with(OTHER_LABEL));
        if ends || begins {
            let code = u32::from(character);
            label.push('%');
            label.extend([code >> 4, code & 15].into_iter().filter_map(|digit| char::from_digit(digit, 16)));
        } else {
            label.push(character);
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_are_labels_that_no_other_name_has() {
        let label = |name: &str| {
            let mut label = String::new();
            push_label(&mut label, name);
            label
        };
        for (name, written) in [
            ("outbound|80|v1|a.b.svc.cluster.local", "outbound|80|v1|a.b.svc.cluster.local"),
            ("a;b", "a%3bb"),
            ("a%3bb", "a%253bb"),
            ("a_b", "a_b"),
            ("a\nb\u{7f}", "a%0ab%7f"),
            ("web-component.shop", "web-component%2eshop"),
            ("component.", "component%2e"),
            ("components.shop", "components.shop"),
            ("ä.b", "ä.b"),
        ] {
            assert_eq!(label(name), written);
        }
    }

    #[test]
    fn labels_stand_before_the_metric() {
        assert_eq!(
            stat_name("circuit_breaker_calls_total", "a", "success"),
            "wasm_filter.circuit_breaker.component.success.tag.a;.circuit_breaker_calls_total"
        );
        assert_eq!(
            stat_name("circuit_breaker_state", "a", ""),
            "wasm_filter.circuit_breaker.tag.a;.circuit_breaker_state"
        );
        assert_eq!(
            stat_name("circuit_breaker_circuits", "", ""),
            "wasm_filter.circuit_breaker.circuit_breaker_circuits"
        );
    }
}
