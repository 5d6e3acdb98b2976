//! The engines against what others have written down, and against big integers. What each module proves is listed in
//! `VERIFICATION.md`.

mod bursts;
mod edges;
mod reference;
mod rfc8439;
mod wycheproof;
