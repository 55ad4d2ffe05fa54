//! Prioritised replay (Schaul et al. 2016, arXiv:1511.05952, Section 3.3): rows are drawn in proportion to priorities, from a tree of
//! sums.

use std::ops::Range;

use bregman_envs::rng::NumpyRng;

use crate::learner::{Array, LearnError, Snapshot};
use crate::rows::Rows;

/// How rows of a buffer are drawn: in proportion to (|error| + 1e-6) to the power of an exponent, or evenly where that is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    exponent: f64,
    priorities: Option<Priorities>,
}

impl Drawing {
    /// For up to `capacity` rows.
    pub fn new(exponent: f64, capacity: usize) -> Drawing {
        Drawing { exponent, priorities: (exponent > 0.0).then(|| Priorities::new(capacity)) }
    }

    /// A row that has just come.
    pub fn add(&mut self, row: u64) {
        if let Some(priorities) = &mut self.priorities {
            priorities.add(row);
        }
    }

    /// Draws rows of those held, with replacement. Weights make up for priorities: (n p)^−importance over the largest of the batch,
    /// p the row's part of all priorities and n the number of rows.
    pub fn draw(&self, held: Range<u64>, importance: f64, rng: &mut NumpyRng, rows: &mut [u64], weights: &mut [f32]) {
        let (oldest, len) = (held.start, (held.end - held.start) as usize);
        let Some(priorities) = &self.priorities else {
            rows.iter_mut().for_each(|row| *row = oldest + rng.below(len) as u64);
            return weights.fill(1.0);
        };
        for (row, weight) in rows.iter_mut().zip(&mut *weights) {
            *row = priorities.draw(oldest, rng);
            *weight = (len as f64 * priorities.of(*row) / priorities.total()).powf(-importance) as f32;
        }
        let largest = weights.iter().copied().fold(0.0, f32::max);
        weights.iter_mut().for_each(|weight| *weight /= largest);
    }

    /// Gives rows the priorities of their errors.
    pub fn reprioritize(&mut self, rows: &[u64], errors: &[f32]) {
        if let Some(priorities) = &mut self.priorities {
            for (&row, &error) in rows.iter().zip(errors) {
                priorities.set(row, (f64::from(error.abs()) + 1e-6).powf(self.exponent));
            }
        }
    }

    /// Puts the priorities of the rows held into a snapshot.
    pub fn save(&self, rows: &Rows, snapshot: &mut Snapshot) {
        if let Some(priorities) = &self.priorities {
            let all = rows.held().map(|row| priorities.of(row)).chain([priorities.largest()]);
            snapshot.put("replay_priorities", Array::F64(all.collect()));
        }
    }

    /// Takes the priorities of the rows held from a snapshot.
    pub fn load(&mut self, rows: &Rows, snapshot: &Snapshot) -> Result<(), LearnError> {
        if let Some(priorities) = &mut self.priorities {
            let held = rows.held();
            let mut all = vec![0.0; (held.end - held.start) as usize + 1];
            snapshot.f64_into("replay_priorities", &mut all)?;
            *priorities = Priorities::restored(rows.capacity(), held.start, &all);
        }
        Ok(())
    }
}

/// Priorities of a ring of rows. A row's place is its number modulo the capacity.
#[derive(Clone, Debug, PartialEq)]
pub struct Priorities {
    /// Node `i` is the sum of `2 i` and `2 i + 1`; places are the second half. Sums are made anew from below, so that they depend
    /// on the priorities alone and not on how these came.
    tree: Vec<f64>,
    capacity: u64,
    /// The largest priority so far, which new rows have.
    largest: f64,
}

impl Priorities {
    /// For up to `capacity` rows.
    pub fn new(capacity: usize) -> Priorities {
        Priorities { tree: vec![0.0; 2 * capacity.next_power_of_two()], capacity: capacity as u64, largest: 1.0 }
    }

    /// Those of the rows from `oldest` on, the largest ever behind them.
    pub fn restored(capacity: usize, oldest: u64, priorities: &[f64]) -> Priorities {
        let mut restored = Priorities::new(capacity);
        if let Some((&largest, all)) = priorities.split_last() {
            (oldest..).zip(all).for_each(|(row, &priority)| restored.write(row, priority));
            restored.largest = largest;
        }
        restored
    }

    /// The priority of a row.
    pub fn of(&self, row: u64) -> f64 {
        self.tree[self.place(row)]
    }

    /// The sum over all rows.
    pub fn total(&self) -> f64 {
        self.tree[1]
    }

    /// The largest priority that was ever set, at least 1.
    pub fn largest(&self) -> f64 {
        self.largest
    }

    /// Gives a new row, in place of the oldest where all places are taken, the largest priority.
    pub fn add(&mut self, row: u64) {
        self.write(row, self.largest);
    }

    /// Changes the priority of a row.
    pub fn set(&mut self, row: u64, priority: f64) {
        self.largest = self.largest.max(priority);
        self.write(row, priority);
    }

    fn write(&mut self, row: u64, priority: f64) {
        let mut node = self.place(row);
        self.tree[node] = priority;
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node] + self.tree[2 * node + 1];
        }
    }

    /// Draws one of the rows held, `oldest` and those after it, in proportion to its priority.
    pub fn draw(&self, oldest: u64, rng: &mut NumpyRng) -> u64 {
        let mut rest = rng.double() * self.total();
        let mut node = 1;
        while node < self.tree.len() / 2 {
            node *= 2;
            // What rounding leaves at the right end falls on the last row that has a priority.
            if rest >= self.tree[node] && self.tree[node + 1] > 0.0 {
                rest -= self.tree[node];
                node += 1;
            }
        }
        let place = (node - self.tree.len() / 2) as u64;
        oldest + (place + self.capacity - oldest % self.capacity) % self.capacity
    }

    fn place(&self, row: u64) -> usize {
        self.tree.len() / 2 + (row % self.capacity) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_powers_of_errors_that_are_never_0() {
        let priorities = |exponent: f64, errors: [f32; 3]| {
            let mut drawing = Drawing::new(exponent, 3);
            (0..3).for_each(|row| drawing.add(row));
            drawing.reprioritize(&[0, 1, 2], &errors);
            let priorities = drawing.priorities.expect("there are priorities");
            [0, 1, 2].map(|row| priorities.of(row))
        };
        for (found, expected) in [
            (priorities(0.5, [1.0, -4.0, 16.0]), [1.0, 2.0, 4.0]),
            (priorities(1.0, [1.0, 0.0, 1e-6]), [1.0, 1e-6, 2e-6]),
        ] {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5 * b + 1e-12), "{found:?}");
        }
    }

    #[test]
    fn rows_are_drawn_in_proportion() {
        // Rows 5 to 9 of a ring of five, of which the first two have fallen away: priorities 1, 2, 0, 4, 3.
        let mut priorities = Priorities::new(5);
        (0..10).for_each(|row| priorities.add(row));
        for (row, priority) in (5..10).zip([1.0, 2.0, 0.0, 4.0, 3.0]) {
            priorities.set(row, priority);
        }
        assert_eq!((priorities.total(), priorities.of(8), priorities.largest()), (10.0, 4.0, 4.0));
        let (mut rng, mut counts) = (NumpyRng::new(1), [0i32; 5]);
        (0..10_000).for_each(|_| counts[(priorities.draw(5, &mut rng) - 5) as usize] += 1);
        for (count, expected) in counts.into_iter().zip([1000, 2000, 0, 4000, 3000]) {
            assert!((count - expected).abs() < 200, "{counts:?}");
        }
        priorities.add(10);
        assert_eq!((priorities.of(10), priorities.total()), (4.0, 13.0));
    }
}
