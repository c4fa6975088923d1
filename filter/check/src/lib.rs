//! What a person needs outside a proxy: the JSON Schema of `pluginConfig`, and a check of files that hold one.
// A tool for a terminal: indexing a JSON value gives null where there is nothing.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod files;
pub mod schema;
