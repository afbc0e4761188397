//! The host's side of the contract in `wit/`, generated. Separate, so that generated names meet the core's names only in
//! `handler.rs` and `host/`, where they are converted.
//!
//! Guests' exports are called asynchronously, so that a guest can yield on epochs; the interfaces offered to guests are
//! synchronous, because none of them waits. Parameters are borrowed: a batch goes from the host's buffers straight into
//! the guest's memory.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "message-handler",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use exports::parti::plugin::handler::Guest;
pub(super) use parti::plugin::types as wit;
