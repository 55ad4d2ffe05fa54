//! Networks of a GFlowNet over the states of a batch.
//!
//! A state is evaluated once however many trajectories pass through it: rows are found by the state's hash, and what the loss
//! wants of them adds up. On small worlds, whose trajectories meet often, that is most of the work.

use std::ops::Range;
use std::sync::Arc;

use bregman_envs::rng::NumpyRng;
use bregman_envs::world::{World, WorldSpec, state_hash};

use crate::nn::{Activation, Init, Mlp, Real, Workspace};
use crate::workers::Workers;

/// The networks: forward logits, backward logits and log flow as columns of one output, from one trunk or one network each.
#[derive(Clone, Debug)]
pub struct FlowNetworks {
    parts: Vec<Network>,
    width: usize,
    num_actions: usize,
    backward: Option<Range<usize>>,
    flow: Option<usize>,
}

#[derive(Clone, Debug)]
struct Network {
    mlp: Mlp,
    params: Range<usize>,
    columns: Range<usize>,
}

/// What the networks are to give.
#[derive(Clone, Debug)]
pub struct NetworkShape {
    /// Widths of the hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Between them.
    pub activation: Activation,
    /// One trunk for all outputs; otherwise a network for each kind.
    pub tied: bool,
    /// Whether backward logits are among the outputs.
    pub backward: bool,
    /// Whether the log flow of the state is.
    pub flow: bool,
}

impl FlowNetworks {
    /// Networks for a world.
    pub fn new(spec: &WorldSpec, shape: &NetworkShape) -> FlowNetworks {
        let kinds = [spec.num_actions, if shape.backward { spec.num_backward } else { 0 }, usize::from(shape.flow)];
        let width = kinds.iter().sum();
        let groups: Vec<usize> = if shape.tied { vec![width] } else { kinds.into_iter().filter(|&n| n > 0).collect() };
        let (mut params, mut columns) = (0, 0);
        let parts = groups.into_iter().map(|outputs| {
            let widths: Vec<usize> =
                [spec.encoding_len].into_iter().chain(shape.hidden_sizes.iter().copied()).chain([outputs]).collect();
            let mlp = Mlp::new(&widths, shape.activation);
            (params, columns) = (params + mlp.num_params(), columns + outputs);
            Network { params: params - mlp.num_params()..params, columns: columns - outputs..columns, mlp }
        });
        FlowNetworks {
            parts: parts.collect(),
            width,
            num_actions: spec.num_actions,
            backward: shape.backward.then_some(spec.num_actions..spec.num_actions + spec.num_backward),
            flow: shape.flow.then_some(width - 1),
        }
    }

    /// Length of the parameter vector.
    pub fn num_params(&self) -> usize {
        self.parts.last().map_or(0, |part| part.params.end)
    }

    /// Draws fresh parameters, uniform in ±1/√inputs.
    pub fn init<T: Real>(&self, rng: &mut NumpyRng) -> Vec<T> {
        self.parts.iter().flat_map(|part| part.mlp.init(Init::Uniform, rng)).collect()
    }

    /// Whether the backward policy is one of the outputs.
    pub fn learns_backward(&self) -> bool {
        self.backward.is_some()
    }
}

/// Probabilities over legal actions, row by row.
#[derive(Clone, Debug)]
struct Choices<T> {
    width: usize,
    legal: Vec<bool>,
    prob: Vec<T>,
    /// ln Σ exp(logit) over legal actions.
    log_norm: Vec<f64>,
    /// Sum of the loss's gradients in the row's log-probabilities.
    d_sum: Vec<f64>,
}

impl<T: Real> Choices<T> {
    fn new(width: usize, capacity: usize) -> Choices<T> {
        Choices {
            width,
            legal: vec![false; width * capacity],
            prob: vec![T::zero(); width * capacity],
            log_norm: vec![0.0; capacity],
            d_sum: vec![0.0; capacity],
        }
    }

    fn range(&self, row: usize) -> Range<usize> {
        row * self.width..(row + 1) * self.width
    }

    /// Softmax of a row's logits over its legal actions. Illegal ones are left out before anything is computed of them.
    fn softmax(&mut self, row: usize, logits: &[T]) {
        let range = self.range(row);
        let (legal, prob) = (&self.legal[range.clone()], &mut self.prob[range]);
        let mut max = T::neg_infinity();
        for (&logit, &legal) in logits.iter().zip(legal) {
            max = if legal { max.max(logit) } else { max };
        }
        let mut sum = T::zero();
        for ((p, &logit), &legal) in prob.iter_mut().zip(logits).zip(legal) {
            *p = if legal { (logit - max).exp_fast() } else { T::zero() };
            sum += *p;
        }
        // The initial state has no backward action, and then nothing to normalise.
        if sum != T::zero() {
            let scale = T::one() / sum;
            prob.iter_mut().for_each(|p| *p *= scale);
        }
        (self.log_norm[row], self.d_sum[row]) = (max.to_f64() + sum.to_f64().ln(), 0.0);
    }

    /// The action at `u`, uniform in [0, 1), of the distribution that gives every legal one probability
    /// (1 − ε) p^(1/temperature)/Σ + ε/#legal.
    fn choose(&self, row: usize, u: f64, epsilon: f64, temperature: f64) -> Option<usize> {
        let range = self.range(row);
        let (legal, prob) = (&self.legal[range.clone()], &self.prob[range]);
        let uniform = match epsilon > 0.0 {
            true => epsilon / legal.iter().filter(|&&legal| legal).count() as f64,
            false => 0.0,
        };
        // Over the largest, so that a small temperature leaves some that is not 0.
        let largest = if temperature == 1.0 { 1.0 } else { prob.iter().map(|&p| p.to_f64()).fold(0.0, f64::max) };
        let tempered = |p: T| match temperature == 1.0 {
            true => p.to_f64(),
            false => (p.to_f64() / largest).powf(1.0 / temperature),
        };
        let total = if temperature == 1.0 { 1.0 } else { prob.iter().map(|&p| tempered(p)).sum() };
        let mut left = u;
        let mut last = None;
        for (action, &p) in prob.iter().enumerate().filter(|&(action, _)| legal[action]) {
            let p = (1.0 - epsilon) * tempered(p) / total + uniform;
            // Sums of rounded numbers fall a little short of 1: the last action that can be takes the rest.
            if p > 0.0 || last.is_none() {
                last = Some(action);
            }
            left -= p;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// Outputs, probabilities and gradients for up to `capacity` different states.
pub struct Pass<T> {
    world: Arc<dyn World>,
    workers: Arc<Workers>,
    nets: FlowNetworks,
    workspaces: Vec<Workspace<T>>,
    rows: usize,
    evaluated: usize,
    capacity: usize,
    states: Vec<i32>,
    hashes: Vec<u64>,
    /// Rows by hash, open addressing; `EMPTY` where there is none.
    table: Vec<u32>,
    terminal: Vec<bool>,
    input: Vec<T>,
    encoding: Vec<f32>,
    output: Vec<T>,
    d_output: Vec<T>,
    /// One network's part of `d_output`, where there are several.
    d_part: Vec<T>,
    forward: Choices<T>,
    backward: Choices<T>,
}

const EMPTY: u32 = u32::MAX;

impl<T: Real> Pass<T> {
    /// Room for `capacity` states. Large products are shared among the workers; the numbers are the same for any number of them.
    pub fn new(world: Arc<dyn World>, nets: FlowNetworks, capacity: usize, workers: Arc<Workers>) -> Pass<T> {
        let spec = world.spec();
        let several = nets.parts.len() > 1;
        let learned = if nets.learns_backward() { spec.num_backward } else { 0 };
        Pass {
            workspaces: nets.parts.iter().map(|part| part.mlp.workspace(capacity)).collect(),
            rows: 0,
            evaluated: 0,
            capacity,
            states: vec![0; capacity * spec.state_len],
            hashes: vec![0; capacity],
            table: vec![EMPTY; (2 * capacity).next_power_of_two()],
            terminal: vec![false; capacity],
            input: vec![T::zero(); capacity * spec.encoding_len],
            encoding: vec![0.0; spec.encoding_len],
            output: vec![T::zero(); capacity * nets.width],
            d_output: vec![T::zero(); capacity * nets.width],
            d_part: vec![T::zero(); if several { capacity * nets.width } else { 0 }],
            forward: Choices::new(spec.num_actions, capacity),
            backward: Choices::new(learned, capacity),
            nets,
            workers,
            world,
        }
    }

    /// The run's workers.
    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// The networks.
    pub fn nets(&self) -> &FlowNetworks {
        &self.nets
    }

    /// How many states it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Different states so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Forgets all states.
    pub fn clear(&mut self) {
        (self.rows, self.evaluated) = (0, 0);
        self.table.fill(EMPTY);
        self.workspaces.iter_mut().for_each(Workspace::clear);
    }

    /// The row of a state, a new one if it has none yet. New rows hold nothing before [`evaluate`](Pass::evaluate).
    pub fn row_of(&mut self, state: &[i32]) -> usize {
        let hash = state_hash(state);
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        while self.table[place] != EMPTY {
            let row = self.table[place] as usize;
            if self.hashes[row] == hash && self.state(row) == state {
                return row;
            }
            place = (place + 1) & mask;
        }
        let row = self.rows;
        assert!(row < self.capacity, "more than {} states in a pass", self.capacity);
        self.table[place] = row as u32;
        self.hashes[row] = hash;
        let len = state.len();
        self.states[row * len..(row + 1) * len].copy_from_slice(state);
        self.rows += 1;
        row
    }

    /// The state of a row.
    pub fn state(&self, row: usize) -> &[i32] {
        let len = self.world.spec().state_len;
        &self.states[row * len..(row + 1) * len]
    }

    /// Runs the networks over the rows that are new.
    pub fn evaluate(&mut self, params: &[T]) {
        let (first, last) = (self.evaluated, self.rows);
        if first == last {
            return;
        }
        let (len, width) = (self.world.spec().state_len, self.nets.width);
        let inputs = self.encoding.len();
        for row in first..last {
            let state = &self.states[row * len..(row + 1) * len];
            self.encoding.fill(0.0);
            self.world.encode(state, &mut self.encoding);
            let input = &mut self.input[(row - first) * inputs..(row - first + 1) * inputs];
            input.iter_mut().zip(&self.encoding).for_each(|(to, &x)| *to = T::of(x.into()));
        }
        let input = &self.input[..(last - first) * inputs];
        for (part, workspace) in self.nets.parts.iter().zip(&mut self.workspaces) {
            let out = part.mlp.forward_more(&params[part.params.clone()], input, workspace, &self.workers);
            let to = self.output[first * width..last * width].chunks_exact_mut(width);
            for (to, from) in to.zip(out.chunks_exact(part.columns.len())) {
                to[part.columns.clone()].copy_from_slice(from);
            }
        }
        self.d_output[first * width..last * width].fill(T::zero());
        for row in first..last {
            let state = &self.states[row * len..(row + 1) * len];
            let output = &self.output[row * width..(row + 1) * width];
            self.terminal[row] = self.world.is_terminal(state);
            self.forward.d_sum[row] = 0.0;
            if !self.terminal[row] {
                let legal = self.forward.range(row);
                self.forward.legal[legal.clone()].fill(false);
                self.world.actions(state, &mut self.forward.legal[legal]);
                self.forward.softmax(row, &output[..self.nets.num_actions]);
            }
            if let Some(columns) = self.nets.backward.clone() {
                let legal = self.backward.range(row);
                self.backward.legal[legal.clone()].fill(false);
                self.world.backward_actions(state, &mut self.backward.legal[legal]);
                self.backward.softmax(row, &output[columns]);
            }
        }
        self.evaluated = last;
    }

    fn out(&self, row: usize, column: usize) -> f64 {
        self.output[row * self.nets.width + column].to_f64()
    }

    /// Forward probabilities, `[num_actions]`; 0 where illegal.
    pub fn probabilities(&self, row: usize) -> &[T] {
        &self.forward.prob[self.forward.range(row)]
    }

    /// Draws a forward action by `u`, uniform in [0, 1); none where none is legal.
    pub fn choose(&self, row: usize, u: f64, epsilon: f64, temperature: f64) -> Option<usize> {
        self.forward.choose(row, u, epsilon, temperature)
    }

    /// Draws a backward action of the learned policy.
    pub fn choose_backward(&self, row: usize, u: f64) -> Option<usize> {
        self.backward.choose(row, u, 0.0, 1.0)
    }

    /// ln P_F(action | state).
    pub fn log_pf(&self, row: usize, action: usize) -> f64 {
        self.out(row, action) - self.forward.log_norm[row]
    }

    /// ln P_B(undoing `backward` | state), of the learned policy.
    pub fn log_pb(&self, row: usize, backward: usize) -> f64 {
        self.out(row, self.nets.num_actions + backward) - self.backward.log_norm[row]
    }

    /// ln F(s), or ln F̃(s); 0 where there is no flow among the outputs.
    pub fn log_flow(&self, row: usize) -> f64 {
        self.nets.flow.map_or(0.0, |column| self.out(row, column))
    }

    /// The forward logit: a log edge flow in flow matching.
    pub fn logit(&self, row: usize, action: usize) -> f64 {
        self.out(row, action)
    }

    /// ln of the sum of the exponentials of all legal logits.
    pub fn log_norm(&self, row: usize) -> f64 {
        self.forward.log_norm[row]
    }

    fn add(&mut self, row: usize, column: usize, d: f64) {
        self.d_output[row * self.nets.width + column] += T::of(d);
    }

    /// Adds to the loss's gradient in ln P_F(action | state).
    pub fn add_log_pf(&mut self, row: usize, action: usize, d: f64) {
        self.add(row, action, d);
        self.forward.d_sum[row] += d;
    }

    /// Adds to the loss's gradient in ln P_B.
    pub fn add_log_pb(&mut self, row: usize, backward: usize, d: f64) {
        self.add(row, self.nets.num_actions + backward, d);
        self.backward.d_sum[row] += d;
    }

    /// Adds to the loss's gradient in the log flow.
    pub fn add_log_flow(&mut self, row: usize, d: f64) {
        if let Some(column) = self.nets.flow {
            self.add(row, column, d);
        }
    }

    /// Adds to the loss's gradient in a forward logit.
    pub fn add_logit(&mut self, row: usize, action: usize, d: f64) {
        self.add(row, action, d);
    }

    /// Adds to the loss's gradient in [`log_norm`](Pass::log_norm).
    pub fn add_log_norm(&mut self, row: usize, d: f64) {
        self.forward.d_sum[row] -= d;
    }

    /// Writes the gradient of the loss in the parameters, from what was added since the last [`clear`](Pass::clear).
    pub fn backward(&mut self, params: &[T], grad: &mut [T]) {
        let (rows, width) = (self.rows, self.nets.width);
        // d ln p_a / d logit_b = [a = b] − p_b; the first part is there already.
        for row in 0..rows {
            let d = &mut self.d_output[row * width..(row + 1) * width];
            let columns = self.nets.backward.clone().unwrap_or_default();
            for (choices, start) in [(&self.forward, 0), (&self.backward, columns.start)] {
                let sum = T::of(choices.d_sum[row]);
                if choices.width > 0 && sum != T::zero() {
                    let prob = &choices.prob[choices.range(row)];
                    d[start..start + choices.width].iter_mut().zip(prob).for_each(|(d, &p)| *d -= sum * p);
                }
            }
        }
        for (part, workspace) in self.nets.parts.iter().zip(&mut self.workspaces) {
            let (outputs, d) = (part.columns.len(), &self.d_output[..rows * width]);
            let d = if outputs == width {
                d
            } else {
                for (to, from) in self.d_part.chunks_exact_mut(outputs).zip(d.chunks_exact(width)) {
                    to.copy_from_slice(&from[part.columns.clone()]);
                }
                &self.d_part[..rows * outputs]
            };
            let grad = &mut grad[part.params.clone()];
            part.mlp.backward_on(&params[part.params.clone()], workspace, d, grad, &self.workers);
        }
    }
}
