//! Prioritised replay (Schaul et al. 2016, arXiv:1511.05952, Section 3.3): rows are drawn in proportion to priorities, from a tree of
//! sums.

use bregman_envs::rng::NumpyRng;

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
