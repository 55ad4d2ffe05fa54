//! Where many rows are kept: in memory, or in a file that the system's page cache keeps as much of as it can.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Where rows are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// In memory if they take at most half of what is free, else on disk.
    #[default]
    Auto,
    /// In memory.
    Memory,
    /// In a file without a name, which is gone when the run ends.
    Disk,
}

impl Storage {
    /// Whether so many bytes go to disk.
    pub fn is_disk(self, bytes: u64) -> bool {
        match self {
            Storage::Auto => free_memory().is_some_and(|free| bytes > free / 2),
            Storage::Memory => false,
            Storage::Disk => true,
        }
    }
}

/// A new file that no longer has a name, in `folder` or else among temporary files.
pub(crate) fn nameless(folder: &Path) -> std::io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let make = |folder: &Path| {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = folder.join(format!(".bregman-rows-{}-{count}", std::process::id()));
        let file = File::options().create_new(true).read(true).write(true).open(&name)?;
        std::fs::remove_file(&name)?;
        Ok(file)
    };
    make(folder).or_else(|_: std::io::Error| make(&std::env::temp_dir()))
}

/// Bytes of memory that are free, as Linux counts them.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Rows;

    #[test]
    fn half_of_the_free_memory_is_left_alone() {
        // What is free changes while other tests run, but not by half.
        let free = free_memory().expect("Linux says it");
        assert!(Storage::Auto.is_disk(free / 4 * 3) && !Storage::Auto.is_disk(free / 4));
        assert!(Storage::Disk.is_disk(1) && !Storage::Memory.is_disk(free * 2));
        // A number of a row takes four bytes; rows that have not come yet take none.
        let on_disk = |bytes: u64| Rows::new(1, bytes as usize / 4).kept(Storage::Auto).is_on_disk();
        assert!(on_disk(free / 4 * 3) && !on_disk(free / 4));
    }
}
