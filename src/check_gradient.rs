//! `bregman check-gradient`: an agent's estimates of gradients beside closed forms.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use toml::{Table, Value};

use crate::agents::exact::Exact;
use crate::agents::learner::{Budget, Setup};
use crate::agents::registry::AgentConfigError;
use crate::agents::trajectory_gradient::{Estimate, Estimates};
use crate::envs::EnvConfig;
use crate::error::bad_input;
use crate::terminal::print;
use crate::{BadInput, Bregman, run_file};

/// Standard errors from which an estimate counts as wrong: a right one is so in one of 1.7 million components.
const FAR: f64 = 5.0;

/// Estimates from which a standard error is worth comparing with.
const LEAST: usize = 100;

/// Arguments of `bregman check-gradient`.
#[derive(Args)]
pub struct CheckArgs {
    /// An agent that estimates gradients from whole trajectories
    agent: String,
    /// An environment whose returns are closed forms: lqr or two_state
    #[arg(long)]
    env: String,
    /// Change a setting of the agent or the environment, as in --set gamma=0.95 or --set env.kwargs.q=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    patches: Vec<String>,
    /// Episodes behind every number
    #[arg(long, default_value_t = 100_000)]
    episodes: usize,
    /// From which episodes and actions are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Prints exact value, estimate and standard error of every component; whether all agree.
pub fn run(args: &CheckArgs, bregman: &Bregman) -> Result<bool> {
    let (settings, env) = tables(args)?;
    let setup = Setup {
        seed: args.seed,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        device: Default::default(),
        env,
        envs: bregman.envs.clone(),
        dataset: None,
        budget: Budget::EnvSteps(1),
        histograms: false,
    };
    let mut estimates = build(&args.agent, &settings, &setup, bregman)?;
    let exact = Exact::of(&setup.env, &setup.envs, estimates.gamma).map_err(|e| BadInput(e.to_string()))?;
    let (x, v) = exact.example();
    let mut text = format!(
        "{} on {}, a linear policy, γ = {}, {} steps an episode\nparameters {x:.6?}\n",
        args.agent, setup.env.id, exact.gamma, exact.horizon
    );
    let mut right = true;
    for &kind in estimates.kinds {
        let (each, count) = (estimates.trajectories(kind), args.episodes / estimates.trajectories(kind));
        if count < LEAST {
            let least = LEAST * each;
            bad_input!("`--episodes {}`: at least {least}; a standard error of fewer says little", args.episodes);
        }
        let (mean, error) = moments(count, || Ok(estimates.draw(kind, &x, &v)?))?;
        let (title, expected) = match kind {
            Estimate::Gradient => ("gradient".to_string(), exact.gradient(&x)),
            Estimate::HessianProduct => (format!("Hessian times {v:?}"), exact.hessian_product(&x, &v)),
            Estimate::Reweighted => {
                let there = Estimates::elsewhere(&x, &v);
                (format!("gradient at {there:.6?}, by importance weights"), exact.gradient(&there))
            }
        };
        writeln!(text, "\n{title}: {count} estimates of {each} episodes")?;
        writeln!(text, "{:<10} {:>14} {:>14} {:>14} {:>8}", "", "exact", "estimated", "standard error", "off by")?;
        for (i, name) in exact.names().iter().enumerate().filter(|&(i, _)| estimates.learnt[i]) {
            let gap = mean[i] - expected[i];
            let off = if gap == 0.0 { 0.0 } else { gap / error[i] };
            right &= off.abs() < FAR;
            writeln!(text, "{name:<10} {:>14.6} {:>14.6} {:>14.6} {off:>8.2}", expected[i], mean[i], error[i])?;
        }
    }
    let verdict = if right { "every number is within" } else { "not every number is within" };
    writeln!(text, "\n{verdict} {FAR} standard errors of the exact one")?;
    print(&text)?;
    Ok(right)
}

/// The agent's settings, with baselines as they come, and the environment.
fn tables(args: &CheckArgs) -> Result<(Table, EnvConfig)> {
    let mut settings = Table::new();
    for change in &args.patches {
        run_file::patch(&mut settings, change)?;
    }
    let mut env = match settings.remove("env") {
        Some(Value::Table(env)) => env,
        Some(other) => bad_input!("`env = {other}`: settings of the environment are env.kwargs.q and the like"),
        None => Table::new(),
    };
    env.insert("id".into(), args.env.clone().into());
    let env: EnvConfig = env.try_into().map_err(|e: toml::de::Error| BadInput(format!("`env`: {}", e.message())))?;
    Ok((settings, env))
}

fn build(agent: &str, settings: &Table, setup: &Setup, bregman: &Bregman) -> Result<Estimates> {
    let known = || bregman.agents.entries().filter(|entry| entry.estimates.is_some()).map(|entry| entry.name);
    let Some(build) = bregman.agents.get(agent).and_then(|entry| entry.estimates) else {
        bad_input!("`{agent}` has no estimates to check; there are {}", known().collect::<Vec<_>>().join(", "));
    };
    let sentence = |error: AgentConfigError| match error {
        AgentConfigError::Parse { path, error } => run_file::sentence(&path, &error),
        AgentConfigError::Value(error) => BadInput(error.to_string()),
    };
    Ok(build(settings, setup).map_err(sentence)?)
}

/// Mean and standard error of `count` estimates, component by component.
fn moments(count: usize, mut draw: impl FnMut() -> Result<Vec<f64>>) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut mean, mut squares): (Vec<f64>, Vec<f64>) = Default::default();
    for n in 1..=count {
        let x = draw()?;
        mean.resize(x.len(), 0.0);
        squares.resize(x.len(), 0.0);
        for ((mean, squares), x) in mean.iter_mut().zip(&mut squares).zip(x) {
            let before = x - *mean;
            *mean += before / n as f64;
            *squares += before * (x - *mean);
        }
    }
    let n = count as f64;
    Ok((mean, squares.into_iter().map(|sum| (sum / (n - 1.0) / n).sqrt()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error_by_hand() {
        // 1, 2, 6: mean 3, sample variance (4 + 1 + 9)/2 = 7, error √(7/3).
        let mut numbers = [1.0, 2.0, 6.0].into_iter();
        let (mean, error) = moments(3, || Ok(numbers.next().into_iter().collect())).expect("three numbers");
        assert!((mean[0] - 3.0).abs() < 1e-15 && (error[0] - (7.0f64 / 3.0).sqrt()).abs() < 1e-15);
    }
}
