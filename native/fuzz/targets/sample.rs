#![no_main]

#[allow(dead_code)] // each target calls one
#[path = "../oracles.rs"]
mod oracles;

libfuzzer_sys::fuzz_target!(|data: &[u8]| oracles::sample(data));
