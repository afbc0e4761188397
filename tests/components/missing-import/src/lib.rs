//! A handler that also needs `acme:gadgets/frobnicate`, an interface that no host offers.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

mod gadgets {
    //! Generated: it crosses the WebAssembly boundary, which Rust calls unsafe.
    #![allow(unsafe_code, missing_docs, unreachable_pub)]

    wit_bindgen::generate!({
        inline: "
            package acme:gadgets;

            interface frobnicate {
                frobnicate: func(times: u32) -> u32;
            }

            world gadgets {
                import frobnicate;
            }
        ",
    });
}

struct MissingImport;

impl Handler for MissingImport {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        gadgets::acme::gadgets::frobnicate::frobnicate(message.attempt);
        Ok(())
    }
}

parti_guest::export!(MissingImport);
