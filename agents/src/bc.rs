//! Behaviour cloning, and 10 % BC (Chen et al. 2021, arXiv:2106.01345): the floor that an offline score is read against.
//!
//! One update moves a deterministic policy towards the dataset's actions in the mean square. With `keep_best` = 0.1 it sees
//! the best tenth of the episodes alone.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::box_policy::{BoxPolicy, BoxPolicyPass, BoxPolicyShape};
use crate::check;
use crate::dataset::{Batch, Dataset};
use crate::learner::{LearnError, Learner, Setup, Snapshot};
use crate::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate};
use crate::optim::Adam;
use crate::registry::{AgentConfig, AgentEntry, Part};

/// Settings of [`Bc`]; network, step size and normalisation as in CORL, which clones the best tenth unless told otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct BcConfig {
    /// What offline agents share.
    #[serde(flatten)]
    pub common: OfflineConfig,
    /// The share of the episodes, by return, that is learned from: 0.1 is 10 % BC.
    pub keep_best: f64,
    /// Widths of the policy's hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Adam's step size.
    pub learning_rate: f64,
}

impl Default for BcConfig {
    fn default() -> BcConfig {
        let common = OfflineConfig { normalize_obs: true, ..Default::default() };
        BcConfig { common, keep_best: 1.0, hidden_sizes: vec![256, 256], learning_rate: 3e-4 }
    }
}

/// BC's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<BcConfig>(
    "bc",
    "behaviour cloning, offline: the dataset's actions, of all episodes or of the best",
    &[
        (
            "train/squared_error",
            "squared distance of the policy to the dataset's actions, mean over rows, components and updates",
        ),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.offline();

impl AgentConfig for BcConfig {
    const PARTS: &'static [Part] = &[Part::of::<OfflineConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::rule(self.keep_best > 0.0 && self.keep_best <= 1.0, "keep_best", self.keep_best, "in (0, 1]")?;
        check::widths("hidden_sizes", &self.hidden_sizes)?;
        check::positive("learning_rate", self.learning_rate, "3e-4")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Bc::learner(self, setup)?))
    }
}

/// Behaviour cloning.
pub struct Bc {
    config: BcConfig,
    optimizer: Adam,
    pass: BoxPolicyPass,
    grad: Vec<f32>,
    d_mean: Vec<f32>,
}

impl Bc {
    /// A fresh agent; the data are read by [`prepare`](Learner::prepare).
    ///
    /// # Errors
    /// Settings out of range, no dataset, an environment that does not suit.
    pub fn learner(config: BcConfig, setup: &Setup) -> Result<Offline<Bc>, LearnError> {
        config.validate()?;
        let (common, hidden_sizes) = (config.common.clone(), config.hidden_sizes.clone());
        let (precision, device) = (common.precision, setup.device);
        let shape = BoxPolicyShape { hidden_sizes: &hidden_sizes, squash: true, stochastic: false, precision, device };
        Offline::new(common, &shape, setup, |_, policy: &BoxPolicy, _, _| Bc {
            optimizer: Adam::new(policy.params.len(), 1e-8),
            pass: policy.pass(config.common.batch_size),
            grad: vec![0.0; policy.params.len()],
            d_mean: Vec::new(),
            config,
        })
    }
}

impl OfflineUpdate for Bc {
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError> {
        let Bc { config, optimizer, pass, grad, d_mean } = self;
        let (policy, workers) = (&agent.policy, &agent.workers);
        let mean = policy.means(&policy.params, &batch.obs, pass, workers);
        let loss = agent.finite("the squared error", policy.squared_loss(mean, &batch.action, d_mean))?;
        policy.backward(d_mean, &[], pass, grad, workers);
        optimizer.step(&mut agent.policy.params, grad, config.learning_rate);
        means.add("train/squared_error", loss);
        Ok(())
    }

    fn rows(&self, data: &Dataset) -> Option<Vec<u32>> {
        (self.config.keep_best < 1.0).then(|| data.best_rows(self.config.keep_best))
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.optimizer.save("adam", snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.optimizer.load("adam", snapshot)
    }
}
