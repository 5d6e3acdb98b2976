//! The path manager alone, in virtual time.
