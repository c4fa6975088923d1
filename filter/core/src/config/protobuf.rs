//! A policy that came in the wrong wrapping.
//!
//! Envoy hands a module the bytes of its configuration. A `google.protobuf.StringValue` arrives as its text. A
//! `Struct` may arrive as binary protobuf, of which a JSON parser can only say that it is not JSON.

/// Whether the bytes are a `google.protobuf.Struct`: one or more entries of its only field, a map from text to
/// values, and nothing else. A JSON document is never one: the tag of an entry is a line feed, and the length after
/// it would have to be one too.
pub(super) fn is_struct(document: &[u8]) -> bool {
    let mut rest = document;
    while !rest.is_empty() {
        let Some((entry, after)) = field(rest, FIRST_FIELD) else { return false };
        let Some((_, value)) = field(entry, FIRST_FIELD) else { return false };
        if !matches!(field(value, SECOND_FIELD), Some((_, []))) {
            return false;
        }
        rest = after;
    }
    !document.is_empty()
}

/// Tags of fields 1 and 2 that have a length.
const FIRST_FIELD: u8 = 0x0A;
const SECOND_FIELD: u8 = 0x12;

/// The content of the first field of `bytes`, and what comes after it.
fn field(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let mut length = 0_usize;
    // Five bytes of seven bits give more than any configuration has.
    for shift in [0_u32, 7, 14, 21, 28] {
        let (byte, after) = rest.split_first()?;
        rest = after;
        length |= usize::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return if *first == tag { rest.split_at_checked(length) } else { None };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// `{"default": {"mode": "observe"}}`.
    const POLICY: &[u8] = b"\x0a\x20\x0a\x07default\x12\x15\x2a\x13\x0a\x11\x0a\x04mode\x12\x09\x1a\x07observe";

    #[test]
    fn a_struct_is_told_from_a_document() {
        assert!(is_struct(POLICY));
        assert!(is_struct(&[POLICY, POLICY].concat()), "two entries");
        for other in
            [&b""[..], b"\n\n{}", b"\n{\"default\": {}}", b"{}", b"\n", &POLICY[..9], b"\x0a\x80\x80\x80\x80\x80\x01"]
        {
            assert!(!is_struct(other), "{other:?}");
        }
    }
}
