//! Rows of numbers that are only ever added, the oldest giving way: what a replay buffer is made of.
//!
//! Rows lie in chunks that a copy shares until one of the two changes, so that a snapshot costs no memory, and a checkpoint can be
//! written from it without copying. A row that was added never changes: what lies on disk already need not be written again.

use std::ops::Range;
use std::sync::Arc;

use crate::learner::{LearnError, Snapshot};

/// Rows that are kept together.
const CHUNK: u64 = 4096;

/// The last `capacity` rows of `width` numbers, numbered in the order in which they came, from the first one ever.
///
/// Memory is taken chunk by chunk as rows come, until there is enough for all; from then on the oldest chunk is written anew.
#[derive(Clone, Debug)]
pub struct Rows {
    width: usize,
    capacity: u64,
    chunks: Vec<Arc<Vec<f32>>>,
    added: u64,
}

impl Rows {
    /// None yet.
    pub fn new(width: usize, capacity: usize) -> Rows {
        Rows::filled(width, capacity, 0)
    }

    /// As after `added` rows, those that are held all 0: to be written by [`fill`](Rows::fill).
    pub fn filled(width: usize, capacity: usize, added: u64) -> Rows {
        assert!(width > 0 && capacity > 0, "rows and room for them");
        let mut rows = Rows { width, capacity: capacity as u64, chunks: Vec::new(), added };
        let chunk = || Arc::new(vec![0.0; CHUNK as usize * width]);
        rows.chunks.resize_with(added.div_ceil(CHUNK).min(rows.num_chunks()) as usize, chunk);
        rows
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Most rows that are held.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Numbers of the rows that are held: the end is how many were ever added.
    pub fn held(&self) -> Range<u64> {
        self.added - self.added.min(self.capacity)..self.added
    }

    /// Row `n`, one of those held.
    pub fn row(&self, n: u64) -> &[f32] {
        let (chunk, at) = self.place(n);
        &self.chunks[chunk][at..at + self.width]
    }

    /// Rows called `name` in a snapshot, in place of these, whose shape they must have.
    pub fn load(&mut self, name: &str, snapshot: &Snapshot) -> Result<(), LearnError> {
        let shape = |rows: &Rows| format!("{} rows of {}", rows.capacity, rows.width);
        let missing = || LearnError::Snapshot(format!("`{name}` is missing"));
        let rows = snapshot.rows.get(name).ok_or_else(missing)?;
        if shape(rows) != shape(self) {
            return Err(LearnError::Snapshot(format!("`{name}` should be {} and is {}", shape(self), shape(rows))));
        }
        *self = rows.clone();
        Ok(())
    }

    /// Adds a row, to be written by the caller, in place of the oldest where all the room is taken.
    pub fn push(&mut self) -> &mut [f32] {
        let (chunk, at) = self.place(self.added);
        if chunk == self.chunks.len() {
            self.chunks.push(Arc::new(vec![0.0; CHUNK as usize * self.width]));
        }
        self.added += 1;
        &mut Arc::make_mut(&mut self.chunks[chunk])[at..at + self.width]
    }

    /// Writes row `n`, one of those held.
    pub fn fill(&mut self, n: u64, row: &[f32]) {
        let (chunk, at) = self.place(n);
        Arc::make_mut(&mut self.chunks[chunk])[at..at + self.width].copy_from_slice(row);
    }

    /// The numbers of some of the rows held, in order, in as few pieces as they lie in.
    pub fn pieces(&self, rows: Range<u64>) -> impl Iterator<Item = &[f32]> {
        let mut next = rows.start;
        std::iter::from_fn(move || {
            let end = rows.end.min((next / CHUNK + 1) * CHUNK);
            let (chunk, at) = self.place(next);
            let piece = (next < end).then(|| &self.chunks[chunk][at..at + (end - next) as usize * self.width]);
            next = end;
            piece
        })
    }

    /// Chunks that are needed: one more than the capacity fills, as the newest rows start anywhere in one.
    fn num_chunks(&self) -> u64 {
        self.capacity.div_ceil(CHUNK) + 1
    }

    /// The chunk of a row, and where the row starts there.
    fn place(&self, n: u64) -> (usize, usize) {
        ((n / CHUNK % self.num_chunks()) as usize, (n % CHUNK) as usize * self.width)
    }
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
        (0..added).for_each(|n| rows.push().copy_from_slice(&[n as f32, -(n as f32)]));
        rows
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
        rows.push().copy_from_slice(&[9.0, -9.0]);
        assert_eq!((copy.held(), copy.row(5)), (5..9, &[5.0, -5.0][..]));
        assert!(rows != copy);
    }

    #[test]
    fn what_is_filled_in_goes_on_like_the_original() {
        for added in [0, 3, 4096, 9000] {
            let mut original = rows(5, added);
            let mut other = Rows::filled(2, 5, added);
            original.held().for_each(|n| other.fill(n, original.row(n)));
            assert!(original == other);
            for rows in [&mut original, &mut other] {
                (0..4100).for_each(|_| rows.push().copy_from_slice(&[7.0, 8.0]));
            }
            assert!(original == other);
        }
    }
}
