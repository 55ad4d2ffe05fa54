//! What a GFlowNet trains on again. Buffers keep actions or objects and no log-probabilities, which would be stale.

use std::collections::HashSet;

use bregman_envs::rng::NumpyRng;
use bregman_envs::world::state_hash;
use serde::{Deserialize, Serialize};

use crate::learner::{Array, LearnError, Snapshot};

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayKind {
    /// Nothing.
    #[default]
    None,
    /// The latest trajectories, as their actions.
    Trajectories,
    /// The latest terminal objects; paths to them are drawn backwards.
    Objects,
    /// Different terminal objects, of which those with the least reward leave first.
    Prioritised,
}

/// A buffer of rows of integers: actions with their number in front, or states.
#[derive(Clone, Debug)]
pub struct Replay {
    kind: ReplayKind,
    width: usize,
    capacity: usize,
    rows: Vec<i32>,
    log_reward: Vec<f64>,
    /// The row that the next one replaces.
    next: usize,
    /// Hashes of the rows, where they are to differ.
    seen: HashSet<u64>,
}

impl Replay {
    /// An empty buffer.
    pub fn new(kind: ReplayKind, capacity: usize, max_len: usize, state_len: usize) -> Replay {
        let width = if kind == ReplayKind::Trajectories { max_len + 1 } else { state_len };
        Replay { kind, width, capacity, rows: Vec::new(), log_reward: Vec::new(), next: 0, seen: HashSet::new() }
    }

    /// Rows kept.
    pub fn len(&self) -> usize {
        self.log_reward.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.log_reward.is_empty()
    }

    /// Takes in a complete trajectory.
    pub fn add(&mut self, actions: &[usize], object: &[i32], log_reward: f64) {
        match self.kind {
            ReplayKind::None => {}
            ReplayKind::Trajectories => {
                let place = self.place(log_reward);
                let row = &mut self.rows[place * self.width..(place + 1) * self.width];
                row[0] = actions.len() as i32;
                row[1..].iter_mut().zip(actions).for_each(|(to, &action)| *to = action as i32);
            }
            ReplayKind::Objects => {
                let place = self.place(log_reward);
                self.rows[place * self.width..(place + 1) * self.width].copy_from_slice(object);
            }
            ReplayKind::Prioritised => self.keep_if_good(object, log_reward),
        }
    }

    /// A place for one more row, that of the oldest where there is no other.
    fn place(&mut self, log_reward: f64) -> usize {
        let place = self.next;
        if self.len() < self.capacity {
            self.rows.resize(self.rows.len() + self.width, 0);
            self.log_reward.push(log_reward);
        }
        self.log_reward[place] = log_reward;
        self.next = (place + 1) % self.capacity;
        place
    }

    fn keep_if_good(&mut self, object: &[i32], log_reward: f64) {
        if self.seen.contains(&state_hash(object)) {
            return;
        }
        if self.len() < self.capacity {
            self.rows.extend_from_slice(object);
            self.log_reward.push(log_reward);
        } else {
            let worst = (0..self.len()).min_by(|&a, &b| self.log_reward[a].total_cmp(&self.log_reward[b])).unwrap_or(0);
            if self.log_reward[worst] >= log_reward {
                return;
            }
            let row = &mut self.rows[worst * self.width..(worst + 1) * self.width];
            self.seen.remove(&state_hash(row));
            row.copy_from_slice(object);
            self.log_reward[worst] = log_reward;
        }
        self.seen.insert(state_hash(object));
    }

    /// A row drawn uniformly: an object.
    pub fn draw(&self, rng: &mut NumpyRng) -> &[i32] {
        let row = rng.below(self.len());
        &self.rows[row * self.width..(row + 1) * self.width]
    }

    /// A row drawn uniformly: the actions of a trajectory, appended to `actions`.
    pub fn draw_actions(&self, rng: &mut NumpyRng, actions: &mut Vec<usize>) {
        let row = self.draw(rng);
        actions.extend(row[1..=row[0] as usize].iter().map(|&action| action as usize));
    }

    /// Puts the rows into a snapshot.
    pub fn save(&self, snapshot: &mut Snapshot) {
        if self.kind != ReplayKind::None {
            let bytes = self.rows.iter().flat_map(|x| x.to_le_bytes()).collect();
            snapshot.put("replay/rows", Array::U8(bytes));
            snapshot.put("replay/log_reward", Array::F64(self.log_reward.clone()));
            snapshot.state.insert("replay/next".into(), self.next.into());
        }
    }

    /// Takes the rows from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        if self.kind == ReplayKind::None {
            return Ok(());
        }
        let (Some(Array::U8(bytes)), Some(Array::F64(log_reward))) =
            (snapshot.arrays.get("replay/rows"), snapshot.arrays.get("replay/log_reward"))
        else {
            return Err(LearnError::Snapshot("the replay buffer is missing".into()));
        };
        if bytes.len() != 4 * self.width * log_reward.len() || log_reward.len() > self.capacity {
            return Err(LearnError::Snapshot("the replay buffer has another size".into()));
        }
        self.rows = bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        self.log_reward.clone_from(log_reward);
        self.next = snapshot.get("replay/next")?;
        self.seen = match self.kind {
            ReplayKind::Prioritised => self.rows.chunks_exact(self.width).map(state_hash).collect(),
            _ => HashSet::new(),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_first_or_the_worst_do() {
        for (kind, kept) in [(ReplayKind::Objects, [4, 2, 3]), (ReplayKind::Prioritised, [4, 3, 9])] {
            let mut replay = Replay::new(kind, 3, 5, 1);
            // Object 9 is the best; it comes twice.
            let objects: &[i32] = if kind == ReplayKind::Objects { &[1, 2, 3, 4] } else { &[1, 9, 2, 3, 9, 4] };
            for &object in objects {
                replay.add(&[], &[object], f64::from(object));
            }
            assert_eq!(replay.len(), 3);
            let mut rows = replay.rows.clone();
            rows.sort_unstable();
            let mut kept = kept.to_vec();
            kept.sort_unstable();
            assert_eq!(rows, kept, "{kind:?}");
        }
    }

    #[test]
    fn trajectories_come_back_as_they_were_also_from_a_snapshot() {
        let mut replay = Replay::new(ReplayKind::Trajectories, 4, 3, 2);
        replay.add(&[2, 0], &[5, 5], 0.5);
        let mut snapshot = Snapshot::default();
        replay.save(&mut snapshot);
        let mut loaded = Replay::new(ReplayKind::Trajectories, 4, 3, 2);
        loaded.load(&snapshot).expect("what was saved");
        let mut actions = Vec::new();
        loaded.draw_actions(&mut NumpyRng::new(1), &mut actions);
        assert_eq!(actions, [2, 0]);
        assert_eq!(loaded.next, 1);
    }
}
