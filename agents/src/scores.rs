//! Normalised scores: 0 is a random policy's return, 100 an expert's.
//!
//! D4RL's constants (Fu et al. 2020; `d4rl/infos.py`) were measured on the environments of the time. On Gymnasium's v5 a random
//! policy earns something else, so that a score by these constants says which they are and not what a random policy is.

/// Returns that count as 0 and 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// Of a random policy.
    pub random: f64,
    /// Of an expert.
    pub expert: f64,
}

impl Reference {
    /// 100 (return − random) / (expert − random). The mean of scores is the score of the mean.
    pub fn score(&self, reward: f64) -> f64 {
        100.0 * (reward - self.random) / (self.expert - self.random)
    }
}

/// D4RL's constants by what its datasets' names begin with; the longest that fits counts.
const D4RL: [(&str, f64, f64); 23] = [
    ("halfcheetah", -280.178953, 12135.0),
    ("hopper", -20.272305, 3234.3),
    ("walker2d", 1.629008, 4592.3),
    ("ant", -325.6, 3879.7),
    ("antmaze", 0.0, 1.0),
    ("kitchen", 0.0, 4.0),
    ("pen", 96.262799, 3076.8331017826877),
    ("hammer", -274.856578, 12794.134825156867),
    ("relocate", -6.425911, 4233.877797728884),
    ("door", -56.512833, 2880.5693087298737),
    ("maze2d-open", 0.01, 20.66),
    ("maze2d-umaze", 23.85, 161.86),
    ("maze2d-medium", 13.13, 277.39),
    ("maze2d-large", 6.7, 273.99),
    ("maze2d-open-dense", 11.17817, 27.166538620695782),
    ("maze2d-umaze-dense", 68.537689, 193.66285642381482),
    ("maze2d-medium-dense", 44.264742, 297.4552547777125),
    ("maze2d-large-dense", 30.569041, 303.4857382709002),
    ("minigrid-fourrooms", 0.01442, 2.89685),
    ("adroithandpen", 96.262799, 3076.8331017826877),
    ("adroithanddoor", -56.512833, 2880.5693087298737),
    ("adroithandhammer", -274.856578, 12794.134825156867),
    ("adroithandrelocate", -6.425911, 4233.877797728884),
];

/// D4RL's constants for one of its datasets, `hopper-medium-v2`, or for an environment, `Hopper-v5`; whatever its version.
pub fn d4rl(name: &str) -> Option<Reference> {
    let name = name.to_lowercase();
    // `hopper` fits `hopper-medium-v2` and not `hopperlike`; `ant` does not fit `antmaze-umaze-v2`.
    let fits = |start: &str| name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let (_, random, expert) =
        D4RL.into_iter().filter(|(start, ..)| fits(start)).max_by_key(|(start, ..)| start.len())?;
    Some(Reference { random, expert })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_add_up_as_those_of_d4rls_file_do() {
        // With the four of the hand twice, by their names of v0 and of Gymnasium-Robotics.
        let sum = |f: &dyn Fn(&(&str, f64, f64)) -> f64| D4RL.iter().map(f).sum::<f64>();
        let sums = (sum(&|(_, random, _)| *random), sum(&|(_, _, expert)| *expert));
        assert!((sums.0 + 909.233234).abs() < 1e-6 && (sums.1 - 71375.697305).abs() < 1e-6, "{sums:?}");
    }

    #[test]
    fn a_return_of_1000_by_d4rls_constants() {
        let expected = [
            ("hopper-medium-v2", 31.348890),
            ("HalfCheetah-v5", 10.311402),
            ("walker2d-random-v0", 21.747823),
            ("Ant-v5", 31.522127),
            ("pen-human-v1", 30.320949),
            ("hammer-cloned-v0", 9.754820),
            ("relocate-expert-v1", 23.734760),
            ("door-human-v0", 35.971511),
        ];
        for (name, score) in expected {
            let found = d4rl(name).expect("it is known").score(1000.0);
            assert!((found - score).abs() < 1e-6, "{name}: {found}");
        }
        let cheetah = d4rl("halfcheetah-expert-v2").expect("it is known");
        assert!((cheetah.score(5000.0) - 42.530027).abs() < 1e-6);
    }

    #[test]
    fn names_are_told_apart() {
        let expert = |name: &str| d4rl(name).map(|reference| reference.expert);
        assert_eq!(expert("antmaze-large-diverse-v2"), Some(1.0));
        assert_eq!(expert("ant-medium-v2"), Some(3879.7));
        assert_eq!(expert("maze2d-umaze-v1"), Some(161.86));
        assert_eq!(expert("maze2d-umaze-dense-v1"), Some(193.66285642381482));
        assert_eq!(expert("AdroitHandHammer-v1"), expert("hammer-human-v1"));
        assert_eq!(expert("AdroitHandRelocate-v1"), expert("relocate-human-v1"));
        assert_eq!(expert("Humanoid-v5"), None);
        assert_eq!(expert("hopperlike-v1"), None);
    }
}
