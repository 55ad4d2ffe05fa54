//! Mirror descent policy optimisation, off-policy (Tomar, Shani, Efroni & Ghavamzadeh 2022, arXiv:2005.09814, Section 4.2).
//!
//! The policy stays close to π_k, a copy of itself that is made anew every `inner_steps` gradient steps, in place of the inner
//! steps of a mirror step. The entropy enters through ln π_k: the mirror step linearises the regularised return at π_k, whose
//! slope there is Q − λ ln π_k. With `kl_coef` = λ the term in π_k vanishes and the step is soft actor-critic's.
//! Mirror descent starts wide: the weights into the policy's outputs start small, because a policy that happens to be narrow at some
//! state is one to stay near.
//! With Tsallis entropy every logarithm is ln_q, summed over action components as the authors do, and π_k's weight has the factor
//! q of the Bregman divergence.

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::critics::{Judge, TwinCritics, polyak, smaller};
use crate::learner::{Array, LearnError, Learner, Metrics, Setup, Snapshot};
use crate::nn::{Halves, Init, Mlp};
use crate::off_policy::{Agent, Means, OffPolicy, OffPolicyConfig, Update};
use crate::optim::Adam;
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::replay::ReplayBatch;
use crate::soft::{SoftActorCritic, soft_target};
use crate::squashed::Draws;

/// Settings of [`MdpoOff`]; defaults from the authors' code, but for the last two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct MdpoOffConfig {
    /// What off-policy agents share.
    #[serde(flatten)]
    pub common: OffPolicyConfig,
    /// Weight of the divergence from π_k, the inverse of the mirror step's size, 1/t_k; at least `lambda` as a rule.
    pub kl_coef: f64,
    /// Weight of the entropy in the return, λ.
    pub lambda: f64,
    /// Gradient steps between copies of the policy to π_k, m.
    pub inner_steps: usize,
    /// q of the Tsallis entropy and its divergence: 1 is Shannon's entropy and the KL divergence, 2 the sparse one.
    pub tsallis_q: f64,
    /// What targets count on: `v`, a state-value function with its target network, or `twin_target_q`, target networks of both Q.
    pub critic: CriticForm,
    /// Which critic the policy listens to: the `first` or the smaller (`min`).
    pub actor_q: Judge,
    /// Weight of the mean squares of μ (before tanh) and of ln σ in the policy's loss.
    pub policy_reg: f64,
    /// Factor of the weights into the policy's outputs as they start: with a small one the first π_k is wide, and nearly the same at
    /// all states.
    pub init_scale: f64,
    /// Act by the most probable action while learning, as the authors' code does.
    pub deterministic_rollout: bool,
}

/// What the critics' targets count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticForm {
    /// y = r + γ V̄(s'), and V is fitted to min Q − λ ln π.
    V,
    /// y = r + γ (min Q̄(s', a') − λ ln π(a'|s')).
    TwinTargetQ,
}

impl Default for MdpoOffConfig {
    fn default() -> MdpoOffConfig {
        MdpoOffConfig {
            common: OffPolicyConfig::default(),
            kl_coef: 1.0,
            lambda: 0.2,
            inner_steps: 1000,
            tsallis_q: 1.0,
            critic: CriticForm::V,
            actor_q: Judge::First,
            policy_reg: 1e-3,
            init_scale: 0.01,
            deterministic_rollout: false,
        }
    }
}

/// The line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<MdpoOffConfig>(
    "mdpo_off",
    "mirror descent policy optimisation, off-policy: a soft actor-critic that stays near its last policy",
    &[
        (
            "train/actor_loss",
            "kl_coef ln π + (λ − kl_coef) ln π_k − Q of fresh actions and the regulariser, by ln_q and with the factor q where `tsallis_q` is above 1; mean over the iteration's gradient steps",
        ),
        ("train/entropy", "−ln π of fresh actions in [−1, 1], mean over gradient steps"),
        ("train/kl", "ln π − ln π_k of fresh actions, an estimate of KL(π ‖ π_k), mean over gradient steps"),
        ("train/critic_loss", "half the squared error of both critics, summed, mean over gradient steps"),
        ("train/q_value", "smaller critic's value of stored actions, mean over gradient steps"),
        (
            "train/value_loss",
            "half the squared error of the state-value function, where there is one, mean over gradient steps",
        ),
        ("train/buffer_size", "transitions in the replay buffer"),
        ("train/n_updates", "gradient steps since the start"),
    ],
)
.console(&["train/kl", "train/q_value"]);

impl AgentConfig for MdpoOffConfig {
    const PARTS: &'static [Part] = &[Part::of::<OffPolicyConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::positive("kl_coef", self.kl_coef, "0.3 to 1")?;
        check::weight("lambda", self.lambda, "0.2")?;
        check::count("inner_steps", self.inner_steps)?;
        let q = self.tsallis_q;
        check::rule((1.0..=2.0).contains(&q), "tsallis_q", q, "q lies in [1, 2]: 1 is Shannon's entropy")?;
        check::weight("policy_reg", self.policy_reg, "1e-3")?;
        check::weight("init_scale", self.init_scale, "0.01, or 1 for PyTorch's weights")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(MdpoOff::learner(self, setup)?))
    }
}

/// Off-policy mirror descent policy optimisation.
pub struct MdpoOff {
    config: MdpoOffConfig,
    soft: SoftActorCritic,
    /// In the form with V.
    value: Option<StateValue>,
    /// π_k.
    old_params: Vec<f32>,
    old_pass: Halves<f32>,
    /// ln π_k of the actions last taken, component by component, and its derivative in u beside the action's own part.
    old_log_prob: Vec<f32>,
    old_d_u: Vec<f32>,
    means: Means<5>,
    value_means: Means<1>,
}

/// What a gradient step says of the policy: its loss, and means of −ln π and ln π − ln π_k.
struct PolicyLosses {
    loss: f64,
    entropy: f64,
    kl: f64,
}

impl MdpoOff {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, actions that are no bounded box, or an environment that cannot be made.
    pub fn learner(config: MdpoOffConfig, setup: &Setup) -> Result<OffPolicy<MdpoOff>, LearnError> {
        config.validate()?;
        let (kl_coef, lambda) = (config.kl_coef, config.lambda);
        let repelled = (kl_coef < lambda).then(|| {
            format!("`kl_coef = {kl_coef}` is below `lambda = {lambda}`: the policy is driven away from its last one, not held near it")
        });
        let agent =
            OffPolicy::new("mdpo_off", config.common.clone(), setup, |agent, rng| MdpoOff::new(config, agent, rng))?;
        Ok(agent.warn(repelled))
    }

    fn new(config: MdpoOffConfig, agent: &mut Agent, rng: &mut NumpyRng) -> MdpoOff {
        agent.actor.scale_output(config.init_scale);
        let (rows, actor) = (config.common.batch_size, &agent.actor);
        let room = || vec![0.0; rows * actor.act_dim()];
        let soft = SoftActorCritic::new(agent, rng);
        let network = config.common.network(actor.obs_dim(), 1, agent.setup.device);
        let state_value = || StateValue::new(network, rows, config.common.adam_eps, rng);
        MdpoOff {
            value: (config.critic == CriticForm::V).then(state_value),
            soft,
            old_params: actor.params.clone(),
            old_pass: actor.pass(rows),
            old_log_prob: room(),
            old_d_u: room(),
            means: Means::new(["train/actor_loss", "train/entropy", "train/kl", "train/critic_loss", "train/q_value"]),
            value_means: Means::new(["train/value_loss"]),
            config,
        }
    }

    /// Both critics.
    pub fn critics(&self) -> &TwinCritics {
        &self.soft.critics
    }

    fn mirror(&self) -> Mirror {
        let MdpoOffConfig { kl_coef, lambda, tsallis_q, .. } = self.config;
        Mirror { kl_coef: kl_coef as f32, lambda: lambda as f32, q: Q::new(tsallis_q) }
    }
}

impl Update for MdpoOff {
    fn draws_actions(&self) -> bool {
        !self.config.deterministic_rollout
    }

    /// One step of policy and critics; every `inner_steps` of them the policy becomes π_k.
    fn update(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        match self.config.critic {
            CriticForm::V => self.step_with_v(agent, batch)?,
            CriticForm::TwinTargetQ => self.step_with_twin_target_q(agent, batch)?,
        }
        if (agent.progress.grad_steps + 1).is_multiple_of(self.config.inner_steps as u64) {
            self.old_params.copy_from_slice(&agent.actor.params);
        }
        Ok(())
    }

    fn errors(&self) -> &[f32] {
        self.soft.critics.errors()
    }

    fn report(&mut self, metrics: &mut Metrics) {
        self.means.report(metrics);
        self.value_means.report(metrics);
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.soft.save(snapshot);
        if let Some(value) = &self.value {
            value.save(snapshot);
        }
        snapshot.put("old_params", Array::F32(self.old_params.clone()));
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.soft.load(snapshot)?;
        if let Some(value) = &mut self.value {
            value.load(snapshot)?;
        }
        snapshot.f32_into("old_params", &mut self.old_params)
    }
}

impl MdpoOff {
    /// The authors' order: the policy first, then Q₁, Q₂ and V, all from the parameters before the step; the target of V last.
    fn step_with_v(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        let mirror = self.mirror();
        self.soft.draw_noise(agent);
        let policy = self.policy_gradient(agent, batch);
        let Some(value) = &mut self.value else { return Ok(()) };
        let (act_dim, config) = (agent.actor.act_dim(), &self.config);

        // V is fitted to min Q − λ ln π of the actions that the policy's gradient was taken at.
        for (i, (y, q)) in value.target_value.iter_mut().zip(smaller(self.soft.critics.last_values())).enumerate() {
            *y = q - mirror.entropy_cost(&self.soft.draws, i, act_dim);
        }
        self.soft.actor_step(agent, policy.loss)?;
        let next_value = value.target_values(&batch.next_obs, agent);
        for (i, (y, &next_value)) in self.soft.target.iter_mut().zip(next_value).enumerate() {
            *y = soft_target(batch.reward[i], batch.discount[i], next_value);
        }
        let losses = self.soft.fit(agent, batch)?;
        let value_loss = value.fit(&batch.obs, config.common.q_learning_rate, agent);
        if !value_loss.is_finite() {
            return Err(agent.non_finite("the value loss", value_loss));
        }
        value.follow(config.common.tau, agent);
        self.value_means.add([value_loss]);
        self.means.add([policy.loss, policy.entropy, policy.kl, losses.loss, losses.q_value]);
        Ok(())
    }

    /// Soft actor-critic's order: critics, policy, targets.
    fn step_with_twin_target_q(&mut self, agent: &mut Agent, batch: &ReplayBatch) -> Result<(), LearnError> {
        let (mirror, act_dim) = (self.mirror(), agent.actor.act_dim());
        self.soft.draw_noise(agent);
        self.soft.act(agent, &batch.next_obs);
        let losses = self.soft.fit_soft(agent, batch, |draws, row| mirror.entropy_cost(draws, row, act_dim))?;
        self.soft.draw_noise(agent);
        let policy = self.policy_gradient(agent, batch);
        self.soft.actor_step(agent, policy.loss)?;
        self.soft.critics.follow(self.config.common.tau, &agent.workers);
        self.means.add([policy.loss, policy.entropy, policy.kl, losses.loss, losses.q_value]);
        Ok(())
    }

    /// The gradient of mean (kl_coef ln_q π(a|s) + q (λ − kl_coef) ln_q π_k(a|s) − Q(s, a)) with the regulariser, in the policy's
    /// parameters; a = tanh(μ + σ · noise) moves all three, the parameters of π_k stay.
    fn policy_gradient(&mut self, agent: &Agent, batch: &ReplayBatch) -> PolicyLosses {
        let mirror = self.mirror();
        let MdpoOff { config, soft, old_params, old_pass, old_log_prob, old_d_u, .. } = self;
        let (rows, act_dim) = (batch.len(), agent.actor.act_dim());
        let scale = 1.0 / rows as f32;
        soft.act(agent, &batch.obs);
        agent.actor.score(old_params, &batch.obs, &soft.draws, old_pass, (old_log_prob, old_d_u), &agent.workers);
        let values = soft.judge(agent, config.actor_q);
        let q: f64 = match config.actor_q {
            Judge::Min => smaller(values).map(f64::from).sum(),
            Judge::First => values[..rows].iter().copied().map(f64::from).sum(),
        };
        let SoftActorCritic { draws, d_action, d_output, .. } = soft;
        let mut losses = PolicyLosses { loss: -q, entropy: 0.0, kl: 0.0 };
        for (&log_prob, &old) in draws.log_prob.iter().zip(&*old_log_prob) {
            losses.loss += f64::from(mirror.of(log_prob, old).value);
            losses.entropy -= f64::from(log_prob);
            losses.kl += f64::from(log_prob - old);
        }
        let slopes = |i: usize| mirror.of(draws.log_prob[i], old_log_prob[i]);
        let d_log_prob = |i: usize| slopes(i).d_log_prob * scale;
        let d_u = |i: usize| {
            let through_old = slopes(i).d_old * scale * (old_d_u[i] + 2.0 * draws.action[i]);
            through_old - d_action[i] * draws.slope(i)
        };
        draws.backward(act_dim, d_log_prob, d_u, d_output);
        losses.loss += regularize(draws, config.policy_reg, act_dim, d_output) * rows as f64;
        soft.pull_back(agent);
        let per = |sum: f64| sum / rows as f64;
        PolicyLosses { loss: per(losses.loss), entropy: per(losses.entropy), kl: per(losses.kl) }
    }
}

/// The mirror step's objective without Q, of one action component.
#[derive(Clone, Copy)]
struct Mirror {
    kl_coef: f32,
    lambda: f32,
    q: Q,
}

/// A value, and its derivatives in ln π and ln π_k.
struct Slopes {
    value: f32,
    d_log_prob: f32,
    d_old: f32,
}

impl Mirror {
    /// kl_coef ln_q π + q (λ − kl_coef) ln_q π_k.
    fn of(self, log_prob: f32, old_log_prob: f32) -> Slopes {
        let ((new, d_new), (old, d_old)) = (self.q.ln(log_prob), self.q.ln(old_log_prob));
        let old_coef = self.q.q * (self.lambda - self.kl_coef);
        Slopes { value: self.kl_coef * new + old_coef * old, d_log_prob: self.kl_coef * d_new, d_old: old_coef * d_old }
    }

    /// λ ln_q π of the action in a row.
    fn entropy_cost(self, draws: &Draws, row: usize, act_dim: usize) -> f32 {
        let components = &draws.log_prob[row * act_dim..(row + 1) * act_dim];
        self.lambda * components.iter().map(|&log_prob| self.q.ln(log_prob).0).sum::<f32>()
    }
}

/// The order of the Tsallis entropy.
#[derive(Clone, Copy)]
struct Q {
    q: f32,
    minus_one: f32,
}

impl Q {
    fn new(q: f64) -> Q {
        Q { q: q as f32, minus_one: (q - 1.0) as f32 }
    }

    /// ln_q p = (p^(q−1) − 1)/(q − 1), from ln p; and its derivative in ln p.
    fn ln(self, log_p: f32) -> (f32, f32) {
        match self.minus_one {
            0.0 => (log_p, 1.0),
            k => ((k * log_p).exp_m1() / k, (k * log_p).exp()),
        }
    }
}

/// Adds the gradient of `weight` · (mean μ² + mean (ln σ)²) to `d_output`, and returns its value.
fn regularize(draws: &Draws, weight: f64, act_dim: usize, d_output: &mut [f32]) -> f64 {
    let slope = (2.0 * weight / draws.mean.len() as f64) as f32;
    let mut squares = 0.0;
    for (row, d_output) in d_output.chunks_exact_mut(2 * act_dim).enumerate() {
        for j in 0..act_dim {
            let i = row * act_dim + j;
            let (mean, log_std) = (draws.mean[i], draws.std[i].ln());
            d_output[j] += slope * mean;
            d_output[act_dim + j] += slope * log_std * draws.d_log_std[i];
            squares += f64::from(mean * mean + log_std * log_std);
        }
    }
    weight * squares / draws.mean.len() as f64
}

/// A state-value function that a target network follows.
struct StateValue {
    mlp: Mlp,
    params: Vec<f32>,
    target: Vec<f32>,
    adam: Adam,
    pass: Halves<f32>,
    /// What V is fitted to, `[B]`.
    target_value: Vec<f32>,
    d_value: Vec<f32>,
    grad: Vec<f32>,
}

impl StateValue {
    fn new(mlp: Mlp, batch_size: usize, adam_eps: f64, rng: &mut NumpyRng) -> StateValue {
        let params: Vec<f32> = mlp.init(Init::Uniform, rng);
        StateValue {
            target: params.clone(),
            adam: Adam::new(params.len(), adam_eps),
            pass: Halves::new(&mlp, batch_size),
            target_value: vec![0.0; batch_size],
            d_value: vec![0.0; batch_size],
            grad: vec![0.0; params.len()],
            params,
            mlp,
        }
    }

    fn target_values(&mut self, obs: &[f32], agent: &Agent) -> &[f32] {
        self.pass.forward(&self.mlp, &self.target, obs, &agent.workers)
    }

    /// One step on ½ mean (V − y)²; returns that.
    fn fit(&mut self, obs: &[f32], learning_rate: f64, agent: &Agent) -> f64 {
        let scale = 1.0 / self.target_value.len() as f32;
        let values = self.pass.forward(&self.mlp, &self.params, obs, &agent.workers);
        let mut loss = 0.0;
        for ((d, &v), &y) in self.d_value.iter_mut().zip(values).zip(&self.target_value) {
            *d = (v - y) * scale;
            loss += f64::from((v - y) * (v - y) * scale / 2.0);
        }
        self.pass.backward(&self.mlp, &self.params, &self.d_value, &mut self.grad, &agent.workers);
        self.adam.step_on(&mut self.params, &self.grad, learning_rate, &agent.workers);
        loss
    }

    fn follow(&mut self, tau: f64, agent: &Agent) {
        polyak(&mut self.target, &self.params, tau as f32, &agent.workers);
    }

    fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("v_params", Array::F32(self.params.clone()));
        snapshot.put("v_target", Array::F32(self.target.clone()));
        self.adam.save("v_adam", snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("v_params", &mut self.params)?;
        snapshot.f32_into("v_target", &mut self.target)?;
        self.adam.load("v_adam", snapshot)
    }
}

#[cfg(test)]
mod tests {
    use bregman_envs::{EnvConfig, Registry};

    use std::f32::consts::LN_2;

    use super::*;
    use crate::learner::Budget;
    use crate::nn::Activation;
    use crate::sac::{Sac, SacConfig};

    fn mirror(kl_coef: f32, lambda: f32, q: f64) -> Mirror {
        Mirror { kl_coef, lambda, q: Q::new(q) }
    }

    fn close(a: f32, b: f32, tolerance: f32) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn the_loss_by_hand() {
        // ln π = −1, ln π_k = −1.5, Q = 3, λ = 0.2.
        for (kl_coef, loss) in [(1.0, -2.8), (0.4, -3.1), (0.2, -3.2)] {
            close(mirror(kl_coef, 0.2, 1.0).of(-1.0, -1.5).value - 3.0, loss, 1e-6);
            // Where π is π_k, the divergence is 0 for any weight.
            close(mirror(kl_coef, 0.2, 1.0).of(-1.0, -1.0).value - 3.0, -3.2, 1e-6);
        }
    }

    #[test]
    fn gaussian_mirror_steps_end_where_the_closed_form_says() {
        // Q = −(a − 1)²/2 and π_k = N(0, 1), without tanh: precision (1 − λt)/1 + t and mean t/precision, where t = 1/kl_coef. With
        // λ ln π in the place of λ ln π_k the first would end at N(0.5, 0.77²).
        let nodes: Vec<f32> = (0..2000).map(|i| quantile((i as f64 + 0.5) / 2000.0)).collect();
        for (kl_coef, mean, std) in
            [(1.0, 0.555_555_6, 0.745_356), (0.4, 0.833_333_3, 0.577_350_3), (0.2, 1.0, 0.447_213_6)]
        {
            let mirror = mirror(kl_coef, 0.2, 1.0);
            let (mut mu, mut log_std) = (0.0f32, 0.0f32);
            for _ in 0..2000 {
                let (mut d_mu, mut d_log_std) = (0.0, 0.0);
                for &noise in &nodes {
                    let u = mu + log_std.exp() * noise;
                    let slopes = mirror.of(-noise * noise / 2.0 - log_std, -u * u / 2.0);
                    let d_u = slopes.d_old * -u + (u - 1.0);
                    d_mu += d_u / 2000.0;
                    d_log_std += (d_u * log_std.exp() * noise - slopes.d_log_prob) / 2000.0;
                }
                mu -= 0.1 * d_mu;
                log_std -= 0.1 * d_log_std;
            }
            close(mu, mean, 1e-3);
            close(log_std.exp(), std, 1e-3);
        }
    }

    /// The standard normal's quantile by bisection of its distribution function, summed as a series.
    fn quantile(p: f64) -> f32 {
        let below = |x: f64| {
            let mut term = x;
            let series: f64 = (1..60)
                .map(|n| {
                    let now = term;
                    term *= x * x / (2 * n + 1) as f64;
                    now
                })
                .sum();
            0.5 + series * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
        };
        let (mut low, mut high) = (-4.5, 4.5);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if below(middle) < p { low = middle } else { high = middle }
        }
        low as f32
    }

    #[test]
    fn tsallis_logarithms_by_hand() {
        for (q, values) in [
            (1.0, [-2.0 * LN_2, -LN_2, 0.0, LN_2]),
            (1.5, [-1.0, -0.585_786_4, 0.0, 0.828_427_1]),
            (2.0, [-0.75, -0.5, 0.0, 1.0]),
        ] {
            for (x, value) in [0.25f32, 0.5, 1.0, 2.0].into_iter().zip(values) {
                let (ln_q, slope) = Q::new(q).ln(x.ln());
                close(ln_q, value, 1e-6);
                close(slope, x.powf(q as f32 - 1.0), 1e-6); // x · x^(q−2)
            }
        }
        for x in [1e-3f32, 0.1, 1.0, 30.0, 1e3] {
            close(Q::new(1.0 + 1e-6).ln(x.ln()).0, x.ln(), 3e-5);
        }
    }

    #[test]
    fn the_objective_is_bregmans_divergence_and_the_entropys_slope() {
        // From p' = (0.7, 0.3) to p = (0.5, 0.5), ψ(p) = Σ p ln_q p with ψ' = q ln_q p + 1: the divergence
        // ψ(p) − ψ(p') − ⟨ψ'(p'), p − p'⟩ and the slope ⟨ψ'(p'), p − p'⟩, which kl_coef and λ weigh. For q = 1, half of
        // ln (5/7) + ln (5/3), and −0.2 ln (7/3); for q = 2, 2 · 0.2² and −0.2 · 2 · 0.4.
        for (q, divergence, slope) in
            [(1.0, 0.087_176_7, -0.169_459_6), (1.5, 0.087_618_5, -0.173_362_5), (2.0, 0.08, -0.16)]
        {
            for (kl_coef, lambda) in [(1.0, 0.0), (0.7, 0.2)] {
                let mirror = mirror(kl_coef, lambda, q);
                let old = [0.7f32, 0.3];
                let expected =
                    |p: [f32; 2]| p.iter().zip(old).map(|(p, old)| p * mirror.of(p.ln(), old.ln()).value).sum::<f32>();
                close(expected([0.5, 0.5]) - expected(old), kl_coef * divergence + lambda * slope, 1e-6);
            }
        }
    }

    #[test]
    fn the_entropys_cost_adds_up_over_components() {
        let mut draws = Draws::new(2, 2);
        draws.log_prob = vec![9.0, 9.0, -1.0, 0.5];
        // 0.2 · (−1 + 0.5), and 0.2 · 2 (e^(−1/2) − 1 + e^(1/4) − 1) for q = 3/2.
        close(mirror(1.0, 0.2, 1.0).entropy_cost(&draws, 1, 2), -0.1, 1e-6);
        close(mirror(1.0, 0.2, 1.5).entropy_cost(&draws, 1, 2), -0.043_777_6, 1e-6);
    }

    #[test]
    fn each_part_moves_by_its_own_step_size() {
        let (mut agent, mut mdpo, batch) = small(|c| (c.common.learning_rate, c.common.q_learning_rate) = (1e-3, 2e-3));
        let parts = |agent: &Agent, mdpo: &MdpoOff| {
            let value = mdpo.value.as_ref().expect("the form with V").params.clone();
            [agent.actor.params.clone(), mdpo.critics().params.clone(), value]
        };
        let before = parts(&agent, &mdpo);
        mdpo.update(&mut agent, &batch).expect("finite numbers");
        // Adam's first step moves whatever has a slope by the step size.
        for ((before, after), rate) in before.iter().zip(parts(&agent, &mdpo)).zip([1e-3, 2e-3, 2e-3]) {
            close(before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max), rate, 1e-6);
        }
    }

    #[test]
    fn rollouts_take_the_most_probable_actions_where_that_is_asked_for() {
        let apart = |deterministic_rollout| {
            let common = OffPolicyConfig { num_steps: 20, learning_starts: 0, utd_ratio: 1e-9, ..common() };
            let config = MdpoOffConfig { common, deterministic_rollout, ..Default::default() };
            let mut mdpo = MdpoOff::learner(config, &setup()).expect("the settings fit");
            mdpo.step().expect("it steps");
            let mut apart = 0.0f32;
            let mut look = |_, played: &crate::evaluate::Played| {
                apart = apart.max((played.action[0] - mdpo.actor().best_action(&played.obs)[0]).abs());
                Ok(true)
            };
            mdpo.replay(&mut look).expect("it remembers");
            apart
        };
        assert!(apart(true) < 1e-5 && apart(false) > 0.1, "{} {}", apart(true), apart(false));
    }

    #[test]
    fn the_regulariser_by_hand() {
        // μ = 2 and ln σ = 0.5, then μ = 0 and a clamped ln σ = 2: 0.1 · (4 + 0.25 + 4)/2, with slopes 0.1 · μ and 0.1 · ln σ.
        let mut draws = Draws::new(2, 1);
        (draws.mean, draws.std, draws.d_log_std) = (vec![2.0, 0.0], vec![0.5f32.exp(), 2f32.exp()], vec![1.0, 0.0]);
        let mut d_output = [1.0; 4];
        close(regularize(&draws, 0.1, 1, &mut d_output) as f32, 0.4125, 1e-6);
        d_output.into_iter().zip([1.2, 1.05, 1.0, 1.0]).for_each(|(a, b)| close(a, b, 1e-6));
    }

    fn setup() -> Setup {
        Setup {
            seed: 1,
            threads: 1,
            device: Default::default(),
            env: EnvConfig::new("Pendulum-v1"),
            envs: Registry::default(),
            dataset: None,
            budget: Budget::EnvSteps(1),
            histograms: false,
        }
    }

    fn common() -> OffPolicyConfig {
        OffPolicyConfig { hidden_sizes: vec![8], activation: Activation::Tanh, batch_size: 6, ..Default::default() }
    }

    /// A small agent on Pendulum and a minibatch; π_k is another policy than the current one.
    fn small(change: impl FnOnce(&mut MdpoOffConfig)) -> (Agent, MdpoOff, ReplayBatch) {
        let mut config =
            MdpoOffConfig { common: common(), kl_coef: 0.7, policy_reg: 0.0, init_scale: 1.0, ..Default::default() };
        change(&mut config);
        let (mut agent, mut mdpo, batch) = MdpoOff::learner(config, &setup()).expect("the settings fit").apart();
        mdpo.old_params.iter_mut().for_each(|p| *p = 0.5 - 0.8 * *p);
        mdpo.soft.draw_noise(&mut agent);
        (agent, mdpo, batch)
    }

    #[test]
    fn the_policys_gradient_is_that_of_its_loss() {
        for (tsallis_q, actor_q, policy_reg) in
            [(1.0, Judge::Min, 0.0), (1.0, Judge::First, 0.3), (1.7, Judge::First, 0.0)]
        {
            let (mut agent, mut mdpo, batch) =
                small(|c| (c.tsallis_q, c.actor_q, c.policy_reg) = (tsallis_q, actor_q, policy_reg));
            mdpo.policy_gradient(&agent, &batch);
            let grad = mdpo.soft.grad.clone();
            let mut loss = |i: usize, by: f32| {
                agent.actor.params[i] += by;
                let losses = mdpo.policy_gradient(&agent, &batch);
                agent.actor.params[i] -= by;
                losses.loss
            };
            for (i, &slope) in grad.iter().enumerate() {
                let difference = ((loss(i, 4e-3) - loss(i, -4e-3)) / 8e-3) as f32;
                close(slope, difference, 4e-3 * slope.abs().max(1.0));
            }
            assert!(grad.iter().any(|slope| slope.abs() > 0.1), "{grad:?}");
        }
    }

    #[test]
    fn with_the_entropys_weight_it_takes_soft_actor_critics_steps() {
        let config = SacConfig { common: common(), alpha: 0.2, auto_alpha: false, ..Default::default() };
        let (mut sac_agent, mut sac, batch) = Sac::learner(config, &setup()).expect("the settings fit").apart();
        let form = |c: &mut MdpoOffConfig| {
            (c.kl_coef, c.lambda, c.critic, c.actor_q) = (0.2, 0.2, CriticForm::TwinTargetQ, Judge::Min);
        };
        let (mut agent, mut mdpo, _) = small(form);
        agent.stream = sac_agent.stream.clone();
        for _ in 0..20 {
            sac.update(&mut sac_agent, &batch).expect("finite numbers");
            mdpo.update(&mut agent, &batch).expect("finite numbers");
            mdpo.soft.grad.iter().zip(sac.actor_grad()).for_each(|(&a, &b)| close(a, b, 1e-6));
        }
        mdpo.soft.critics.params.iter().zip(&sac.critics().params).for_each(|(&a, &b)| close(a, b, 1e-6));
        agent.actor.params.iter().zip(&sac_agent.actor.params).for_each(|(&a, &b)| close(a, b, 1e-6));
    }

    #[test]
    fn after_a_copy_it_differs_from_soft_actor_critic_by_the_score_alone() {
        // Where π_k = π, the gradient with kl_coef less that with λ is (kl_coef − λ) · mean ∇ ln π at fixed actions: noise/σ in μ and
        // noise² − 1 in ln σ, whose expectation is 0.
        let gradient = |kl_coef: f64| {
            let (agent, mut mdpo, batch) = small(|c| c.kl_coef = kl_coef);
            mdpo.old_params.copy_from_slice(&agent.actor.params);
            let losses = mdpo.policy_gradient(&agent, &batch);
            assert!(losses.kl.abs() < 1e-6);
            (agent, mdpo)
        };
        let (agent, mut mdpo) = gradient(0.7);
        let with_kl = mdpo.soft.grad.clone();
        let SoftActorCritic { draws, d_output, .. } = &mut mdpo.soft;
        for (i, d) in d_output.chunks_exact_mut(2).enumerate() {
            (d[0], d[1]) = (draws.noise[i] / draws.std[i] / 6.0, (draws.noise[i].powi(2) - 1.0) / 6.0);
        }
        mdpo.soft.pull_back(&agent);
        let like_sac = gradient(0.2).1.soft.grad;
        for (i, &score) in mdpo.soft.grad.iter().enumerate() {
            close(with_kl[i] - like_sac[i], (0.7 - 0.2) * score, 1e-5);
        }
    }

    #[test]
    fn the_old_policy_changes_at_multiples_of_the_inner_steps_alone() {
        let (mut agent, mut mdpo, batch) = small(|c| c.inner_steps = 3);
        for step in 1..=9 {
            let before = mdpo.old_params.clone();
            mdpo.update(&mut agent, &batch).expect("finite numbers");
            agent.progress.grad_steps += 1;
            if step % 3 == 0 {
                assert_eq!(mdpo.old_params, agent.actor.params);
            } else {
                assert_eq!(mdpo.old_params, before);
                assert_ne!(mdpo.old_params, agent.actor.params);
            }
        }
    }

    #[test]
    fn the_first_policy_is_nearly_the_same_at_all_states() {
        // How far apart its outputs are at two states: the biases fall out, and the weights are 100 times smaller.
        let apart = |init_scale: f64| {
            let (agent, _, _) = small(|c| c.init_scale = init_scale);
            let mut draws = Draws::new(2, 1);
            agent.actor.act(&[300.0, 0.0, 0.0, 0.0, 0.0, -300.0], &mut agent.actor.pass(2), &mut draws, &agent.workers);
            [draws.mean[1] - draws.mean[0], (draws.std[1] / draws.std[0]).ln()]
        };
        for (small, large) in apart(0.01).into_iter().zip(apart(1.0)) {
            close(100.0 * small, large, 1e-3);
            assert!(large.abs() > 0.1, "{large}");
        }
    }

    #[test]
    fn with_v_the_policy_moves_before_the_critics_and_all_from_the_same_parameters() {
        let (mut agent, mut mdpo, batch) = small(|_| ());
        let (actor, stream) = (agent.actor.clone(), agent.stream.clone());
        let critics = mdpo.soft.critics.clone();
        let old_value = mdpo.value.as_ref().map(|v| (v.mlp.clone(), v.target.clone())).expect("the form with V");
        mdpo.update(&mut agent, &batch).expect("finite numbers");
        // The actions at s under the policy before the step.
        let (mut draws, mut rng) = (Draws::new(6, 1), stream);
        draws.draw_noise(&mut rng);
        actor.act(&batch.obs, &mut actor.pass(6), &mut draws, &agent.workers);
        let value = mdpo.value.as_ref().expect("the form with V");
        for i in 0..6 {
            let q = critics.values_of(&batch.obs[3 * i..3 * i + 3], &draws.action[i..=i]);
            close(value.target_value[i], q[0].min(q[1]) - 0.2 * draws.log_prob[i], 1e-5);
            let mut next = [0.0];
            old_value.0.forward_row(
                &old_value.1,
                &batch.next_obs[3 * i..3 * i + 3],
                &mut Default::default(),
                &mut next,
            );
            close(mdpo.soft.target[i], batch.reward[i] + batch.discount[i] * next[0], 1e-5);
        }
    }

    #[test]
    fn a_weight_below_the_entropys_is_warned_of() {
        let warnings = |kl_coef: f64| {
            let common = OffPolicyConfig { num_steps: 1, learning_starts: 0, ..common() };
            let config = MdpoOffConfig { common, kl_coef, ..Default::default() };
            let mut agent = MdpoOff::learner(config, &setup()).expect("the settings fit");
            [agent.step(), agent.step()].map(|report| report.expect("it steps").warnings)
        };
        assert_eq!(warnings(0.2), [Vec::<String>::new(), vec![]]);
        let sentence =
            "`kl_coef = 0.1` is below `lambda = 0.2`: the policy is driven away from its last one, not held near it";
        assert_eq!(warnings(0.1), [vec![sentence.to_string()], vec![]]);
    }
}
