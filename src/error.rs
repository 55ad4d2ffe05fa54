//! Errors that are the caller's to mend.

/// Something in a run file, an argument or a run directory is wrong; the program ends with exit code 2.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// Fails with [`BadInput`].
macro_rules! bad_input {
    ($($argument:tt)*) => {
        return Err($crate::BadInput(format!($($argument)*)).into())
    };
}
pub(crate) use bad_input;

/// The candidate most like `word`, if any is like it at all.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let like = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    let best = candidates.into_iter().max_by(|a, b| like(a).total_cmp(&like(b)))?;
    (like(best) > 0.69).then_some(best)
}
