//! Text that other programs parse: JSON strings written without a serializer.

use std::fmt::{self, Write};

/// `text` as a JSON string with its quotes, cut after [`LONGEST`] characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LONGEST).saturating_add(2));
    // Writing to a String cannot fail.
    let _ = write_quoted(&mut out, text, LONGEST);
    out
}

/// `text` as a JSON string with its quotes, whole.
pub(crate) fn quoted_whole(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    let _ = write_quoted(&mut out, text, usize::MAX);
    out
}

/// A value longer than this is cut in messages: a log line must stay a line.
const LONGEST: usize = 256;

fn write_quoted(out: &mut String, text: &str, longest: usize) -> fmt::Result {
    out.push('"');
    for (position, character) in text.chars().enumerate() {
        if position >= longest {
            out.push('…');
            break;
        }
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() || hides(c) => write!(out, "\\u{:04x}", c as u32)?,
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

/// Whether a character that is not visible changes how the line looks: it ends the line, or turns its direction.
fn hides(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }
}
