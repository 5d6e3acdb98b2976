#![no_std]
//! Types shared by kernel side and user side.
