#![no_main]
#[path = "../../tests/support/parsers.rs"]
#[allow(dead_code, reason = "each target calls one of the parsers")]
mod parsers;
#[path = "../../tests/support/zip.rs"]
mod zip;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    parsers::association(bytes);
});
