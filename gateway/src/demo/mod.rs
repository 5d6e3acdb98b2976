pub(crate) mod namespace;
#[cfg(test)]
mod tests;
mod topology;
mod traffic;
