//! Experience replay: transitions of the last steps, drawn evenly (Lin 1992) or by priority (Schaul et al. 2016), as returns over one
//! step or several.
//!
//! A transition is one row of single-precision numbers, so that drawing it touches memory in one place. A row has both flags, and
//! its `next_obs` is the true successor: what a row's target adds of its successor's value depends on `terminated` alone, so that
//! a time limit is not taken for an end.

use bregman_envs::Outcome;
use bregman_envs::rng::NumpyRng;

use crate::evaluate::Played;
use crate::learner::{LearnError, Snapshot};
use crate::priorities::Drawing;
use crate::rollout::Steps;
use crate::rows::Rows;
use crate::storage::Storage;

/// The last `capacity` transitions. A row is `obs`, `action`, `next_obs`, reward and ends.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayBuffer {
    obs_dim: usize,
    action_len: usize,
    returns: Returns,
    rows: Rows,
    /// By what rows are drawn.
    drawing: Drawing,
    /// First rows after environments were restarted, which do not follow on those before; none that have fallen away.
    cuts: Vec<u64>,
}

/// How rows become returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Returns {
    /// Discount per step.
    pub gamma: f32,
    /// Rewards that a return adds up before it counts on the value of a successor, n.
    pub steps: usize,
    /// Environments that step in turn: the row after row `i` in the same environment is row `i + num_envs`.
    pub num_envs: usize,
}

/// Rows of a buffer, gathered: `[B, obs_dim]`, `[B, action row]` and `[B]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayBatch {
    /// Observations as the environments gave them.
    pub obs: Vec<f32>,
    /// Actions as the policy drew them.
    pub action: Vec<f32>,
    /// Raw rewards, discounted and summed from `obs` to `next_obs`.
    pub reward: Vec<f32>,
    /// True successors, as many steps later as were summed.
    pub next_obs: Vec<f32>,
    /// Weights in the critics' loss that make up for drawing by priority, the largest of a batch being 1.
    pub weight: Vec<f32>,
    /// Numbers of the rows.
    pub rows: Vec<u64>,
    /// Weight of the successor's value in the target: γ to the number of steps, 0 where the successor is absorbing.
    pub discount: Vec<f32>,
}

impl ReplayBatch {
    /// Number of rows, `B`.
    pub fn len(&self) -> usize {
        self.reward.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reward.is_empty()
    }
}

impl ReplayBuffer {
    /// For the last `capacity` transitions; at least those of one step of every environment.
    pub fn new(capacity: usize, obs_dim: usize, action_len: usize, returns: Returns) -> ReplayBuffer {
        let rows = Rows::new(2 * obs_dim + action_len + 2, capacity.max(returns.num_envs));
        let drawing = Drawing::new(0.0, rows.capacity());
        ReplayBuffer { obs_dim, action_len, returns, rows, drawing, cuts: Vec::new() }
    }

    /// The same with rows drawn in proportion to (|error| + 1e-6) to the power of `exponent`; evenly where that is 0.
    pub fn prioritized(self, exponent: f64) -> ReplayBuffer {
        ReplayBuffer { drawing: Drawing::new(exponent, self.rows.capacity()), ..self }
    }

    /// The same with rows kept elsewhere.
    pub fn kept(self, storage: Storage) -> ReplayBuffer {
        ReplayBuffer { rows: self.rows.kept(storage), ..self }
    }

    /// Transitions held.
    pub fn len(&self) -> usize {
        let held = self.rows.held();
        (held.end - held.start) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.held().is_empty()
    }

    fn row(&self, row: u64) -> Row<'_> {
        let (obs, rest) = self.rows.row(row).split_at(self.obs_dim);
        let (action, rest) = rest.split_at(self.action_len);
        let (next_obs, rest) = rest.split_at(self.obs_dim);
        Row { obs, action, next_obs, reward: rest[0], ends: rest[1] }
    }

    /// Every transition with the environment it is of, oldest first; actions as the policy drew them.
    pub fn rows(&self) -> impl Iterator<Item = (usize, Played)> {
        let double = |row: &[f32]| row.iter().map(|&x| x.into()).collect();
        let num_envs = self.returns.num_envs as u64;
        self.rows.held().map(move |number| {
            let row = self.row(number);
            let terminated = row.ends >= TERMINATED;
            let restarted = self.cuts.iter().any(|&cut| number < cut && cut <= number + num_envs);
            let outcome = Outcome {
                reward: row.reward.into(),
                terminated,
                truncated: row.ends == TRUNCATED || row.ends > TERMINATED || (restarted && !terminated),
            };
            let played =
                Played { obs: double(row.obs), action: row.action.to_vec(), outcome, next_obs: double(row.next_obs) };
            ((number % num_envs) as usize, played)
        })
    }

    /// Takes in one step of every environment, the oldest rows giving way.
    pub fn add(&mut self, steps: &Steps) -> Result<(), LearnError> {
        let rows = steps.obs.chunks_exact(self.obs_dim).zip(steps.next_obs.chunks_exact(self.obs_dim));
        let actions = steps.action.chunks_exact(self.action_len);
        for (((obs, next_obs), action), outcome) in rows.zip(actions).zip(&steps.outcome) {
            let parts = [obs, action, next_obs, &[outcome.reward as f32, ends(outcome)]];
            self.rows.push()?.iter_mut().zip(parts.into_iter().flatten()).for_each(|(x, &part)| *x = part);
            self.drawing.add(self.rows.held().end - 1);
        }
        if !self.cuts.is_empty() {
            let oldest = self.rows.held().start;
            self.cuts.retain(|&cut| cut > oldest);
        }
        Ok(())
    }

    /// Says that the environments were restarted: the next rows do not follow on the last.
    pub fn cut(&mut self) {
        self.cuts.push(self.rows.held().end);
    }

    /// Draws `batch_size` rows with replacement into `batch`; `importance` is the exponent of the weights that make up for
    /// priorities, where there are any.
    pub fn sample(&self, batch_size: usize, importance: f64, rng: &mut NumpyRng, batch: &mut ReplayBatch) {
        batch.resize(batch_size, self.obs_dim, self.action_len);
        self.drawing.draw(self.rows.held(), importance, rng, &mut batch.rows, &mut batch.weight);
        for i in 0..batch_size {
            self.gather(batch.rows[i], i, batch);
        }
    }

    /// Gives the rows of a batch the priorities of their errors, `[B]`, where rows are drawn by priority.
    pub fn reprioritize(&mut self, batch: &ReplayBatch, errors: &[f32]) {
        self.drawing.reprioritize(&batch.rows, errors);
    }

    /// Writes the return that starts with `row` into place `i` of a batch.
    fn gather(&self, row: u64, i: usize, batch: &mut ReplayBatch) {
        let first = self.row(row);
        let of = |width: usize| i * width..(i + 1) * width;
        batch.obs[of(self.obs_dim)].copy_from_slice(first.obs);
        batch.action[of(self.action_len)].copy_from_slice(first.action);
        let Returns { gamma, steps, num_envs } = self.returns;
        let (mut last, mut next) = (first, row + num_envs as u64);
        let (mut reward, mut discount) = (last.reward, gamma);
        for _ in 1..steps {
            let restarted = self.cuts.iter().any(|&cut| row < cut && cut <= next);
            if last.ends > 0.0 || next >= self.rows.held().end || restarted {
                break;
            }
            last = self.row(next);
            next += num_envs as u64;
            reward += discount * last.reward;
            discount *= gamma;
        }
        batch.reward[i] = reward;
        batch.discount[i] = if last.ends >= TERMINATED { 0.0 } else { discount };
        batch.next_obs[of(self.obs_dim)].copy_from_slice(last.next_obs);
    }

    /// Puts all rows into a snapshot, shared and not copied.
    pub fn save(&self, snapshot: &mut Snapshot) {
        snapshot.rows.insert("replay".into(), self.rows.clone());
        snapshot.state.insert("replay_cuts".into(), self.cuts.clone().into());
        self.drawing.save(&self.rows, snapshot);
    }

    /// Takes all rows from a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.rows.load("replay", snapshot)?;
        self.cuts = snapshot.get("replay_cuts")?;
        self.drawing.load(&self.rows, snapshot)
    }
}

/// One transition.
#[derive(Clone, Copy)]
struct Row<'a> {
    obs: &'a [f32],
    action: &'a [f32],
    next_obs: &'a [f32],
    reward: f32,
    ends: f32,
}

/// How a row ends an episode, if it does; both at once is `TERMINATED + TRUNCATED`.
const TRUNCATED: f32 = 1.0;
const TERMINATED: f32 = 2.0;

fn ends(outcome: &Outcome) -> f32 {
    f32::from(u8::from(outcome.terminated)) * TERMINATED + f32::from(u8::from(outcome.truncated)) * TRUNCATED
}

impl ReplayBatch {
    /// Makes room for `rows` rows; asks for memory the first time only.
    fn resize(&mut self, rows: usize, obs_dim: usize, action_len: usize) {
        self.obs.resize(rows * obs_dim, 0.0);
        self.action.resize(rows * action_len, 0.0);
        self.reward.resize(rows, 0.0);
        self.next_obs.resize(rows * obs_dim, 0.0);
        self.discount.resize(rows, 0.0);
        self.weight.resize(rows, 1.0);
        self.rows.resize(rows, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_STEP: Returns = Returns { gamma: 0.5, steps: 1, num_envs: 1 };

    /// A step from `x` to `x + 0.5` by the action `-x`, with the reward `x`.
    fn step(x: f32, terminated: bool, truncated: bool) -> Steps {
        let outcome = Outcome { reward: f64::from(x), terminated, truncated };
        Steps { obs: vec![x], action: vec![-x], outcome: vec![outcome], next_obs: vec![x + 0.5], episodes: vec![] }
    }

    /// Reward, discount and successor of the return that starts with `row`.
    fn returns(buffer: &ReplayBuffer, row: u64) -> (f32, f32, f32) {
        let mut batch = ReplayBatch::default();
        batch.resize(1, buffer.obs_dim, buffer.action_len);
        buffer.gather(row, 0, &mut batch);
        (batch.reward[0], batch.discount[0], batch.next_obs[0])
    }

    #[test]
    fn samples_are_even_over_the_last_rows_and_rows_stay_whole() {
        // Far more rows than the buffer holds, over the seams of chunks.
        let mut buffer = ReplayBuffer::new(4, 1, 1, ONE_STEP);
        for last in [3, 4096, 4098, 20_000] {
            (buffer.rows.held().end..=last).for_each(|i| buffer.add(&step(i as f32, false, false)).expect("room"));
            let mut batch = ReplayBatch::default();
            buffer.sample(8000, 0.0, &mut NumpyRng::new(3), &mut batch);
            let mut counts = [0; 4];
            for (i, &x) in batch.obs.iter().enumerate() {
                counts[(x as u64 + 3 - last) as usize] += 1;
                assert_eq!((batch.action[i], batch.reward[i], batch.next_obs[i]), (-x, x, x + 0.5));
            }
            assert!(counts.iter().all(|&n: &i32| (n - 2000).abs() < 200), "{counts:?}");
            assert_eq!((buffer.len(), batch.len()), (4, 8000));
        }
    }

    #[test]
    fn a_time_limit_bootstraps_and_an_end_does_not() {
        for (terminated, truncated, discount) in
            [(false, false, 0.5), (false, true, 0.5), (true, false, 0.0), (true, true, 0.0)]
        {
            let mut buffer = ReplayBuffer::new(1, 1, 1, ONE_STEP);
            buffer.add(&step(1.0, terminated, truncated)).expect("room");
            assert_eq!(returns(&buffer, 0), (1.0, discount, 1.5));
        }
    }

    #[test]
    fn returns_over_three_steps_stop_at_ends_and_at_the_last_row() {
        // Rewards 0, 1, 2, ... and γ = 1/2: from row 1, 1 + 2/2 + 3/4 = 2.75, and the state after row 3 is worth 1/8 of itself.
        let returns_of = |ends: fn(u64) -> (bool, bool)| {
            let mut buffer = ReplayBuffer::new(10, 1, 1, Returns { steps: 3, ..ONE_STEP });
            (0..6).for_each(|i| buffer.add(&step(i as f32, ends(i).0, ends(i).1)).expect("room"));
            buffer
        };
        let open = returns_of(|_| (false, false));
        assert_eq!(returns(&open, 1), (2.75, 0.125, 3.5));
        // Two rows and one row are left at the end.
        assert_eq!((returns(&open, 4), returns(&open, 5)), ((6.5, 0.25, 5.5), (5.0, 0.5, 5.5)));
        let truncated = returns_of(|i| (false, i == 2));
        assert_eq!((returns(&truncated, 1), returns(&truncated, 3)), ((2.0, 0.25, 2.5), (6.25, 0.125, 5.5)));
        let terminated = returns_of(|i| (i == 2, false));
        assert_eq!(returns(&terminated, 1), (2.0, 0.0, 2.5));
        // Environments restarted after the fourth row: the fifth does not follow on it.
        let mut cut = ReplayBuffer::new(10, 1, 1, Returns { steps: 3, ..ONE_STEP });
        (0..4).for_each(|i| cut.add(&step(i as f32, false, false)).expect("room"));
        cut.cut();
        (4..6).for_each(|i| cut.add(&step(i as f32, false, false)).expect("room"));
        assert_eq!((returns(&cut, 2), returns(&cut, 4)), ((3.5, 0.25, 3.5), (6.5, 0.25, 5.5)));
        (6..14).for_each(|i| cut.add(&step(i as f32, false, false)).expect("room"));
        assert_eq!(cut.cuts, [0; 0], "the rows before it have fallen away");
    }

    #[test]
    fn returns_follow_their_own_environment() {
        let mut buffer = ReplayBuffer::new(10, 1, 1, Returns { steps: 2, num_envs: 2, ..ONE_STEP });
        for i in 0..3 {
            let [a, b] = [step(i as f32, false, false), step(10.0 + i as f32, false, false)];
            let both = |x: &[f32], y: &[f32]| [x, y].concat();
            buffer
                .add(&Steps {
                    obs: both(&a.obs, &b.obs),
                    action: both(&a.action, &b.action),
                    next_obs: both(&a.next_obs, &b.next_obs),
                    outcome: [a.outcome, b.outcome].concat(),
                    episodes: vec![],
                })
                .expect("room");
        }
        assert_eq!((returns(&buffer, 0), returns(&buffer, 1)), ((0.5, 0.25, 1.5), (15.5, 0.25, 11.5)));
    }

    #[test]
    fn rows_with_large_errors_are_drawn_often_and_weigh_little() {
        // Priorities 1, 2 and 4 for errors of 1, 2 and −4: probabilities p = 1/7, 2/7 and 4/7. Weights (3 p)^(−1/2) over the largest,
        // that of the first row: 1, √(1/2) and 1/2.
        let mut buffer = ReplayBuffer::new(3, 1, 1, ONE_STEP).prioritized(1.0);
        (0..3).for_each(|i| buffer.add(&step(i as f32, false, false)).expect("room"));
        buffer.reprioritize(&ReplayBatch { rows: vec![0, 1, 2], ..Default::default() }, &[1.0, 2.0, -4.0]);
        let mut batch = ReplayBatch::default();
        buffer.sample(7000, 0.5, &mut NumpyRng::new(2), &mut batch);
        let mut counts = [0; 3];
        for (&row, &weight) in batch.rows.iter().zip(&batch.weight) {
            counts[row as usize] += 1;
            assert!((weight - [1.0, 0.5f32.sqrt(), 0.5][row as usize]).abs() < 1e-5, "{weight} of row {row}");
        }
        assert!(
            counts.iter().zip([1000, 2000, 4000]).all(|(n, expected): (&i32, i32)| (n - expected).abs() < 200),
            "{counts:?}"
        );
    }

    #[test]
    fn rows_are_told_oldest_first_with_their_environments_and_restarts() {
        // Two environments, and room for four rows: of rows 0 to 7 the last four are left, 4 and 6 of the first environment.
        let mut buffer = ReplayBuffer::new(4, 1, 1, Returns { num_envs: 2, ..ONE_STEP });
        (0..6).for_each(|i| buffer.add(&step(i as f32, i == 5, false)).expect("room"));
        buffer.cut();
        (6..8).for_each(|i| buffer.add(&step(i as f32, false, i == 7)).expect("room"));
        let told: Vec<_> = buffer
            .rows()
            .map(|(lane, row)| (lane, row.obs[0], row.next_obs[0], row.outcome.terminated, row.outcome.truncated))
            .collect();
        // The restart cut row 4, and row 5 had ended by itself.
        let expected = [
            (0, 4.0, 4.5, false, true),
            (1, 5.0, 5.5, true, false),
            (0, 6.0, 6.5, false, false),
            (1, 7.0, 7.5, false, true),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_saved_buffer_goes_on_where_it_was() {
        for (rows, exponent) in [(2, 0.0), (3, 0.6), (5, 0.0), (5, 0.6), (4097, 0.0), (9000, 0.6)] {
            let mut buffer = ReplayBuffer::new(3, 1, 1, ONE_STEP).prioritized(exponent);
            (0..rows).for_each(|i| buffer.add(&step(i as f32, i == 3, false)).expect("room"));
            let some = ReplayBatch { rows: vec![rows - 1, rows - 2], ..Default::default() };
            buffer.reprioritize(&some, &[7.0, -0.3]);
            let mut snapshot = Snapshot::default();
            buffer.save(&mut snapshot);
            let mut other = ReplayBuffer::new(3, 1, 1, ONE_STEP).prioritized(exponent);
            other.load(&snapshot).expect("its own snapshot");
            for buffer in [&mut buffer, &mut other] {
                buffer.add(&step(9.0, false, false)).expect("room");
            }
            let sample = |buffer: &ReplayBuffer| {
                let mut batch = ReplayBatch::default();
                buffer.sample(100, 0.5, &mut NumpyRng::new(1), &mut batch);
                batch
            };
            assert_eq!(sample(&buffer), sample(&other));
        }
    }

    #[test]
    fn a_restart_is_saved_with_the_rows() {
        // The fifth row does not follow on the fourth: 2 + 3/2 is all that the return from the third adds up.
        let buffer = || ReplayBuffer::new(10, 1, 1, Returns { steps: 3, ..ONE_STEP });
        let (mut before, mut after, mut snapshot) = (buffer(), buffer(), Snapshot::default());
        (0..4).for_each(|i| before.add(&step(i as f32, false, false)).expect("room"));
        before.cut();
        before.save(&mut snapshot);
        after.load(&snapshot).expect("its own snapshot");
        (4..6).for_each(|i| after.add(&step(i as f32, false, false)).expect("room"));
        assert_eq!(returns(&after, 2), (3.5, 0.25, 3.5));
    }
}
