//! The code that `wit-bindgen` generates from `wit/`, and nothing else.
//!
//! It crosses the WebAssembly boundary through raw pointers and exported symbols, which Rust calls unsafe; the generator
//! answers for it. It is the only module that may contain unsafe code, and its comments are those of the WIT files.
//!
//! One module for each world, because exporting a world exports all of it. What they share is in the first.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::indexing_slicing)]

pub mod handler {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "message-handler",
        additional_derives: [PartialEq, Eq],
        // Its bounds are floating-point numbers, which are not `Eq`.
        additional_derives_ignore: ["declaration"],
        pub_export_macro: true,
        export_macro_name: "export_handler",
    });
}

pub mod hooks {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "lifecycle-hooks",
        with: {
            "parti:plugin/types@0.1.0": super::handler::parti::plugin::types,
            "parti:plugin/log@0.1.0": super::handler::parti::plugin::log,
            "parti:plugin/config@0.1.0": super::handler::parti::plugin::config,
            "parti:plugin/metrics@0.1.0": super::handler::parti::plugin::metrics,
            "parti:plugin/context@0.1.0": super::handler::parti::plugin::context,
        },
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_hooks",
    });
}

pub mod strategy {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "assignment-strategy",
        with: {
            "parti:plugin/types@0.1.0": super::handler::parti::plugin::types,
            "parti:plugin/log@0.1.0": super::handler::parti::plugin::log,
            "parti:plugin/config@0.1.0": super::handler::parti::plugin::config,
            "parti:plugin/metrics@0.1.0": super::handler::parti::plugin::metrics,
            "parti:plugin/context@0.1.0": super::handler::parti::plugin::context,
        },
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_strategy",
    });
}

pub mod source {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "partition-source",
        with: {
            "parti:plugin/log@0.1.0": super::handler::parti::plugin::log,
            "parti:plugin/config@0.1.0": super::handler::parti::plugin::config,
            "parti:plugin/metrics@0.1.0": super::handler::parti::plugin::metrics,
            "parti:plugin/context@0.1.0": super::handler::parti::plugin::context,
        },
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_source",
    });
}

pub use handler::parti;
