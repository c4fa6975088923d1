//! One call that answers all that is asked at a request's end: where did it go, and how did it end?
//!
//! A call that returns bytes costs ten times one that does not. Upstream, status, flags and details would take four.
//! Envoy evaluates an expression over them in one call (its foreign functions `expr_create`, `expr_evaluate`,
//! `expr_delete`). In the usual case the expression is `null`, for which Envoy has no bytes: it answers with the
//! status of a value that it cannot serialize. No other value of these expressions can have that status, since all
//! others are texts. A host that does otherwise is asked property by property.

use std::rc::Rc;

use circuit_breaker_core::envoy::{self, Details, VIA_UPSTREAM};

use crate::envoy::{CLUSTER, Envoy, Evaluated, Token};
use favourite::Favourite;

mod favourite;

/// How a request ended.
pub(crate) struct Seen {
    /// Where it went last; `None`: nowhere.
    pub(crate) upstream: Option<Rc<str>>,
    pub(crate) status: u32,
    pub(crate) flags: u64,
    pub(crate) details: Details,
}

/// Everything, after a line feed, which no upstream's name begins with. Details have no spaces (Envoy makes them
/// underscores). A name may have spaces, so it comes last.
const ALL: &str = r#""\n" + string(response.code) + " " + string(response.flags) + " " + response.code_details + " " + xds.cluster_name"#;

/// The condition that all went well: the answer is the upstream's own, and a good one. Any flags then tell of what
/// came before it.
fn well() -> String {
    format!("response.code_details == \"{VIA_UPSTREAM}\" && response.code < 400")
}

/// The expressions of one configuration: Envoy keeps them with its root context.
pub(crate) struct Glance<E: Envoy> {
    /// Without a guess of where a call went. It is `null` where it went nowhere.
    named: Expression<E>,
    /// With a guess. It is `null` where all went well and the call went there.
    guessed: Option<Expression<E>>,
    /// For the head of an answer. It is `null` where the head is good.
    head: Option<Expression<E>>,
    /// The policy needs the exact status below 400, so no status is known to be good.
    exactly: bool,
    favourite: Favourite,
}

impl<E: Envoy> Glance<E> {
    /// `exactly`: the policy needs the exact status below 400. `None`: this host has no such expressions.
    pub(crate) fn new(envoy: &E, exactly: bool) -> Option<Glance<E>> {
        let text = if exactly { ALL.to_owned() } else { format!("{} ? xds.cluster_name : {ALL}", well()) };
        let named = Expression::create(envoy, &text)?;
        let text = if exactly { ALL.to_owned() } else { format!("{} ? null : {ALL}", well()) };
        let head = Expression::create(envoy, &text);
        Some(Glance { named, guessed: None, head, exactly, favourite: Favourite::default() })
    }

    /// What the head of an answer says that comes by. `None`: the host does not say.
    pub(crate) fn head(&self) -> Option<Seen> {
        match self.head.as_ref()?.evaluate()? {
            Evaluated::Null => Some(Seen::WELL),
            Evaluated::Text(told) => Seen::told(&told),
        }
    }

    /// How a request ended, and where. `None`: the host does not say; ask for each by itself.
    pub(crate) fn look(&mut self) -> Option<Seen> {
        let told = match self.guessed.as_ref().unwrap_or(&self.named).evaluate()? {
            Evaluated::Text(told) => told,
            Evaluated::Null => {
                self.favourite.held();
                return Some(Seen { upstream: self.favourite.guess().cloned(), ..Seen::WELL });
            }
        };
        let ended = Seen::told(&told)?;
        if let Some(upstream) = ended.upstream.as_deref().filter(|_| !self.exactly) {
            self.favourite.told(upstream);
        }
        Some(ended)
    }

    /// Called from time to time: takes a new guess.
    pub(crate) fn turn(&mut self, envoy: &E) {
        if self.favourite.turn() {
            self.guessed = self.favourite.guess().and_then(|upstream| guess(envoy, upstream));
        }
    }
}

/// `None` for a name that would not stand for itself in the text of an expression.
fn guess<E: Envoy>(envoy: &E, upstream: &str) -> Option<Expression<E>> {
    if !stands_for_itself(upstream) {
        return None;
    }
    let to_there = format!("(xds.cluster_name == \"{upstream}\" ? null : xds.cluster_name)");
    Expression::create(envoy, &format!("{} ? {to_there} : {ALL}", well()))
}

/// Whether a name means itself between the quotes of an expression's text. A name that ended the text early would be
/// compared with another text, and calls to any upstream would count as calls to it.
fn stands_for_itself(upstream: &str) -> bool {
    upstream.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// An expression. Dropping it ends it.
struct Expression<E: Envoy> {
    envoy: E,
    token: Token,
}

impl<E: Envoy> Expression<E> {
    fn create(envoy: &E, expression: &str) -> Option<Expression<E>> {
        Some(Expression { token: envoy.create(expression)?, envoy: envoy.clone() })
    }

    fn evaluate(&self) -> Option<Evaluated> {
        self.envoy.evaluate(&self.token)
    }
}

impl<E: Envoy> Drop for Expression<E> {
    fn drop(&mut self) {
        self.envoy.delete(&self.token);
    }
}

impl Seen {
    /// As most do.
    const WELL: Seen = Seen { upstream: None, status: 200, flags: 0, details: Details::ViaUpstream };

    pub(crate) fn is_well(&self) -> bool {
        (1..400).contains(&self.status) && self.details == Details::ViaUpstream
    }

    /// What an expression says: all, or the upstream alone, where all went well.
    fn told(told: &str) -> Option<Seen> {
        match told.strip_prefix('\n') {
            Some(all) => Seen::parse(all),
            None => (!told.is_empty()).then(|| Seen { upstream: Some(Rc::from(told)), ..Seen::WELL }),
        }
    }

    fn parse(told: &str) -> Option<Seen> {
        let mut parts = told.splitn(4, ' ');
        let (status, flags) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (details, flags) = envoy::read(parts.next()?, flags);
        Some(Seen { upstream: parts.next().map(Rc::from), status, flags, details })
    }

    /// Asked property by property.
    pub(crate) fn read(host: &impl Envoy) -> Seen {
        let status = host.number("response\0code").and_then(|code| u32::try_from(code).ok()).unwrap_or(0);
        let flags = host.number("response\0flags").unwrap_or(0);
        let details = host.text("response\0code_details").unwrap_or_default();
        let (details, flags) = envoy::read(&details, flags);
        Seen { upstream: host.text(CLUSTER).map(Rc::from), status, flags, details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_expression_says_is_read_back() {
        let well = Seen::told("outbound|80||a").unwrap();
        assert!(well.is_well());
        assert_eq!(well.upstream.as_deref(), Some("outbound|80||a"));
        let all = Seen::told("\n503 0 fault_filter_abort outbound|80|| a b").unwrap();
        assert_eq!((all.status, all.flags, all.details), (503, 0, Details::Other));
        assert_eq!(all.upstream.as_deref(), Some("outbound|80|| a b"));
        for odd in ["", "\n", "\n503", "\n503 x via_upstream a"] {
            assert!(Seen::told(odd).is_none(), "{odd:?}");
        }
    }

    #[test]
    fn only_names_that_no_quoting_changes_are_guessed() {
        for plain in ["outbound|80||a.default.svc.cluster.local", "inbound|8080||", "a-b_c/d:e", "it's"] {
            assert!(stands_for_itself(plain), "{plain}");
        }
        for odd in [r#"a" == "a" || ""#, r"a\", r"a\n", "a b", "a\n", "gr\u{fc}n"] {
            assert!(!stands_for_itself(odd), "{odd}");
        }
    }
}
