//! A sound component that exports nothing of `parti:plugin`.

mod bindings {
    //! Generated: it crosses the WebAssembly boundary, which Rust calls unsafe.
    #![allow(unsafe_code, missing_docs, unreachable_pub)]

    wit_bindgen::generate!({
        inline: "
            package acme:greeter;

            interface greeting {
                greet: func(name: string) -> string;
            }

            world greeter {
                export greeting;
            }
        ",
    });

    export!(Greeter with_types_in self);

    use super::Greeter;
}

struct Greeter;

impl bindings::exports::acme::greeter::greeting::Guest for Greeter {
    fn greet(name: String) -> String {
        format!("Hello, {name}")
    }
}
