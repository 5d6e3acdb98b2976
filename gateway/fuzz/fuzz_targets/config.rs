//! Both configuration formats, and the checks behind them, on any text.
#![no_main]

use landbridge::config::{Format, parse};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for format in [Format::Toml, Format::WgQuick] {
        let _ = parse(text, format).and_then(|draft| draft.check(Some("lb0")));
    }
});
