//! Wraps a core WebAssembly module, built for wasm32-unknown-unknown with `wit-bindgen`, into a component.
//!
//! The compiler does this itself for wasm32-wasip2. `scripts/components` calls this program where that target cannot be had.

use std::{env, ffi::OsString, fs};

use anyhow::{Context, Result, bail};
use wit_component::ComponentEncoder;

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [module, component] = arguments.as_slice() else {
        bail!("usage: componentize MODULE.wasm COMPONENT.wasm");
    };
    let name = module.display();
    let bytes = fs::read(module).with_context(|| format!("cannot read {name}"))?;
    let encoded = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("{name} cannot become a component"))?;
    fs::write(component, encoded).with_context(|| format!("cannot write {}", component.display()))
}
