//! Rows of numbers that are only ever added, the oldest giving way: what a replay buffer is made of.
//!
//! Rows lie in chunks that a copy shares until one of the two changes, so that a snapshot costs no memory, and a checkpoint can be
//! written from it without copying. A row that was added never changes: what lies on disk already need not be written again, and
//! a chunk that is full can move to a file that is mapped into memory, of which the system keeps at hand what is used.
#![allow(unsafe_code)] // mapping a file

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap};

use crate::learner::{LearnError, Snapshot};
use crate::storage::{Storage, nameless};

/// Rows that are kept together.
const CHUNK: u64 = 4096;

/// The last `capacity` rows of `width` numbers, numbered in the order in which they came, from the first one ever.
///
/// Memory is taken chunk by chunk as rows come, until there is enough for all; from then on the oldest chunk is written anew.
#[derive(Clone, Debug)]
pub struct Rows {
    width: usize,
    capacity: u64,
    storage: Storage,
    on_disk: bool,
    /// From that on with row `CHUNK * first_chunk`.
    chunks: VecDeque<Chunk>,
    first_chunk: u64,
    /// Rows before it were never here.
    first: u64,
    added: u64,
}

/// `CHUNK` rows: in memory, or in a file that nothing writes to any more.
#[derive(Clone, Debug)]
enum Chunk {
    Memory(Arc<Vec<f32>>),
    File(Arc<Mmap>),
}

impl Rows {
    /// None yet, to be kept in memory.
    pub fn new(width: usize, capacity: usize) -> Rows {
        assert!(width > 0 && capacity > 0, "rows and room for them");
        let capacity = capacity as u64;
        let (storage, on_disk) = (Storage::Memory, false);
        Rows { width, capacity, storage, on_disk, chunks: VecDeque::new(), first_chunk: 0, first: 0, added: 0 }
    }

    /// The same, kept elsewhere: on disk only the chunk that rows are added to is in memory.
    pub fn kept(self, storage: Storage) -> Rows {
        Rows { storage, on_disk: storage.is_disk(4 * self.capacity * self.width as u64), ..self }
    }

    /// None yet, and the first to come is row `first`.
    pub fn starting_with(self, first: u64) -> Rows {
        Rows { chunks: VecDeque::new(), first_chunk: first / CHUNK, first, added: first, ..self }
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Most rows that are held.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Whether full chunks lie on disk.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// Numbers of the rows that are held: the end is how many were ever added.
    pub fn held(&self) -> Range<u64> {
        self.first.max(self.added.saturating_sub(self.capacity))..self.added
    }

    /// Row `n`, one of those held.
    pub fn row(&self, n: u64) -> &[f32] {
        let (chunk, at) = self.place(n);
        &self.chunks[chunk].numbers()[at..at + self.width]
    }

    /// Rows called `name` in a snapshot, in place of these, whose shape they must have.
    pub fn load(&mut self, name: &str, snapshot: &Snapshot) -> Result<(), LearnError> {
        let shape = |rows: &Rows| format!("{} rows of {}", rows.capacity, rows.width);
        let missing = || LearnError::Snapshot(format!("`{name}` is missing"));
        let rows = snapshot.rows.get(name).ok_or_else(missing)?;
        if shape(rows) != shape(self) {
            return Err(LearnError::Snapshot(format!("`{name}` should be {} and is {}", shape(self), shape(rows))));
        }
        // Where that is left open, what they take of the memory does not count against themselves.
        let on_disk = if self.storage == Storage::Auto { rows.on_disk } else { self.on_disk };
        *self = Rows { storage: self.storage, on_disk, ..rows.clone() };
        if self.on_disk {
            let full = self.chunks.len().saturating_sub(1);
            self.chunks.iter_mut().take(full).try_for_each(Chunk::move_to_disk)?;
        }
        Ok(())
    }

    /// Adds a row, to be written by the caller, in place of the oldest where all the room is taken. Fails where a full chunk cannot
    /// be written to disk.
    pub fn push(&mut self) -> Result<&mut [f32], LearnError> {
        let (chunk, at) = self.place(self.added);
        if chunk == self.chunks.len() {
            self.start_chunk()?;
        }
        self.added += 1;
        let Some(Chunk::Memory(numbers)) = self.chunks.back_mut() else { unreachable!("the last chunk is in memory") };
        Ok(&mut Arc::make_mut(numbers)[at..at + self.width])
    }

    fn start_chunk(&mut self) -> Result<(), LearnError> {
        let mut spare = None;
        if let Some(full) = self.chunks.back_mut().filter(|_| self.on_disk) {
            spare = Some(full.clone());
            full.move_to_disk()?;
        }
        // One more than the capacity fills, as the oldest rows start anywhere in one.
        if self.chunks.len() as u64 > self.capacity.div_ceil(CHUNK) {
            spare = spare.or(self.chunks.pop_front());
            self.first_chunk += 1;
        }
        let numbers = match spare {
            Some(Chunk::Memory(numbers)) if Arc::strong_count(&numbers) == 1 => numbers,
            _ => Arc::new(vec![0.0; CHUNK as usize * self.width]),
        };
        self.chunks.push_back(Chunk::Memory(numbers));
        Ok(())
    }

    /// The numbers of some of the rows held, in order, in as few pieces as they lie in.
    pub fn pieces(&self, rows: Range<u64>) -> impl Iterator<Item = &[f32]> {
        let mut next = rows.start;
        std::iter::from_fn(move || {
            let end = rows.end.min((next / CHUNK + 1) * CHUNK);
            let (chunk, at) = self.place(next);
            let piece =
                (next < end).then(|| &self.chunks[chunk].numbers()[at..at + (end - next) as usize * self.width]);
            next = end;
            piece
        })
    }

    /// The chunk of a row, and where the row starts there.
    fn place(&self, n: u64) -> (usize, usize) {
        ((n / CHUNK - self.first_chunk) as usize, (n % CHUNK) as usize * self.width)
    }
}

impl Chunk {
    fn numbers(&self) -> &[f32] {
        match self {
            Chunk::Memory(numbers) => numbers,
            Chunk::File(map) => bytemuck::cast_slice(map),
        }
    }

    /// Writes it to a file and maps that.
    fn move_to_disk(&mut self) -> Result<(), LearnError> {
        let Chunk::Memory(numbers) = self else { return Ok(()) };
        let write = || {
            let mut file: File = nameless(folder_of_buffers())?;
            file.write_all(bytemuck::cast_slice(numbers))?;
            // SAFETY: the file has no name, so nobody else opens it, and nothing writes to it again.
            let map = unsafe { Mmap::map(&file) }?;
            // Rows are drawn one by one: their neighbours need not come with them.
            map.advise(Advice::Random)?;
            Ok(map)
        };
        let failed =
            |e: std::io::Error| LearnError::Storage(format!("writing rows of the replay buffer to a file: {e}"));
        *self = Chunk::File(Arc::new(write().map_err(failed)?));
        Ok(())
    }
}

/// `$TMPDIR`, or `/var/tmp`, which lies on a disk where `/tmp` may lie in memory.
fn folder_of_buffers() -> &'static Path {
    static FOLDER: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os("TMPDIR").unwrap_or("/var/tmp".into()).into())
}

impl PartialEq for Rows {
    /// Equal in what is held, to the bit; rows that have fallen away do not count.
    fn eq(&self, other: &Rows) -> bool {
        let shape = |rows: &Rows| (rows.width, rows.capacity, rows.added);
        let bits = |n| self.row(n).iter().zip(other.row(n)).all(|(a, b)| a.to_bits() == b.to_bits());
        shape(self) == shape(other) && self.held().all(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row `n` is `[n, −n]`.
    fn rows(capacity: usize, added: u64) -> Rows {
        let mut rows = Rows::new(2, capacity);
        add(&mut rows, 0..added);
        rows
    }

    fn add(rows: &mut Rows, numbers: Range<u64>) {
        numbers.for_each(|n| rows.push().expect("room").copy_from_slice(&[n as f32, -(n as f32)]));
    }

    #[test]
    fn the_last_rows_are_held_and_room_is_used_again() {
        for (capacity, added, held, chunks) in [
            (4, 3, 0..3, 1),
            (4, 9, 5..9, 1),
            (4, 4098, 4094..4098, 2),
            (4, 30_000, 29_996..30_000, 2),
            (5000, 20_000, 15_000..20_000, 3),
        ] {
            let rows = rows(capacity, added);
            assert_eq!((rows.held(), rows.chunks.len()), (held.clone(), chunks));
            held.clone().for_each(|n| assert_eq!(rows.row(n), [n as f32, -(n as f32)]));
            let pieces: Vec<f32> = rows.pieces(held.clone()).flatten().copied().collect();
            assert_eq!(pieces, held.flat_map(|n| [n as f32, -(n as f32)]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut rows = rows(4, 9);
        let copy = rows.clone();
        rows.push().expect("room").copy_from_slice(&[9.0, -9.0]);
        assert_eq!((copy.held(), copy.row(5)), (5..9, &[5.0, -5.0][..]));
        assert!(rows != copy);
    }

    #[test]
    fn what_starts_with_the_rows_held_goes_on_like_the_original() {
        for added in [0, 3, 4096, 9000] {
            let mut original = rows(5, added);
            let mut other = Rows::new(2, 5).starting_with(original.held().start);
            add(&mut other, original.held());
            assert!(original == other);
            for rows in [&mut original, &mut other] {
                add(rows, added..added + 4100);
            }
            assert!(original == other);
        }
    }

    #[test]
    fn full_chunks_lie_in_files_and_read_the_same() {
        for capacity in [5000, 100_000] {
            let mut mapped = Rows::new(2, capacity).kept(Storage::Disk);
            for added in [4000, 9000, 30_000] {
                let numbers = mapped.held().end..added;
                add(&mut mapped, numbers);
                let kept = rows(capacity, added);
                assert!(mapped == kept, "{added} rows");
                let files = mapped.chunks.iter().filter(|chunk| matches!(chunk, Chunk::File(_))).count();
                assert_eq!((files, kept.chunks.len()), (mapped.chunks.len() - 1, mapped.chunks.len()));

                // What comes from memory goes to files.
                let mut snapshot = Snapshot::default();
                snapshot.rows.insert("replay".into(), kept);
                let mut loaded = Rows::new(2, capacity).kept(Storage::Disk);
                loaded.load("replay", &snapshot).expect("its shape");
                assert!(loaded == mapped && matches!(loaded.chunks[0], Chunk::File(_)) == (added > 4096));
                add(&mut loaded, added..added + 5000);
                assert!(loaded == rows(capacity, added + 5000));

                // Where it is left open they stay as they were read.
                snapshot.rows.insert("replay".into(), mapped.clone());
                let mut loaded = Rows::new(2, capacity).kept(Storage::Auto);
                loaded.load("replay", &snapshot).expect("its shape");
                assert!(loaded == mapped && loaded.is_on_disk());
            }
        }
    }
}
