//! The host's side of the contract in `wit/`, generated. Separate, so that generated names meet the core's names only in
//! the files of the kinds (`handler.rs`, `strategy.rs`, `source.rs`, `hooks.rs`) and in `host/`, where they are converted.
//!
//! One world holds every kind, so that all share the types; a component exports the interface of its own kind only.
//! Guests' exports are called asynchronously, so that a guest can yield on epochs; the interfaces offered to guests are
//! synchronous, because none of them waits. Parameters are borrowed: a batch goes from the host's buffers straight into
//! the guest's memory.

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package parti:host;
        world plugins {
            include parti:plugin/message-handler@0.1.0;
            include parti:plugin/assignment-strategy@0.1.0;
            include parti:plugin/partition-source@0.1.0;
            include parti:plugin/lifecycle-hooks@0.1.0;
        }
    ",
    world: "parti:host/plugins",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use exports::parti::plugin::{handler, hooks, source, strategy};
pub(super) use parti::plugin::types as wit;
