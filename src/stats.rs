//! Statistics of few runs on several tasks, after Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
//! Statistical Precipice" (arXiv:2108.13264) and their package `rliable`.
//!
//! `scores[task][run]` holds one number for each run. Tasks weigh the same, however many runs each has; with as many runs
//! everywhere every point estimate is rliable's.

use crate::envs::rng::NumpyRng;

/// Resamples behind the intervals of a table.
pub const RESAMPLES: usize = 10_000;

/// A number that sums up `scores[task][run]`.
pub type Statistic = fn(&[Vec<f64>]) -> f64;

/// The statistics of a table, by name.
pub const STATISTICS: [(&str, Statistic); 3] = [("mean", mean), ("median", median), ("IQM", iqm)];

/// Mean over tasks of the mean over runs.
pub fn mean(scores: &[Vec<f64>]) -> f64 {
    average(scores.iter().map(|runs| average(runs.iter().copied())))
}

/// Median over tasks of the mean over runs; of one task, the median over its runs.
///
/// On one task rliable's median is the mean again, which says nothing beside it.
pub fn median(scores: &[Vec<f64>]) -> f64 {
    let mut values: Vec<f64> = match scores {
        [runs] => runs.clone(),
        _ => scores.iter().map(|runs| average(runs.iter().copied())).collect(),
    };
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// Interquartile mean: the mean of all scores but the lowest and the highest quarter, each of `⌊n/4⌋` scores
/// (`scipy.stats.trim_mean`).
///
/// Where tasks have different numbers of runs, each score counts as often as makes tasks weigh the same: the answer is
/// that for every task's runs repeated until all tasks have the same number.
pub fn iqm(scores: &[Vec<f64>]) -> f64 {
    let each = scores.iter().fold(1, |all, runs| lcm(all, runs.len().max(1)));
    let weighted = scores.iter().flat_map(|runs| runs.iter().map(|&score| (score, each / runs.len())));
    let mut weighted: Vec<(f64, usize)> = weighted.collect();
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: usize = weighted.iter().map(|(_, weight)| weight).sum();
    let (first, last) = (total / 4, total - total / 4);
    let (mut at, mut sum) = (0, 0.0);
    for (score, weight) in weighted {
        let kept = (at + weight).min(last).saturating_sub(at.max(first));
        sum += score * kept as f64;
        at += weight;
    }
    sum / (last - first) as f64
}

/// How far scores stay below 1 on average, those above counting as 1.
pub fn optimality_gap(scores: &[Vec<f64>]) -> f64 {
    1.0 - average(scores.iter().map(|runs| average(runs.iter().map(|score| score.min(1.0)))))
}

/// Mean over tasks of the probability that a run of `x` scores higher than one of `y`, equal scores counting half
/// (Mann and Whitney's U). Both have the same tasks in the same order.
pub fn probability_of_improvement(x: &[Vec<f64>], y: &[Vec<f64>]) -> f64 {
    average(x.iter().zip(y).map(|(x, y)| {
        let wins = x.iter().flat_map(|x| y.iter().map(move |y| if x > y { 1.0 } else { f64::from(x == y) / 2.0 }));
        wins.sum::<f64>() / (x.len() * y.len()) as f64
    }))
}

/// Performance profile: for every τ, the part of runs that score above it, tasks weighing the same.
pub fn profile(scores: &[Vec<f64>], taus: &[f64]) -> Vec<f64> {
    let above = |runs: &[f64], tau| average(runs.iter().map(|&score| f64::from(score > tau)));
    taus.iter().map(|&tau| average(scores.iter().map(|runs| above(runs, tau)))).collect()
}

/// The 95 % percentile interval of a statistic under the stratified bootstrap: every task's runs are drawn anew, with
/// replacement, from that task's runs. The stream of draws is fixed, so the same scores give the same interval.
pub fn interval(scores: &[Vec<f64>], statistic: impl Fn(&[Vec<f64>]) -> f64, resamples: usize) -> (f64, f64) {
    let mut rng = NumpyRng::new(0);
    let mut sample = scores.to_vec();
    percentiles(resamples, || {
        resample(scores, &mut sample, &mut rng);
        statistic(&sample)
    })
}

/// [`interval`] of a statistic of two sets of scores, each drawn anew on its own.
pub fn interval_of_two(
    x: &[Vec<f64>],
    y: &[Vec<f64>],
    statistic: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> f64,
    resamples: usize,
) -> (f64, f64) {
    let mut rng = NumpyRng::new(0);
    let (mut sample_x, mut sample_y) = (x.to_vec(), y.to_vec());
    percentiles(resamples, || {
        resample(x, &mut sample_x, &mut rng);
        resample(y, &mut sample_y, &mut rng);
        statistic(&sample_x, &sample_y)
    })
}

fn resample(scores: &[Vec<f64>], sample: &mut [Vec<f64>], rng: &mut NumpyRng) {
    for (runs, drawn) in scores.iter().zip(sample) {
        drawn.iter_mut().for_each(|score| *score = runs[rng.below(runs.len())]);
    }
}

fn percentiles(resamples: usize, mut draw: impl FnMut() -> f64) -> (f64, f64) {
    let mut values: Vec<f64> = (0..resamples).map(|_| draw()).collect();
    values.sort_by(f64::total_cmp);
    (quantile(&values, 0.025), quantile(&values, 0.975))
}

/// The `q`-quantile of ascending values, linear between neighbours (NumPy's default).
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Neighbours that are equal, infinite ones among them, need no arithmetic.
    if low == high { low } else { low + (high - low) * place.fract() }
}

/// Area under a curve divided by its width, by the trapezoid rule: the mean height. Of one point, its height.
pub fn mean_height(x: &[f64], y: &[f64]) -> f64 {
    let pieces = x.windows(2).zip(y.windows(2));
    let area: f64 = pieces.map(|(x, y)| (x[1] - x[0]) * (y[0] + y[1]) / 2.0).sum();
    match (x.first(), x.last()) {
        (Some(first), Some(last)) if last > first => area / (last - first),
        _ => y.first().copied().unwrap_or(f64::NAN),
    }
}

/// The first `x` at which the curve is good enough; infinity where it never is.
pub fn first_reaching(x: &[f64], y: &[f64], is_enough: impl Fn(f64) -> bool) -> f64 {
    x.iter().zip(y).find(|(_, y)| is_enough(**y)).map_or(f64::INFINITY, |(x, _)| *x)
}

fn average(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interquartile_mean_drops_whole_scores_as_scipy_does() {
        assert_eq!(iqm(&[vec![1.0, 2.0, 3.0, 100.0]]), 2.5);
        // ⌊5/4⌋ = 1 from each end, ⌊3/4⌋ = 0.
        assert_eq!(iqm(&[vec![0.0, 1.0, 2.0, 3.0, 100.0]]), 2.0);
        assert_eq!(iqm(&[vec![1.0, 2.0, 6.0]]), 3.0);
    }

    #[test]
    fn tasks_weigh_the_same_however_many_runs_they_have() {
        // As [1 1 2 2] and [5 6 7 8]: without the lowest and highest two, 2 2 5 6.
        assert_eq!(iqm(&[vec![1.0, 2.0], vec![5.0, 6.0, 7.0, 8.0]]), 15.0 / 4.0);
        assert_eq!(mean(&[vec![1.0, 2.0], vec![5.0, 6.0, 7.0, 8.0]]), 4.0);
    }

    #[test]
    fn gaps_wins_and_profiles() {
        let x = [vec![0.5, 2.0], vec![1.0, 0.0]];
        assert_eq!(optimality_gap(&x), (0.5 + 0.0 + 0.0 + 1.0) / 4.0);
        assert_eq!(probability_of_improvement(&x, &[vec![1.0], vec![1.0, 2.0]]), (0.5 + 0.125) / 2.0);
        assert_eq!(profile(&x, &[0.0, 0.5, 2.0]), [0.75, 0.5, 0.0]);
    }

    #[test]
    fn curves() {
        assert_eq!(mean_height(&[0.0, 1.0, 3.0], &[0.0, 2.0, 2.0]), 5.0 / 3.0);
        assert_eq!(mean_height(&[7.0], &[4.0]), 4.0);
        assert_eq!(first_reaching(&[10.0, 20.0, 30.0], &[1.0, 3.0, 2.0], |y| y >= 2.0), 20.0);
        assert_eq!(first_reaching(&[10.0], &[1.0], |y| y >= 2.0), f64::INFINITY);
        assert_eq!(quantile(&[1.0, 2.0, f64::INFINITY, f64::INFINITY], 0.9), f64::INFINITY);
    }

    #[test]
    fn one_run_has_an_interval_of_no_width() {
        assert_eq!(interval(&[vec![3.0]], iqm, 100), (3.0, 3.0));
    }
}
