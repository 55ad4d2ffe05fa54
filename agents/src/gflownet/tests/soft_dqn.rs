//! Soft DQN: its fixed point, its targets and its gradient.

use super::*;
use crate::gflownet::soft_dqn::{Minibatch, SoftBellman, SoftDqnConfig, Transitions, huber, loss};

fn bellman(munchausen_alpha: f64) -> SoftBellman {
    SoftDqnConfig { munchausen_alpha, ..Default::default() }.bellman()
}

/// A network over actions alone, P_B uniform.
fn bench(world: Arc<dyn World>, hidden: &[usize]) -> Bench {
    Bench::new(world, Objective::FlowMatching, BackwardPolicy::Uniform, hidden)
}

/// Another pass for the target network.
fn target_pass(bench: &Bench) -> Pass<f64> {
    let pass = &bench.sampler.pass;
    Pass::new(bench.sampler.world.clone(), pass.nets().clone(), pass.capacity(), one_thread())
}

/// 64 transitions of the batch that the sampler holds.
fn minibatch(bench: &mut Bench, priority: f64) -> Minibatch {
    bench.sampler.finish(&bench.params).expect("finite rewards");
    let mut replay = Transitions::new(bench.sampler.world.clone(), 1000, priority);
    replay.take(&bench.sampler).expect("room");
    let mut batch = Minibatch::new(bench.sampler.world.as_ref(), 64);
    replay.draw(0.5, &mut NumpyRng::new(4), &mut batch);
    batch
}

/// Of the diamond's four trajectories.
fn diamond_batch(bench: &mut Bench) -> Minibatch {
    let paths = diamond_paths();
    bench.sampler.replay(&bench.params, paths.iter().map(Vec::as_slice)).expect("legal actions");
    minibatch(bench, 0.0)
}

fn evaluate(bench: &mut Bench, target: &mut Pass<f64>, bellman: &SoftBellman, batch: &mut Minibatch) -> f64 {
    let params = bench.params.clone();
    loss([(&mut bench.sampler.pass, &params), (target, &params)], bellman, batch)
}

#[test]
fn the_fixed_point_is_the_log_flow_and_munchausens_is_its_own() {
    // Flows 6, 2, 4 of s0, a, b; edges 2, 4; 1, 1; 1, 3. With α = 0.15 Q(s0) = κ Q* − α κ V*, κ = 1/0.85.
    let (flows, edges) = ([6f64, 2.0, 4.0], [[2f64, 4.0], [1.0, 1.0], [1.0, 3.0]]);
    let known = [(0.0, [2.0f64.ln(), 4.0f64.ln()]), (0.15, [0.4992744237, 1.3147416950])];
    for (alpha, q_values) in known {
        let mut bench = bench(Arc::new(Diamond::new()), &[]);
        for (state, (flow, edges)) in flows.iter().zip(edges).enumerate() {
            // The networks give Q/κ = Q* − α V*.
            bench.set(&[state as i32], &edges.map(|edge| edge.ln() - alpha * flow.ln()));
        }
        let (bellman, mut target) = (bellman(alpha), target_pass(&bench));
        let mut batch = diamond_batch(&mut bench);
        let loss = evaluate(&mut bench, &mut target, &bellman, &mut batch);
        // Rewards are kept in single precision.
        assert!(loss < 1e-13 && batch.error.iter().all(|e| e.abs() < 1e-6), "{alpha}: {loss:e} {:?}", batch.error);
        let row = bench.sampler.pass.row_of(&[0]);
        for (action, known) in q_values.into_iter().enumerate() {
            close(bellman.q_value(&bench.sampler.pass, row, action), known, 1e-10);
        }
        close(bellman.value(&bench.sampler.pass, row), 6f64.ln(), 1e-12);
    }
}

#[test]
fn targets_by_hand() {
    // All logits 0: π = ½ and V̄ = κ ln 2 before the end, 0 on terminal states. x2 has two parents: ln P_B = −ln 2 and ln R = ln 2.
    let half = 0.5f64.ln();
    let by_hand: [(f64, f64, [f64; 4]); 3] = [
        // α = 0: y(s0, ·) = ln 2.
        (0.0, -100.0, [2f64.ln(), 0.0, 0.0, 3f64.ln()]),
        // α = ½, κ = 2: the bonus is ½ 2 ln ½ and V̄ is 2 ln 2.
        (0.5, -100.0, [2f64.ln(), half, half, 3f64.ln() + half]),
        // κ ln ½ = −1.39 is clipped at −1.
        (0.5, -1.0, [4f64.ln() - 0.5, -0.5, -0.5, 3f64.ln() - 0.5]),
    ];
    for (alpha, clip, [y_start, y_x1, y_x2, y_x3]) in by_hand {
        let mut bench = bench(Arc::new(Diamond::new()), &[]);
        let (bellman, mut target) = (SoftBellman { clip, ..bellman(alpha) }, target_pass(&bench));
        let mut batch = diamond_batch(&mut bench);
        evaluate(&mut bench, &mut target, &bellman, &mut batch);
        let mut seen = [0; 3];
        for i in 0..64 {
            let y = match (batch.state[i], batch.action[i]) {
                (0, _) => y_start,
                (1, 0) => y_x1,
                (2, 1) => y_x3,
                _ => y_x2,
            };
            seen[batch.state[i] as usize] += 1;
            close((-batch.error[i]).into(), y, 1e-6);
        }
        assert!(seen.iter().all(|&n| n > 5), "{seen:?}");
    }
}

#[test]
fn large_errors_count_by_their_size_and_ends_by_their_weight() {
    assert_eq!((huber(0.5), huber(-1.0), huber(-3.0)), ((0.125, 0.5), (0.5, -1.0), (2.5, -1.0)));
    // All logits 0: of the transitions that end, b → x3 alone is off, by ln 3, which Huber's function takes to ln 3 − ½.
    let mut bench = bench(Arc::new(Diamond::new()), &[]);
    let mut target = target_pass(&bench);
    let mut batch = diamond_batch(&mut bench);
    let n = (0..64).filter(|&i| (batch.state[i], batch.action[i]) == (2, 1)).count();
    let [once, five_times] = [1.0, 5.0]
        .map(|leaf_coef| evaluate(&mut bench, &mut target, &SoftBellman { leaf_coef, ..bellman(0.0) }, &mut batch));
    close(five_times - once, 4.0 * n as f64 / 64.0 * (3f64.ln() - 0.5), 1e-6);
}

#[test]
fn rows_count_by_their_weights() {
    let mut bench = bench(Arc::new(Diamond::new()), &[]);
    let mut target = target_pass(&bench);
    let mut batch = diamond_batch(&mut bench);
    let mut at = |weight: f32| {
        batch.weight.fill(weight);
        let loss = evaluate(&mut bench, &mut target, &bellman(0.0), &mut batch);
        let mut grad = vec![0.0; bench.params.len()];
        bench.sampler.pass.backward(&bench.params, &mut grad);
        (loss, grad)
    };
    let (whole, quarter) = (at(1.0), at(0.25));
    close(quarter.0, whole.0 / 4.0, 1e-12);
    whole.1.iter().zip(&quarter.1).for_each(|(whole, quarter)| close(*quarter, whole / 4.0, 1e-12));
    assert!(whole.0 > 0.1 && whole.1.iter().any(|g| g.abs() > 1e-2));
}

#[test]
fn the_gradient_is_that_of_small_changes() {
    for alpha in [0.0, 0.15] {
        let mut bench = bench(Arc::new(grid4()), &[5]);
        bench.params = bench.sampler.pass.nets().init(&mut NumpyRng::new(3));
        let (bellman, target_params) = (SoftBellman { leaf_coef: 3.0, ..bellman(alpha) }, bench.params.clone());
        let mut target = target_pass(&bench);
        bench.sampler.sample(&bench.params, 16, Behaviour::POLICY, &mut NumpyRng::new(5)).expect("a sound world");
        let mut batch = minibatch(&mut bench, 0.5);
        let Bench { sampler, params, .. } = &mut bench;
        params.iter_mut().enumerate().for_each(|(i, p)| *p += 0.1 * ((i % 7) as f64 - 3.0));
        let mut at = |params: &[f64], grad: Option<&mut [f64]>| {
            let loss = loss([(&mut sampler.pass, params), (&mut target, &target_params)], &bellman, &mut batch);
            if let Some(grad) = grad {
                sampler.pass.backward(params, grad);
            }
            loss
        };
        let mut grad = vec![0.0; params.len()];
        at(params, Some(&mut grad));
        assert!(grad.iter().any(|g| g.abs() > 1e-3));
        for (i, &grad) in grad.iter().enumerate() {
            let mut moved = |h: f64| {
                params[i] += h;
                let loss = at(params, None);
                params[i] -= h;
                loss
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - grad).abs() < 1e-6, "{alpha}: {difference} is not {grad}");
        }
    }
}
