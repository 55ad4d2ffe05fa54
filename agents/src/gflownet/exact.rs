//! Exact distributions on worlds that can be enumerated, and how far apart they are.

use std::collections::HashMap;

use bregman_envs::world::{World, ln_factorial, log_sum_exp};

use super::pass::Pass;
use crate::nn::Real;

/// All states of a world with their edges.
#[derive(Clone, Debug)]
pub struct Graph {
    state_len: usize,
    states: Vec<i32>,
    /// Child and action; those of node `i` lie in `starts[i]..starts[i + 1]`.
    edges: Vec<(u32, u32)>,
    starts: Vec<usize>,
    /// Nodes, every one behind all of its parents.
    order: Vec<u32>,
    /// Terminal nodes, in the order of the distributions below.
    terminals: Vec<u32>,
    log_reward: Vec<f64>,
}

impl Graph {
    /// Walks through all states of a world, which must be few.
    pub fn enumerate(world: &dyn World) -> Graph {
        let spec = world.spec();
        let mut states = vec![0; spec.state_len];
        world.initial(&mut states);
        let mut index: HashMap<Vec<i32>, u32> = HashMap::from([(states.clone(), 0)]);
        let (mut edges, mut starts, mut parents) = (Vec::new(), vec![0], vec![0u32]);
        let (mut terminals, mut log_reward) = (Vec::new(), Vec::new());
        let mut legal = vec![false; spec.num_actions];
        let mut node = 0;
        while node < parents.len() {
            let state = states[node * spec.state_len..(node + 1) * spec.state_len].to_vec();
            if world.is_terminal(&state) {
                terminals.push(node as u32);
                log_reward.push(world.log_reward(&state));
            } else {
                legal.fill(false);
                world.actions(&state, &mut legal);
                for action in (0..spec.num_actions).filter(|&action| legal[action]) {
                    let mut child = state.clone();
                    world.apply(&mut child, action);
                    let next = parents.len() as u32;
                    let id = *index.entry(child).or_insert_with_key(|child| {
                        states.extend_from_slice(child);
                        parents.push(0);
                        next
                    });
                    parents[id as usize] += 1;
                    edges.push((id, action as u32));
                }
            }
            starts.push(edges.len());
            node += 1;
        }
        // A node is ready once all edges into it have been seen (Kahn 1962).
        let mut order = vec![0u32];
        let mut done = 0;
        while done < order.len() {
            let node = order[done] as usize;
            for &(child, _) in &edges[starts[node]..starts[node + 1]] {
                parents[child as usize] -= 1;
                if parents[child as usize] == 0 {
                    order.push(child);
                }
            }
            done += 1;
        }
        Graph { state_len: spec.state_len, states, edges, starts, order, terminals, log_reward }
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Never: there is always the initial state.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A state.
    pub fn state(&self, node: usize) -> &[i32] {
        &self.states[node * self.state_len..(node + 1) * self.state_len]
    }

    /// The terminal objects, one after the other.
    pub fn objects(&self) -> impl Iterator<Item = &[i32]> {
        self.terminals.iter().map(|&node| self.state(node as usize))
    }

    /// ln R of the terminal objects.
    pub fn log_reward(&self) -> &[f64] {
        &self.log_reward
    }

    /// ln Z.
    pub fn log_z(&self) -> f64 {
        log_sum_exp(self.log_reward.iter().copied())
    }

    /// R(x)/Z of the terminal objects.
    pub fn target(&self) -> Vec<f64> {
        let log_z = self.log_z();
        self.log_reward.iter().map(|log_reward| (log_reward - log_z).exp()).collect()
    }

    /// The probability with which the forward policy ends in each terminal object: mass pushed from the initial state through
    /// the graph.
    pub fn distribution<T: Real>(&self, pass: &mut Pass<T>, params: &[T]) -> Vec<f64> {
        let mut mass = vec![0.0; self.len()];
        mass[0] = 1.0;
        let inner: Vec<u32> = self.order.iter().copied().filter(|&node| self.has_children(node)).collect();
        for nodes in inner.chunks(pass.capacity().min(1024)) {
            pass.clear();
            for &node in nodes {
                pass.row_of(self.state(node as usize));
            }
            pass.evaluate(params);
            for (row, &node) in nodes.iter().enumerate() {
                let node = node as usize;
                let prob = pass.probabilities(row);
                for &(child, action) in &self.edges[self.starts[node]..self.starts[node + 1]] {
                    mass[child as usize] += mass[node] * prob[action as usize].to_f64();
                }
            }
        }
        self.terminals.iter().map(|&node| mass[node as usize]).collect()
    }

    fn has_children(&self, node: u32) -> bool {
        self.starts[node as usize] < self.starts[node as usize + 1]
    }
}

/// How far a distribution is from another over the same objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distances {
    /// Σ |p − q|; twice the total variation.
    pub l1: f64,
    /// ½ KL(p ‖ m) + ½ KL(q ‖ m) with m their mean, in nats.
    pub js: f64,
}

/// The distances between two distributions.
pub fn distances(p: &[f64], q: &[f64]) -> Distances {
    let term = |x: f64, m: f64| if x > 0.0 { 0.5 * x * (x / m).ln() } else { 0.0 };
    let mut sum = Distances { l1: 0.0, js: 0.0 };
    for (&p, &q) in p.iter().zip(q) {
        let m = 0.5 * (p + q);
        sum.l1 += (p - q).abs();
        sum.js += term(p, m) + term(q, m);
    }
    sum
}

/// The L1 distance that `n` samples of the distribution itself have from it in the mean: Σ E|Bin(n, p)/n − p|.
///
/// De Moivre: E|Bin(n, p) − np| = 2 (m + 1) C(n, m + 1) p^(m+1) (1 − p)^(n−m) with m = ⌊np⌋.
pub fn sampling_floor(p: &[f64], n: u64) -> f64 {
    let one = |p: f64| {
        if p <= 0.0 || p >= 1.0 {
            return 0.0;
        }
        let m = (n as f64 * p).floor().min(n as f64 - 1.0);
        let log_choices = ln_factorial(n) - ln_factorial(m as u64 + 1) - ln_factorial(n - m as u64 - 1);
        let log = log_choices + (m + 1.0) * p.ln() + (n as f64 - m) * (-p).ln_1p();
        2.0 * (m + 1.0) * log.exp() / n as f64
    };
    p.iter().map(|&p| one(p)).sum()
}

#[cfg(test)]
mod tests {
    use bregman_envs::world::{HyperGrid, HyperGridConfig};

    use super::*;

    #[test]
    fn distances_by_hand() {
        let d = distances(&[0.5, 0.5, 0.0], &[0.5, 0.25, 0.25]);
        assert_eq!(d.l1, 0.5);
        // ½ (½ ln(4/3)) + ½ (¼ ln(2/3) + ¼ ln 2).
        let js = 0.25 * (4.0f64 / 3.0).ln() + 0.125 * (2.0f64 / 3.0).ln() + 0.125 * 2f64.ln();
        assert!((d.js - js).abs() < 1e-15);
        assert_eq!(distances(&[1.0, 0.0], &[0.0, 1.0]), Distances { l1: 2.0, js: 2f64.ln() });
    }

    #[test]
    fn the_floor_of_one_and_two_throws_by_hand() {
        // One throw of a fair coin is off by ½ on each side; two are off by ½ with probability ½.
        assert!((sampling_floor(&[0.5, 0.5], 1) - 1.0).abs() < 1e-12);
        assert!((sampling_floor(&[0.5, 0.5], 2) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn floors_of_the_usual_grids() {
        for (height, n, floor) in [(8, 10_000, 0.051), (8, 200_000, 0.0115), (32, 10_000, 0.217), (32, 200_000, 0.048)]
        {
            let grid = HyperGrid::new(HyperGridConfig { height, ..Default::default() }).expect("a grid");
            let target = Graph::enumerate(&grid).target();
            let got = sampling_floor(&target, n);
            assert!((got / floor - 1.0).abs() < 0.012, "{height} {n}: {got}");
        }
    }

    #[test]
    fn a_grid_has_a_copy_of_every_state_and_the_right_partition_function() {
        let grid = HyperGrid::new(HyperGridConfig::default()).expect("a grid");
        let graph = Graph::enumerate(&grid);
        assert_eq!((graph.len(), graph.objects().count()), (128, 64));
        assert!((graph.log_z() - 22.4f64.ln()).abs() < 1e-12);
        assert!((graph.target().iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
