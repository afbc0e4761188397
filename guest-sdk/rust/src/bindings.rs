//! The code that `wit-bindgen` generates from `wit/`, and nothing else.
//!
//! It crosses the WebAssembly boundary through raw pointers and exported symbols, which Rust calls unsafe; the generator
//! answers for it. It is the only module that may contain unsafe code, and its comments are those of the WIT files.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::indexing_slicing)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "message-handler",
    additional_derives: [PartialEq, Eq],
    pub_export_macro: true,
    export_macro_name: "export_bindings",
});
