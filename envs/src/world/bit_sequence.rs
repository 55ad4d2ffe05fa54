//! Bit sequences (Malkin et al. 2022, arXiv:2201.13259): strings of n bits, rewarded for being near one of a few hidden ones.
//!
//! ln R(x) = −β d(x, M), d the least Hamming distance to a mode, as a part of n unless said otherwise. Words of k bits are
//! appended, or put into any empty place. On unfinished strings the energy counts filled bits alone: exact for one mode, where
//! it adds up, and fluctuating for several.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::{World, WorldConfig, WorldSpec, ln_factorial};
use crate::EnvError;
use crate::rng::NumpyRng;

/// Settings of [`BitSequence`]; sizes after Malkin et al. 2022, rewards after gfnx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct BitSequenceConfig {
    /// n: bits of a finished string.
    pub num_bits: usize,
    /// k: bits of a word, of which one action writes one.
    pub word_bits: usize,
    /// Words are appended from the left; otherwise each goes into any empty place.
    pub autoregressive: bool,
    /// β: how steep rewards are.
    pub beta: f64,
    /// Take the distance as a part of n; otherwise in bits.
    pub relative: bool,
    /// Number of modes drawn, each of blocks of 8 bits; not looked at where `modes` names them.
    pub num_modes: usize,
    /// From which the modes are drawn.
    pub mode_seed: u64,
    /// The modes themselves, as "0110"; drawn where there are none.
    pub modes: Vec<String>,
    /// Bits by which a string may differ from a mode and still count as having found it.
    pub mode_distance: usize,
}

impl Default for BitSequenceConfig {
    fn default() -> BitSequenceConfig {
        BitSequenceConfig {
            num_bits: 120,
            word_bits: 8,
            autoregressive: false,
            beta: 3.0,
            relative: true,
            num_modes: 60,
            mode_seed: 0,
            modes: Vec::new(),
            mode_distance: 30,
        }
    }
}

impl WorldConfig for BitSequenceConfig {
    fn make(self) -> Result<Box<dyn World>, EnvError> {
        Ok(Box::new(BitSequence::new(self)?))
    }
}

/// The blocks that modes are made of (Malkin et al. 2022).
const BLOCKS: [u8; 5] = [0b0000_0000, 0b1111_1111, 0b1111_0000, 0b0000_1111, 0b0011_1100];

/// Bit strings; a state is one word for each place, −1 where it is empty, and how many are filled.
pub struct BitSequence {
    config: BitSequenceConfig,
    /// Words of each mode, `[modes, places]`.
    modes: Vec<i32>,
    places: usize,
    /// β for one bit.
    beta: f64,
    spec: WorldSpec,
}

impl BitSequence {
    /// A world of bit strings.
    ///
    /// # Errors
    /// Sizes that do not divide, modes of another length, or a β that is not finite.
    pub fn new(config: BitSequenceConfig) -> Result<BitSequence, EnvError> {
        let (n, k) = (config.num_bits, config.word_bits);
        let wrong = |message: String| EnvError::World { name: "bit_sequence".into(), message };
        if !(1..=12).contains(&k) || n == 0 || !n.is_multiple_of(k) {
            return Err(wrong(format!(
                "`num_bits = {n}`, `word_bits = {k}`: words of 1 to 12 bits that fill the string"
            )));
        }
        if !config.beta.is_finite() {
            return Err(wrong(format!("`beta = {}`: a finite number, 3 as a rule", config.beta)));
        }
        let (places, words) = (n / k, 1usize << k);
        let modes = mode_bits(&config).map_err(wrong)?;
        let modes =
            modes.chunks_exact(k).map(|bits| bits.iter().fold(0, |word, &bit| word << 1 | i32::from(bit))).collect();
        let power = |base: u64, places: usize| base.checked_pow(places as u32);
        // Prefixes of every length, or every place filled or not.
        let prefixes = || (0..=places).try_fold(0u64, |sum, m| sum.checked_add(power(words as u64, m)?));
        let spec = WorldSpec {
            name: "bit_sequence".into(),
            state_len: places + 1,
            encoding_len: 2 * n,
            num_actions: if config.autoregressive { words } else { places * words },
            num_backward: if config.autoregressive { 1 } else { places },
            exit: None,
            max_len: places,
            num_states: if config.autoregressive { prefixes() } else { power(words as u64 + 1, places) },
            energies: true,
            heavy: false,
        };
        let beta = if config.relative { config.beta / n as f64 } else { config.beta };
        Ok(BitSequence { config, modes, places, beta, spec })
    }

    fn filled(&self, state: &[i32]) -> usize {
        state[self.places] as usize
    }

    /// Bits in which the filled places differ from each mode.
    fn distances<'a>(&'a self, state: &'a [i32]) -> impl Iterator<Item = u32> + 'a {
        self.modes.chunks_exact(self.places).map(|mode| {
            let filled = state.iter().zip(mode).filter(|&(&word, _)| word >= 0);
            filled.map(|(word, mode)| (word ^ mode).count_ones()).sum()
        })
    }

    fn bit(&self, word: i32, i: usize) -> bool {
        word >> (self.config.word_bits - 1 - i) & 1 == 1
    }
}

/// The modes' bits, one mode after the other.
fn mode_bits(config: &BitSequenceConfig) -> Result<Vec<bool>, String> {
    let n = config.num_bits;
    if !config.modes.is_empty() {
        let mut bits = Vec::new();
        for mode in &config.modes {
            if mode.len() != n || !mode.bytes().all(|byte| byte == b'0' || byte == b'1') {
                return Err(format!("`modes` holds \"{mode}\": {n} characters, each 0 or 1"));
            }
            bits.extend(mode.bytes().map(|byte| byte == b'1'));
        }
        return Ok(bits);
    }
    if config.num_modes == 0 || !n.is_multiple_of(8) {
        return Err(format!(
            "`num_modes = {}`, `num_bits = {n}`: at least 1 mode of whole blocks of 8 bits",
            config.num_modes
        ));
    }
    let mut rng = NumpyRng::new(config.mode_seed);
    let mut blocks =
        (0..config.num_modes * n / 8).map(|_| BLOCKS[rng.below(BLOCKS.len())]).collect::<Vec<u8>>().into_iter();
    Ok(blocks.by_ref().flat_map(|block| (0..8).map(move |i| block >> (7 - i) & 1 == 1)).collect())
}

impl World for BitSequence {
    fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    fn initial(&self, state: &mut [i32]) {
        state[..self.places].fill(-1);
        state[self.places] = 0;
    }

    fn is_terminal(&self, state: &[i32]) -> bool {
        self.filled(state) == self.places
    }

    fn actions(&self, state: &[i32], legal: &mut [bool]) {
        if self.config.autoregressive {
            return legal.fill(true);
        }
        for (&word, legal) in state.iter().zip(legal.chunks_exact_mut(1 << self.config.word_bits)) {
            legal.fill(word < 0);
        }
    }

    fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
        match self.config.autoregressive {
            true => legal[0] = self.filled(state) > 0,
            false => legal.iter_mut().zip(state).for_each(|(legal, &word)| *legal = word >= 0),
        }
    }

    fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
        let (place, back) = match self.config.autoregressive {
            true => (self.filled(state), 0),
            false => (action >> self.config.word_bits, action >> self.config.word_bits),
        };
        state[place] = (action & ((1 << self.config.word_bits) - 1)) as i32;
        state[self.places] += 1;
        Some(back)
    }

    fn undo(&self, state: &mut [i32], backward: Option<usize>) -> usize {
        state[self.places] -= 1;
        let place = if self.config.autoregressive { self.filled(state) } else { backward.unwrap_or_default() };
        let word = std::mem::replace(&mut state[place], -1) as usize;
        if self.config.autoregressive { word } else { place << self.config.word_bits | word }
    }

    fn log_reward(&self, state: &[i32]) -> f64 {
        -self.energy(state)
    }

    fn energy(&self, state: &[i32]) -> f64 {
        self.beta * f64::from(self.distances(state).min().unwrap_or(0))
    }

    /// Two numbers for a bit: whether it is 0, whether it is 1; neither where the place is empty.
    fn encode(&self, state: &[i32], row: &mut [f32]) {
        let k = self.config.word_bits;
        for (place, &word) in state[..self.places].iter().enumerate().filter(|&(_, &word)| word >= 0) {
            for i in 0..k {
                row[2 * (place * k + i) + usize::from(self.bit(word, i))] = 1.0;
            }
        }
    }

    fn log_paths(&self, state: &[i32]) -> Option<f64> {
        Some(if self.config.autoregressive { 0.0 } else { ln_factorial(self.filled(state) as u64) })
    }

    /// With one mode every bit is on its own: Z = (1 + e^−β)ⁿ.
    fn log_z(&self) -> Option<f64> {
        (self.modes.len() == self.places).then(|| self.config.num_bits as f64 * (-self.beta).exp().ln_1p())
    }

    /// The nearest mode, if it is near enough.
    fn mode(&self, state: &[i32]) -> Option<u64> {
        let (index, distance) = self.distances(state).enumerate().min_by_key(|&(_, distance)| distance)?;
        (distance as usize <= self.config.mode_distance).then_some(index as u64)
    }

    fn num_modes(&self) -> Option<u64> {
        Some((self.modes.len() / self.places) as u64)
    }

    /// For every mode and every count from 0 to n − 1, the mode with that many random bits flipped.
    fn test_set(&self) -> Vec<i32> {
        let (n, k) = (self.config.num_bits, self.config.word_bits);
        let mut rng = NumpyRng::new(self.config.mode_seed.wrapping_add(1));
        let mut all = Vec::new();
        for mode in self.modes.chunks_exact(self.places) {
            for flips in 0..n {
                let start = all.len();
                all.extend_from_slice(mode);
                all.push(self.places as i32);
                let mut bits: Vec<usize> = (0..n).collect();
                for i in 0..flips {
                    bits.swap(i, i + rng.below(n - i));
                    all[start + bits[i] / k] ^= 1 << (bits[i] % k);
                }
            }
        }
        all
    }

    fn describe(&self, state: &[i32]) -> String {
        let k = self.config.word_bits;
        let words = state[..self.places].iter();
        words.map(|&word| if word < 0 { "_".repeat(k) } else { format!("{word:0k$b}") }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::check_world;

    fn four(modes: &[&str], autoregressive: bool) -> BitSequence {
        let modes = modes.iter().map(|mode| mode.to_string()).collect();
        let config = BitSequenceConfig {
            num_bits: 4,
            word_bits: 2,
            autoregressive,
            beta: 1.0,
            relative: false,
            modes,
            ..Default::default()
        };
        BitSequence::new(config).expect("a world")
    }

    #[test]
    fn one_mode_has_a_closed_form_and_two_are_summed_by_hand() {
        assert!((four(&["0110"], true).log_z().expect("one mode").exp() - 3.5009933765).abs() < 1e-9);
        let world = four(&["0000", "1111"], false);
        let z: f64 = (0..16).map(|x| world.log_reward(&[x >> 2, x & 3, 2]).exp()).sum();
        assert!((z - 5.7550472288).abs() < 1e-9, "{z}");
        assert_eq!(world.log_z(), None);
    }

    #[test]
    fn a_relative_distance_is_a_part_of_the_bits_and_a_mode_is_found_at_its_distance() {
        let modes = ["0000", "1111"].map(String::from).into();
        let config = BitSequenceConfig {
            num_bits: 4,
            word_bits: 2,
            beta: 3.0,
            relative: true,
            modes,
            mode_distance: 1,
            ..Default::default()
        };
        let world = BitSequence::new(config).expect("a world");
        // 0001 differs from 0000 in one bit of four, 0011 from both modes in two.
        assert_eq!((world.log_reward(&[0, 1, 2]), world.mode(&[0, 1, 2])), (-0.75, Some(0)));
        assert_eq!((world.log_reward(&[0, 3, 2]), world.mode(&[0, 3, 2])), (-1.5, None));
    }

    #[test]
    fn states_are_counted_as_far_as_64_bits_go() {
        // 1 + 4 + 16 prefixes; 5 contents of two places.
        assert_eq!(four(&["0110"], true).spec().num_states, Some(21));
        assert_eq!(four(&["0110"], false).spec().num_states, Some(25));
        let long = |num_bits: usize| {
            let modes = vec!["0".repeat(num_bits)];
            let config =
                BitSequenceConfig { num_bits, word_bits: 1, autoregressive: true, modes, ..Default::default() };
            BitSequence::new(config).expect("a world").spec().num_states
        };
        assert_eq!((long(63), long(64)), (Some(u64::MAX), None));
    }

    #[test]
    fn unfinished_strings_are_judged_by_what_is_filled() {
        let world = four(&["0110"], false);
        assert_eq!(world.energy(&[-1, 3, 1]), 1.0);
        assert_eq!(world.energy(&[-1, -1, 0]), 0.0);
        assert_eq!(world.describe(&[-1, 2, 1]), "__10");
    }

    #[test]
    fn masks_inverses_and_rewards_are_consistent() {
        for autoregressive in [true, false] {
            check_world(&four(&["0110", "1111"], autoregressive), 30, 1).expect("a sound world");
            let config = BitSequenceConfig { autoregressive, ..Default::default() };
            check_world(&BitSequence::new(config).expect("a world"), 1, 1).expect("a sound world");
        }
    }

    #[test]
    fn the_test_set_has_every_distance_from_every_mode() {
        let world = BitSequence::new(BitSequenceConfig::default()).expect("a world");
        let test = world.test_set();
        assert_eq!(test.len(), 60 * 120 * 16);
        // Whole blocks of 8 bits make the first of each mode a mode itself.
        assert_eq!(world.log_reward(&test[..16]), 0.0);
        let far = world.modes[..15].iter().zip(&test[100 * 16..]).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        assert_eq!(far, 100);
    }

    #[test]
    fn modes_of_another_length_are_refused() {
        let config = BitSequenceConfig { num_bits: 8, modes: vec!["011".into()], ..Default::default() };
        let said = BitSequence::new(config).map(|_| ()).expect_err("refused").to_string();
        assert_eq!(said, "world `bit_sequence`: `modes` holds \"011\": 8 characters, each 0 or 1");
    }
}
