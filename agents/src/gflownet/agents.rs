//! The agents: one learner by the name of each objective.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::learner::{Gflownet, LogZ, METRICS};
use super::objective::Objective;
use super::sampler::BackwardPolicy;
use super::settings::GflownetConfig;
use super::soft_dqn::SoftDqnConfig;
use crate::check;
use crate::learner::{LearnError, Learner, Setup};
use crate::optional;
use crate::registry::{AgentConfig, AgentEntry, Part};

/// What the terminal shows.
const CONSOLE: &[&str] = &["train/loss", "train/log_z", "eval/log_z_error", "eval/l1"];

/// The agents' lines in the registry.
pub const ENTRIES: [AgentEntry; 7] = [
    AgentEntry::of::<DbConfig>("db", "GFlowNet by detailed balance, forward-looking or not", METRICS).console(CONSOLE),
    AgentEntry::of::<FmConfig>("fm", "GFlowNet by flow matching", METRICS).console(CONSOLE),
    AgentEntry::of::<MdbConfig>("mdb", "GFlowNet by detailed balance where every state may stop", METRICS)
        .console(CONSOLE),
    AgentEntry::of::<SoftDqnConfig>("soft_dqn", "GFlowNet by soft or Munchausen Q-learning", METRICS).console(CONSOLE),
    AgentEntry::of::<SubtbConfig>("subtb", "GFlowNet by sub-trajectory balance, forward-looking or not", METRICS)
        .console(CONSOLE),
    AgentEntry::of::<TbConfig>("tb", "GFlowNet by trajectory balance", METRICS).console(CONSOLE),
    AgentEntry::of::<VargradConfig>("vargrad", "GFlowNet by the variance of the log-partition estimate", METRICS)
        .console(CONSOLE),
];

/// Settings of trajectory balance (Malkin et al. 2022, arXiv:2201.13259).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct TbConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
    /// Adam's step size for ln Z, which moves by about that much a step.
    pub log_z_learning_rate: f64,
    /// Where ln Z starts; "none" takes the first batch's mean of ln R + ln P_B − ln P_F.
    #[serde(with = "optional")]
    pub log_z_init: Option<f64>,
}

impl Default for TbConfig {
    fn default() -> TbConfig {
        TbConfig { common: GflownetConfig::default(), log_z_learning_rate: 0.1, log_z_init: None }
    }
}

impl AgentConfig for TbConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        check::positive("log_z_learning_rate", self.log_z_learning_rate, "0.1")?;
        check::finite("log_z_init", self.log_z_init.unwrap_or_default(), "0")?;
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let log_z = LogZ { learning_rate: self.log_z_learning_rate, init: self.log_z_init };
        Ok(Box::new(Gflownet::new(self.common, Objective::TrajectoryBalance, log_z, setup)?))
    }
}

/// Settings of detailed balance (Bengio et al. 2021, arXiv:2111.09266; forward-looking: Pan et al. 2023, arXiv:2302.01687).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct DbConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
    /// Learn flows relative to exp(−energy) of unfinished objects.
    pub forward_looking: bool,
}

impl AgentConfig for DbConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let objective = Objective::DetailedBalance { forward_looking: self.forward_looking };
        Ok(Box::new(Gflownet::new(self.common, objective, LogZ::default(), setup)?))
    }
}

/// Settings of sub-trajectory balance (Madan et al. 2023, arXiv:2209.12782; forward-looking: Pan et al. 2023).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct SubtbConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
    /// λ: a stretch of n transitions weighs λⁿ. Small is detailed balance, large is trajectory balance.
    pub lambda: f64,
    /// Learn flows relative to exp(−energy) of unfinished objects.
    pub forward_looking: bool,
}

impl Default for SubtbConfig {
    fn default() -> SubtbConfig {
        SubtbConfig { common: GflownetConfig::default(), lambda: 0.9, forward_looking: false }
    }
}

impl AgentConfig for SubtbConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        check::positive("lambda", self.lambda, "0.9")?;
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        let (lambda, forward_looking) = (self.lambda, self.forward_looking);
        let objective = Objective::SubTrajectoryBalance { lambda, forward_looking };
        Ok(Box::new(Gflownet::new(self.common, objective, LogZ::default(), setup)?))
    }
}

/// Settings of the log-partition variance (Zhang et al. 2023, arXiv:2302.05446).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct VargradConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
}

impl AgentConfig for VargradConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Gflownet::new(self.common, Objective::LogPartitionVariance, LogZ::default(), setup)?))
    }
}

/// Settings of modified detailed balance (Deleu et al. 2022, arXiv:2202.13903).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct MdbConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
}

impl AgentConfig for MdbConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Gflownet::new(self.common, Objective::ModifiedDetailedBalance, LogZ::default(), setup)?))
    }
}

/// Settings of flow matching (Bengio et al. 2021, arXiv:2106.04399). The forward logits are log edge flows; there is no backward
/// policy, and where paths are drawn backwards they are drawn uniformly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct FmConfig {
    /// What GFlowNets share.
    #[serde(flatten)]
    pub common: GflownetConfig,
}

impl Default for FmConfig {
    fn default() -> FmConfig {
        FmConfig { common: GflownetConfig { backward_policy: BackwardPolicy::Uniform, ..Default::default() } }
    }
}

impl AgentConfig for FmConfig {
    const PARTS: &'static [Part] = &[Part::of::<GflownetConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        let rule = "flow matching learns no backward policy: `uniform`";
        let policy = self.common.backward_policy;
        let said = serde_json::to_value(policy).unwrap_or_default();
        let said = said.as_str().unwrap_or_default();
        check::rule(policy == BackwardPolicy::Uniform, "backward_policy", said, rule)?;
        self.common.validate()
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Gflownet::new(self.common, Objective::FlowMatching, LogZ::default(), setup)?))
    }
}
