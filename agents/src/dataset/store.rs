//! Packed rows in memory, or in a file that the system's page cache keeps as much of as it can.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DatasetError;
use crate::storage::{Storage, nameless};

/// Rows of `width` numbers.
pub(super) struct Store {
    width: usize,
    place: Place,
}

enum Place {
    Memory(Vec<f32>),
    Disk(File),
}

impl Store {
    /// Room for about `rows` rows of the dataset at `path`.
    pub fn new(storage: Storage, rows: usize, width: usize, path: &Path) -> Result<Store, DatasetError> {
        let bytes = 4 * rows as u64 * width as u64;
        let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = match storage.is_disk(bytes) {
            true => Place::Disk(nameless(beside).map_err(|e| failed(&e))?),
            false => Place::Memory(Vec::with_capacity(rows * width)),
        };
        Ok(Store { width, place })
    }

    /// Appends whole rows.
    pub fn append(&mut self, rows: &[f32]) -> Result<(), DatasetError> {
        match &mut self.place {
            Place::Memory(all) => all.extend_from_slice(rows),
            Place::Disk(file) => {
                let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    /// Row `index`; from a disk it is read into `scratch`.
    pub fn row<'a>(&'a self, index: usize, scratch: &'a mut Vec<f32>) -> Result<&'a [f32], DatasetError> {
        match &self.place {
            Place::Memory(all) => Ok(&all[index * self.width..(index + 1) * self.width]),
            Place::Disk(file) => {
                let mut bytes = vec![0; 4 * self.width];
                let start = (index * bytes.len()) as u64;
                file.read_exact_at(&mut bytes, start).map_err(|e| failed(&e))?;
                scratch.clear();
                scratch.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                Ok(scratch)
            }
        }
    }
}

fn failed(error: &std::io::Error) -> DatasetError {
    DatasetError(format!("the dataset's rows on disk: {error}"))
}
