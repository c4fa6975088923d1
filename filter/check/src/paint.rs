//! Colours, where a terminal shows them and nobody has refused them.

use std::io::IsTerminal;

use crate::look::State;

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// What standard output takes. `NO_COLOR` with any text in it refuses (no-color.org), and so does a terminal that
    /// says that it is a dumb one.
    #[must_use]
    pub fn of_stdout() -> Paint {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Paint(std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    /// What must be seen first.
    #[must_use]
    pub fn state(self, state: State, text: &str) -> String {
        match state {
            State::Open => self.code("1;31", text),
            State::HalfOpen => self.code("33", text),
            State::Closed => self.code("32", text),
        }
    }

    /// A heading.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.code("1", text)
    }

    /// What may be passed over.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.code("2", text)
    }

    /// What is not as it should be.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.code("33", text)
    }

    fn code(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
