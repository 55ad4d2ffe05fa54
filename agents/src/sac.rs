//! Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905).
//!
//! Each gradient step fits two critics to the soft Bellman target (Eq. 5), moves the actor (Eq. 7) and the temperature (Eq. 18),
//! and lets the target critics follow. All gradients are in closed form. The temperature of a step is that from before it.

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::critics::{Judge, TwinCritics, smaller};
use crate::learner::{Array, LearnError, Learner, Metrics, Setup, Snapshot};
use crate::off_policy::{Agent, Means, OffPolicy, OffPolicyConfig, Update};
use crate::optim::Adam;
use crate::optional;
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::replay::ReplayBatch;
use crate::soft::SoftActorCritic;

/// Settings of [`Sac`]; defaults from the paper's Table 1 and Stable-Baselines3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct SacConfig {
    /// What off-policy agents share.
    #[serde(flatten)]
    pub common: OffPolicyConfig,
    /// Temperature α, the weight of the entropy: as it starts, or as it stays unless `auto_alpha`.
    pub alpha: f64,
    /// Move the temperature so that the policy's entropy comes to `target_entropy` (Eq. 18).
    pub auto_alpha: bool,
    /// Adam's step size for ln α.
    pub alpha_learning_rate: f64,
    /// What is lowered in moving it, times the entropy's excess: `log_alpha`, whose slope in ln α does not depend on α, or `alpha`.
    pub alpha_loss: AlphaLoss,
    /// Entropy that the temperature is moved for, of actions in [−1, 1]; "none" is minus the number of action components.
    #[serde(with = "optional")]
    pub target_entropy: Option<f64>,
    /// Gradient steps of the critics between those of the actor, which then takes as many on one minibatch.
    pub actor_interval: usize,
}

/// The temperature's part in its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlphaLoss {
    /// −ln α · (ln π + H̄).
    LogAlpha,
    /// −α · (ln π + H̄): Eq. 18.
    Alpha,
}

impl SacConfig {
    /// The entropy that the temperature is moved for, of actions of so many components.
    fn target_entropy_of(&self, act_dim: usize) -> f64 {
        self.target_entropy.unwrap_or(-(act_dim as f64))
    }
}

impl Default for SacConfig {
    fn default() -> SacConfig {
        SacConfig {
            common: OffPolicyConfig::default(),
            alpha: 1.0,
            auto_alpha: true,
            alpha_learning_rate: 3e-4,
            alpha_loss: AlphaLoss::LogAlpha,
            target_entropy: None,
            actor_interval: 1,
        }
    }
}

/// SAC's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<SacConfig>(
    "sac",
    "soft actor-critic: off-policy, two critics, entropy as part of the reward",
    &[
        ("train/actor_loss", "α ln π − min Q of fresh actions, mean over the iteration's actor steps"),
        ("train/entropy", "−ln π of fresh actions in [−1, 1], mean over actor steps"),
        ("train/critic_loss", "half the squared error of both critics, summed, mean over gradient steps"),
        ("train/q_value", "smaller critic's value of stored actions, mean over gradient steps"),
        ("train/ent_coef", "temperature α after the iteration"),
        ("train/buffer_size", "transitions in the replay buffer"),
        ("train/n_updates", "gradient steps since the start"),
    ],
)
.console(&["train/ent_coef", "train/q_value"]);

impl AgentConfig for SacConfig {
    const PARTS: &'static [Part] = &[Part::of::<OffPolicyConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::positive("alpha", self.alpha, "1 where it moves, 0.2 where it stays")?;
        check::positive("alpha_learning_rate", self.alpha_learning_rate, "3e-4")?;
        check::finite("target_entropy", self.target_entropy.unwrap_or(0.0), "minus the number of action components")?;
        check::count("actor_interval", self.actor_interval)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Sac::learner(self, setup)?))
    }
}

/// Soft actor-critic.
pub struct Sac {
    config: SacConfig,
    soft: SoftActorCritic,
    log_alpha: f32,
    alpha_adam: Adam,
    critic_means: Means<2>,
    actor_means: Means<2>,
}

impl Sac {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, actions that are no bounded box, or an environment that cannot be made.
    pub fn learner(config: SacConfig, setup: &Setup) -> Result<OffPolicy<Sac>, LearnError> {
        config.validate()?;
        OffPolicy::new("sac", config.common.clone(), setup, |agent, rng| Sac::new(config, agent, rng))
    }

    fn new(config: SacConfig, agent: &Agent, rng: &mut NumpyRng) -> Sac {
        Sac {
            soft: SoftActorCritic::new(agent, rng),
            log_alpha: config.alpha.ln() as f32,
            alpha_adam: Adam::new(1, config.common.adam_eps),
            critic_means: Means::new(["train/critic_loss", "train/q_value"]),
            actor_means: Means::new(["train/actor_loss", "train/entropy"]),
            config,
        }
    }

    /// Both critics.
    pub fn critics(&self) -> &TwinCritics {
        &self.soft.critics
    }

    /// The actor's last gradient.
    #[cfg(test)]
    pub(crate) fn actor_grad(&self) -> &[f32] {
        &self.soft.grad
    }
}

impl Update for Sac {
    /// One step of the critics, and where it is their turn steps of actor and temperature.
    fn update(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        self.critic_step(agent, batch)?;
        if (agent.progress.grad_steps + 1).is_multiple_of(self.config.actor_interval as u64) {
            for _ in 0..self.config.actor_interval {
                self.actor_step(agent, batch)?;
            }
        }
        self.soft.critics.follow(self.config.common.tau, &agent.workers);
        Ok(())
    }

    fn errors(&self) -> &[f32] {
        self.soft.critics.errors()
    }

    fn report(&mut self, metrics: &mut Metrics) {
        self.actor_means.report(metrics);
        self.critic_means.report(metrics);
        metrics.add("train/ent_coef", f64::from(self.log_alpha.exp()));
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.soft.save(snapshot);
        self.alpha_adam.save("alpha_adam", snapshot);
        snapshot.put("log_alpha", Array::F32(vec![self.log_alpha]));
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.soft.load(snapshot)?;
        self.alpha_adam.load("alpha_adam", snapshot)?;
        snapshot.f32_into("log_alpha", std::slice::from_mut(&mut self.log_alpha))
    }
}

impl Sac {
    /// Eq. 5, with the smaller target: y = r + γ (min Q̄(s', a') − α ln π(a'|s')), a' ~ π.
    fn critic_step(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        let (alpha, act_dim) = (self.log_alpha.exp(), agent.actor.act_dim());
        self.soft.draw_noise(agent);
        self.soft.act(agent, &batch.next_obs);
        let losses = self.soft.fit_soft(agent, batch, |draws, row| alpha * draws.row_log_prob(row, act_dim))?;
        self.critic_means.add([losses.loss, losses.q_value]);
        Ok(())
    }

    /// Eq. 7 and Eq. 18.
    fn actor_step(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        self.soft.draw_noise(agent);
        let (loss, entropy) = self.actor_gradient(agent, batch);
        self.actor_means.add([loss, entropy]);
        self.soft.actor_step(agent, loss)?;
        if self.config.auto_alpha {
            let target = self.config.target_entropy_of(agent.actor.act_dim());
            let slope = alpha_slope(entropy - target, self.log_alpha, self.config.alpha_loss);
            let log_alpha = std::slice::from_mut(&mut self.log_alpha);
            self.alpha_adam.step(log_alpha, &[slope], self.config.alpha_learning_rate);
        }
        Ok(())
    }

    /// The gradient of mean (α ln π(a|s) − min Q(s, a)), a = tanh(μ + σ · noise), in the actor's parameters; returns that mean
    /// and the mean of −ln π.
    fn actor_gradient(&mut self, agent: &Agent, batch: &ReplayBatch) -> (f64, f64) {
        let (alpha, rows) = (self.log_alpha.exp(), batch.len() as f64);
        self.soft.act(agent, &batch.obs);
        let q: f64 = smaller(self.soft.judge(agent, Judge::Min)).map(f64::from).sum();
        let SoftActorCritic { draws, d_action, d_output, .. } = &mut self.soft;
        let log_prob: f64 = draws.log_prob.iter().copied().map(f64::from).sum();
        let d_log_prob = alpha / rows as f32;
        draws.backward(agent.actor.act_dim(), |_| d_log_prob, |i| -d_action[i] * draws.slope(i), d_output);
        self.soft.pull_back(agent);
        ((f64::from(alpha) * log_prob - q) / rows, -log_prob / rows)
    }
}

/// The slope in ln α of the temperature's loss, given how far the entropy is above its target.
fn alpha_slope(excess: f64, log_alpha: f32, loss: AlphaLoss) -> f32 {
    match loss {
        AlphaLoss::LogAlpha => excess as f32,
        AlphaLoss::Alpha => excess as f32 * log_alpha.exp(),
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::{EnvConfig, Registry};

    use super::*;
    use crate::learner::Budget;
    use crate::nn::Activation;
    use crate::squashed::{Draws, LogStdBound};

    fn setup(env_steps: u64) -> Setup {
        Setup {
            seed: 1,
            threads: 1,
            device: Default::default(),
            env: EnvConfig::new("Pendulum-v1"),
            envs: Registry::default(),
            dataset: None,
            budget: Budget::EnvSteps(env_steps),
            histograms: false,
        }
    }

    /// A small SAC on Pendulum, and a minibatch.
    fn small(change: impl FnOnce(&mut SacConfig)) -> (Agent, Sac, ReplayBatch) {
        let common = OffPolicyConfig {
            hidden_sizes: vec![8],
            activation: Activation::Tanh,
            batch_size: 6,
            ..Default::default()
        };
        let mut config = SacConfig { common, alpha: 0.5, ..Default::default() };
        change(&mut config);
        Sac::learner(config, &setup(1)).expect("the settings fit").apart()
    }

    #[test]
    fn a_budget_that_ends_before_the_first_gradient_step_is_named() {
        let warnings = |env_steps: u64| {
            let common = OffPolicyConfig { learning_starts: 50, num_steps: 10, ..Default::default() };
            let mut sac = Sac::learner(SacConfig { common, ..Default::default() }, &setup(env_steps)).expect("it fits");
            sac.step().expect("random actions").warnings
        };
        assert_eq!(warnings(51), [""; 0]);
        let sentence = "no gradient step falls due within 50 environment steps, of which `learning_starts = 50` are random: \
                        the policy stays as it starts";
        assert_eq!(warnings(50), [sentence]);
    }

    #[test]
    fn the_actors_gradient_is_that_of_its_loss() {
        let (mut agent, mut sac, batch) = small(|_| ());
        sac.soft.draw_noise(&mut agent);
        sac.actor_gradient(&agent, &batch);
        let grad = sac.soft.grad.clone();
        let mut loss = |i: usize, by: f32| {
            agent.actor.params[i] += by;
            let (loss, _) = sac.actor_gradient(&agent, &batch);
            agent.actor.params[i] -= by;
            loss
        };
        for (i, &slope) in grad.iter().enumerate() {
            let difference = ((loss(i, 1e-2) - loss(i, -1e-2)) / 2e-2) as f32;
            assert!((slope - difference).abs() < 1e-3, "{slope} is not {difference} in parameter {i}");
        }
        assert!(grad.iter().any(|slope| slope.abs() > 0.1), "{grad:?}");
    }

    #[test]
    fn the_critics_are_fitted_to_the_soft_target() {
        let (mut agent, mut sac, batch) = small(|_| ());
        let mut draws = Draws::new(6, 1);
        draws.draw_noise(&mut agent.stream.clone());
        agent.actor.act(&batch.next_obs, &mut agent.actor.pass(6), &mut draws, &agent.workers);
        // Target networks that differ from the critics.
        sac.soft.critics.target.iter_mut().for_each(|p| *p *= 0.7);
        sac.critic_step(&mut agent, &batch).expect("finite numbers");
        let SoftActorCritic { critics: target, target: ys, .. } = &mut sac.soft;
        target.params.clone_from(&target.target);
        for (i, found) in ys.iter().enumerate() {
            let next = target.values_of(&batch.next_obs[i * 3..i * 3 + 3], &draws.action[i..i + 1]);
            let y = batch.reward[i] + batch.discount[i] * (next[0].min(next[1]) - 0.5 * draws.log_prob[i]);
            assert!((found - y).abs() < 1e-5, "{found} is not {y}");
        }
    }

    #[test]
    fn the_actor_waits_for_its_interval_and_then_takes_as_many_steps() {
        let steps = |interval: usize| -> Vec<u64> {
            let (mut agent, mut sac, batch) = small(|config| config.actor_interval = interval);
            let mut step = || {
                sac.update(&mut agent, &batch).expect("finite numbers");
                agent.progress.grad_steps += 1;
                let mut snapshot = Snapshot::default();
                sac.save(&mut snapshot);
                snapshot.u64("adam/steps").expect("it is saved")
            };
            (0..6).map(|_| step()).collect()
        };
        assert_eq!(steps(1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(steps(2), [0, 2, 2, 4, 4, 6]);
    }

    #[test]
    fn each_part_moves_by_its_own_step_size() {
        let (mut agent, mut sac, batch) = small(|config| {
            (config.common.learning_rate, config.common.q_learning_rate) = (1e-3, 2e-3);
            config.alpha_learning_rate = 4e-3;
        });
        let parts =
            |agent: &Agent, sac: &Sac| [agent.actor.params.clone(), sac.critics().params.clone(), vec![sac.log_alpha]];
        let before = parts(&agent, &sac);
        sac.update(&mut agent, &batch).expect("finite numbers");
        // Adam's first step moves whatever has a slope by the step size.
        for ((before, after), rate) in before.iter().zip(parts(&agent, &sac)).zip([1e-3, 2e-3, 4e-3]) {
            let moved = before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!((moved - rate).abs() < 1e-6, "{moved} is not {rate}");
        }
    }

    #[test]
    fn rows_without_weight_do_not_move_the_critics() {
        let (mut agent, mut sac, mut batch) = small(|_| ());
        let before = sac.critics().params.clone();
        batch.weight.fill(0.0);
        sac.critic_step(&mut agent, &batch).expect("finite numbers");
        assert_eq!(sac.critics().params, before);
        batch.weight[2] = 1.0;
        sac.critic_step(&mut agent, &batch).expect("finite numbers");
        assert_ne!(sac.critics().params, before);
    }

    #[test]
    fn rows_are_drawn_by_their_last_errors_and_weights_rise_to_1() {
        let common = OffPolicyConfig {
            hidden_sizes: vec![8],
            batch_size: 4,
            num_steps: 12,
            learning_starts: 10,
            priority: 0.6,
            ..Default::default()
        };
        let mut sac = Sac::learner(SacConfig { common, ..Default::default() }, &setup(24)).expect("the settings fit");
        sac.step().expect("finite numbers");
        let Array::F64(priorities) = &Learner::save(&sac).arrays["replay_priorities"] else { panic!("no numbers") };
        assert!(priorities[..12].iter().any(|&p| p != 1.0), "{priorities:?}");
        let (mut agent, ..) = sac.apart();
        // From 0.4 at the start, halfway.
        assert!((agent.importance() - 0.7).abs() < 1e-12);
        agent.progress.env_steps = 24;
        assert_eq!(agent.importance(), 1.0);
    }

    #[test]
    fn deviations_are_bounded_as_the_settings_say() {
        for (bound, std) in [(LogStdBound::Clamp, 1.0), (LogStdBound::Tanh, 0.223_130_16)] {
            let (mut agent, mut sac, batch) = small(|config| {
                (config.common.log_std_bound, config.common.log_std_min) = (bound, -5.0);
            });
            agent.actor.params.fill(0.0);
            sac.soft.act(&agent, &batch.obs);
            assert!((sac.soft.draws.std[0] - std).abs() < 1e-6, "{bound:?}");
        }
    }

    #[test]
    fn the_temperature_is_moved_for_the_entropy_that_was_asked_for() {
        assert_eq!(SacConfig::default().target_entropy_of(17), -17.0);
        assert_eq!(SacConfig { target_entropy: Some(-8.5), ..Default::default() }.target_entropy_of(17), -8.5);
        // With ε = 1 Adam's first step is the step size times g/(|g| + 1), g the excess of the entropy, times α for the loss in α.
        let excess = |target_entropy, alpha_loss| {
            let (mut agent, mut sac, batch) = small(|config| {
                (config.common.adam_eps, config.alpha_learning_rate) = (1.0, 0.1);
                (config.target_entropy, config.alpha_loss) = (target_entropy, alpha_loss);
            });
            sac.update(&mut agent, &batch).expect("finite numbers");
            let step = (0.5f32.ln() - sac.log_alpha) / 0.1;
            step / (1.0 - step.abs())
        };
        let by_default = excess(None, AlphaLoss::LogAlpha);
        assert!(by_default > 0.5, "a fresh policy has more entropy than −1: {by_default}");
        assert!((excess(Some(5.0), AlphaLoss::LogAlpha) - (by_default - 6.0)).abs() < 1e-3);
        assert!((excess(None, AlphaLoss::Alpha) - by_default / 2.0).abs() < 1e-4);
    }

    #[test]
    fn the_temperature_falls_where_there_is_too_much_entropy() {
        // ln π = 0.5 and a target of −1: an excess of −0.5 + 1 = 0.5, so that descent lowers α.
        let slope = |alpha: f32, loss| alpha_slope(-0.5 - -1.0, alpha.ln(), loss);
        assert_eq!((slope(1.0, AlphaLoss::LogAlpha), slope(0.1, AlphaLoss::LogAlpha)), (0.5, 0.5));
        assert_eq!(slope(1.0, AlphaLoss::Alpha), 0.5);
        assert!((slope(0.1, AlphaLoss::Alpha) - 0.05).abs() < 1e-7);
    }
}
