//! What can go wrong with an environment.

/// Failures of environments; every message is one sentence that names what was wrong and what would do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnvError {
    /// No environment has this id.
    #[error("no environment is called `{id}`{hint}")]
    Unknown {
        /// The id asked for.
        id: String,
        /// `; did you mean …?`, or where to look; starts with its own punctuation.
        hint: String,
    },
    /// A constructor argument or a setting does not fit.
    #[error("environment `{id}`: {message}")]
    Invalid {
        /// The environment's id.
        id: String,
        /// What is wrong and what would do.
        message: String,
    },
    /// A space that no agent here can use, such as images.
    #[error("environment `{id}` has {space}, which is not supported: {remedy}")]
    UnsupportedSpace {
        /// The environment's id.
        id: String,
        /// The space, in words.
        space: String,
        /// What would do.
        remedy: String,
    },
    /// Python raised while an environment was made, reset or stepped.
    #[error("environment `{id}`, {place}: Python raised {exception}\n{traceback}")]
    Python {
        /// The environment's id.
        id: String,
        /// Where: `while it was made`, or lane, episode and step.
        place: String,
        /// Exception type and message.
        exception: String,
        /// Python's traceback.
        traceback: String,
    },
    /// Python itself, or a module, is missing.
    #[error("{0}")]
    PythonMissing(String),
    /// An observation or reward is NaN or infinite.
    #[error("environment {lane}: {what} is {value} in episode {episode} at step {step}")]
    NonFinite {
        /// Index of the environment.
        lane: usize,
        /// Its episode, counted from 0.
        episode: u64,
        /// The step in the episode, counted from 1; 0 is the reset.
        step: u32,
        /// `reward`, or `observation[i]`.
        what: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// A world's setting does not fit, or a world contradicts itself.
    #[error("world `{name}`: {message}")]
    World {
        /// The world's name.
        name: String,
        /// What is wrong and what would do.
        message: String,
    },
    /// A saved state does not belong to this environment.
    #[error("environment `{id}`: the saved state does not fit: {message}")]
    State {
        /// The environment's id.
        id: String,
        /// What differs.
        message: String,
    },
}
