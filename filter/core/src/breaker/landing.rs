//! Where a circuit's fallback leads.
//!
//! A fallback is a header and nothing more. A request that carries it is routed again, and only Envoy's routes know
//! where that leads. Envoy tells the new upstream only when the request is on its way, so nobody could ask the
//! fallback's own circuit about the very first request. That request is the *scout*: it is let go, and all others are
//! rejected until it has landed. From then on the workers know where the fallback leads, and ask its circuit first.
//! Routes change, so each request that lands says where it landed, and this replaces what was known.
//!
//! An operator who mends a wrong fallback pushes a new configuration. So a landing holds only under the configuration
//! that it was found out under, and the first request under another one is a scout again.
//!
//! The worst case is a fallback whose header no route matches: it leads back to the upstream that is to be protected.
//! One scout per outage finds that out, and no other request follows it.

/// What is known of a circuit's fallback. It is in shared data, so that the scout of one worker tells all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Landing {
    /// The hash of the configuration under which it was found out.
    pub(super) configuration: u32,
    /// The generation that the circuit began with. An earlier circuit of its slot belonged to another upstream.
    pub(super) born: u64,
    /// Where it leads.
    pub(super) place: Place,
}

/// Where a fallback leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A scout is under way, since then.
    Scouted {
        /// Nanoseconds since 1970.
        since: u64,
    },
    /// It leads to this upstream; empty for a route without one, for example a direct response.
    At {
        /// The circuit's generation when that was found out.
        generation: u64,
        /// The upstream.
        upstream: String,
    },
}

impl Landing {
    /// The configuration, the circuit, a byte for the kind of place, a word, the name.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, word, name) = match &self.place {
            Place::Scouted { since } => (0, since, ""),
            Place::At { generation, upstream } => (1, generation, upstream.as_str()),
        };
        let mut bytes = self.configuration.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.born.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&word.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    /// `None` for bytes that this version does not know.
    pub(super) fn decode(bytes: &[u8]) -> Option<Landing> {
        let (configuration, rest) = bytes.split_first_chunk()?;
        let (born, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (word, name) = rest.split_first_chunk()?;
        let word = u64::from_le_bytes(*word);
        let place = match kind {
            0 => Place::Scouted { since: word },
            1 => Place::At { generation: word, upstream: String::from_utf8(name.to_vec()).ok()? },
            _ => return None,
        };
        Some(Landing { configuration: u32::from_le_bytes(*configuration), born: u64::from_le_bytes(*born), place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_landing_reads_as_it_was_written() {
        for place in [
            Place::Scouted { since: 7 },
            Place::At { generation: 3, upstream: "outbound|80||b".to_owned() },
            Place::At { generation: 3, upstream: String::new() },
        ] {
            let landing = Landing { configuration: 9, born: 4, place };
            assert_eq!(Landing::decode(&landing.encode()), Some(landing));
        }
        let head = [9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        for bytes in [&[][..], &[0, 1], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 255]] {
            assert_eq!(Landing::decode(&[&head[..], bytes].concat()), None);
            assert_eq!(Landing::decode(bytes), None);
        }
    }
}
