//! What a measurement ran on, as far as it bears on the figures.

use std::fs::read_to_string;

use serde::Serialize;

/// The machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    vector_extensions: Vec<&'static str>,
}

impl Machine {
    /// This machine; what cannot be read is "unknown".
    pub(crate) fn of_this() -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let flags = line("flags").unwrap_or_default();
        let known = ["sse2", "avx2", "avx512f", "avx512ifma"];
        Self {
            cpu: line("model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned()),
            vector_extensions: known.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect(),
        }
    }
}

impl Machine {
    /// In a few words.
    pub(crate) fn short(&self) -> String {
        format!("{} x {}, Linux {}", self.cores, self.cpu, self.kernel)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, vector_extensions } = self;
        write!(f, "CPU {cpu}, {cores} cores ({}), kernel {kernel}", vector_extensions.join(" "))
    }
}
