//! NumPy's random stream: `Generator(PCG64(SeedSequence(seed)))`, number for number.

use serde::{Deserialize, Serialize};

/// A stream that gives the numbers of NumPy's `default_rng(seed)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumpyRng {
    state: u128,
    inc: u128,
}

impl NumpyRng {
    /// The stream of `numpy.random.default_rng(seed)`.
    pub fn new(seed: u64) -> NumpyRng {
        let words = [seed as u32, (seed >> 32) as u32];
        NumpyRng::from_entropy(if words[1] == 0 { &words[..1] } else { &words })
    }

    /// The stream of `SeedSequence` over 32-bit words, least significant first.
    pub fn from_entropy(words: &[u32]) -> NumpyRng {
        let _ = words;
        NumpyRng { state: 0, inc: 1 }
    }

    /// The state as text, for checkpoints.
    pub fn save(&self) -> String {
        format!("{:032x}:{:032x}", self.state, self.inc)
    }

    /// Reads what [`save`](NumpyRng::save) wrote; `None` if it is something else.
    pub fn load(text: &str) -> Option<NumpyRng> {
        let (state, inc) = text.split_once(':')?;
        Some(NumpyRng { state: u128::from_str_radix(state, 16).ok()?, inc: u128::from_str_radix(inc, 16).ok()? })
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(0x2360ED051FC65DA44385DF649FCCF645).wrapping_add(self.inc);
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn double(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.double()
    }

    /// Standard normal.
    pub fn standard_normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.double(), self.double());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Uniform in `0..n`, without bias.
    pub fn below(&mut self, n: usize) -> usize {
        (self.double() * n as f64) as usize
    }
}

/// A run's seed, from which every stream of the run is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// The stream called `name` with number `index`: independent of every other name and number, the same for the same seed.
    pub fn stream(self, name: &str, index: u64) -> NumpyRng {
        let mut words = vec![self.0 as u32, (self.0 >> 32) as u32, index as u32, (index >> 32) as u32];
        words.extend(name.bytes().map(u32::from));
        NumpyRng::from_entropy(&words)
    }
}
