//! NumPy's random stream: `Generator(PCG64(SeedSequence(seed)))`, number for number.

mod ziggurat;

use serde::{Deserialize, Serialize};

use ziggurat::{FI, KI, WI};

/// A stream that gives the numbers of NumPy's `default_rng(seed)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumpyRng {
    state: u128,
    inc: u128,
    /// The upper half of the last 64 bits drawn for a 32-bit number, which the next 32-bit number takes.
    half: Option<u32>,
}

impl NumpyRng {
    /// The stream of `numpy.random.default_rng(seed)`.
    pub fn new(seed: u64) -> NumpyRng {
        let words = [seed as u32, (seed >> 32) as u32];
        NumpyRng::from_entropy(if words[1] == 0 { &words[..1] } else { &words })
    }

    /// The stream of `SeedSequence` over 32-bit words, least significant first.
    pub fn from_entropy(words: &[u32]) -> NumpyRng {
        let [init_state, init_seq] = seed_sequence(words);
        let mut rng = NumpyRng { state: 0, inc: init_seq << 1 | 1, half: None };
        rng.advance();
        rng.state = rng.state.wrapping_add(init_state);
        rng.advance();
        rng
    }

    /// The state as text, for checkpoints.
    pub fn save(&self) -> String {
        let half = self.half.map(|half| format!(":{half:08x}")).unwrap_or_default();
        format!("{:032x}:{:032x}{half}", self.state, self.inc)
    }

    /// Reads what [`save`](NumpyRng::save) wrote; `None` if it is something else.
    pub fn load(text: &str) -> Option<NumpyRng> {
        let mut parts = text.split(':');
        let state = u128::from_str_radix(parts.next()?, 16).ok()?;
        let inc = u128::from_str_radix(parts.next()?, 16).ok()?;
        let half = parts.next().map(|half| u32::from_str_radix(half, 16)).transpose().ok()?;
        parts.next().is_none().then_some(NumpyRng { state, inc, half })
    }

    /// 64 random bits: PCG XSL-RR 128/64 (O'Neill 2014).
    pub fn next_u64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// 32 random bits; two of them come from one draw of 64, the lower half first.
    pub fn next_u32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let both = self.next_u64();
            self.half = Some((both >> 32) as u32);
            both as u32
        })
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn double(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.double()
    }

    /// Standard normal, by the ziggurat of 256 strips (Marsaglia and Tsang 2000).
    pub fn standard_normal(&mut self) -> f64 {
        loop {
            let bits = self.next_u64();
            let strip = (bits & 0xff) as usize;
            let magnitude = (bits >> 9) & 0x000f_ffff_ffff_ffff;
            let x = magnitude as f64 * WI[strip];
            let x = if bits & 0x100 != 0 { -x } else { x };
            if magnitude < KI[strip] {
                return x;
            }
            if strip == 0 {
                return self.normal_tail((magnitude >> 8) & 1 != 0);
            }
            if (FI[strip - 1] - FI[strip]) * self.double() + FI[strip] < (-0.5 * x * x).exp() {
                return x;
            }
        }
    }

    /// Uniform in `0..n` without bias, equal to `Generator.integers(n)` (64-bit integers): Lemire's method (2019) on 32-bit
    /// numbers up to `n` = 2^32 and on 64-bit numbers beyond. `n` = 1 draws nothing. `n` is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        match n {
            0 | 1 => 0,
            2..=0x1_0000_0000 => loop {
                let product = u64::from(self.next_u32()) * n;
                // Of the low words below n, the first (2^32 mod n) would come up once too often.
                let low = u64::from(product as u32);
                if low >= n || low >= (1 << 32) % n {
                    return (product >> 32) as usize;
                }
            },
            _ => loop {
                let product = u128::from(self.next_u64()) * u128::from(n);
                let low = product as u64;
                if low >= n || low >= n.wrapping_neg() % n {
                    return (product >> 64) as usize;
                }
            },
        }
    }

    fn advance(&mut self) {
        self.state = self.state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(self.inc);
    }

    /// A normal number beyond the last strip (Marsaglia 1964).
    fn normal_tail(&mut self, negative: bool) -> f64 {
        /// Where the tail starts, and its inverse.
        const R: f64 = 3.654152885361009;
        const INV_R: f64 = 0.2736612373297583;
        loop {
            let x = -INV_R * (-self.double()).ln_1p();
            let y = -(-self.double()).ln_1p();
            if y + y > x * x {
                return if negative { -(R + x) } else { R + x };
            }
        }
    }
}

/// `SeedSequence(words).generate_state(4, uint64)` as the two 128-bit numbers that PCG64 starts from.
///
/// O'Neill's `seed_seq_fe` with a pool of four words, as in NumPy.
fn seed_sequence(words: &[u32]) -> [u128; 2] {
    const POOL: usize = 4;
    let mut hash = Hash { constant: 0x43b0_d7e5, multiplier: 0x931e_8875 };
    let mut pool: [u32; POOL] = std::array::from_fn(|i| hash.apply(words.get(i).copied().unwrap_or(0)));
    for source in 0..POOL {
        for target in (0..POOL).filter(|&target| target != source) {
            pool[target] = mix(pool[target], hash.apply(pool[source]));
        }
    }
    for &word in words.iter().skip(POOL) {
        for cell in &mut pool {
            *cell = mix(*cell, hash.apply(word));
        }
    }
    let mut hash = Hash { constant: 0x8b51_f9dd, multiplier: 0x58f3_8ded };
    let words: [u32; 8] = std::array::from_fn(|i| hash.apply(pool[i % POOL]));
    // Low word first inside a u64, high u64 first inside a u128.
    let number = |w: &[u32]| [w[1], w[0], w[3], w[2]].iter().fold(0, |n, &word| n << 32 | u128::from(word));
    [number(&words[..4]), number(&words[4..])]
}

/// The running hash of `SeedSequence`.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn apply(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let word = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    word ^ word >> 16
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

#[cfg(test)]
mod tests {
    use super::*;

    // All expected numbers are NumPy 2.4.6's, `rng = numpy.random.default_rng(seed)`.

    #[test]
    fn seeding_gives_the_state_of_numpy() {
        let rng = NumpyRng::new(42);
        assert_eq!(rng.state, 0xcea4_4f67_9879_8f2a_acbc_7c9d_6886_0ac8);
        assert_eq!(rng.inc, 0xfa50_5436_c9a8_416e_66ca_f2e2_8d25_abff);
    }

    #[test]
    fn entropy_beyond_the_pool_is_mixed_in() {
        // Generator(PCG64(SeedSequence([1, 2, 3, 4, 5, 6]))).bit_generator.random_raw()
        assert_eq!(NumpyRng::from_entropy(&[1, 2, 3, 4, 5, 6]).next_u64(), 0x9f2e_9b7b_6e26_5292);
    }

    #[test]
    fn bits_and_doubles_are_those_of_numpy() {
        let mut rng = NumpyRng::new(42);
        let bits: [u64; 4] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(bits, [0xc621fbcd16d92688, 0x705a5661a791ffc1, 0xdbcd12c26eda1624, 0xb286b60e1600888d]);
        let mut rng = NumpyRng::new(42);
        let doubles: [f64; 4] = std::array::from_fn(|_| rng.double());
        assert_eq!(doubles, [0.7739560485559633, 0.4388784397520523, 0.8585979199113825, 0.6973680290593639]);
        let mut rng = NumpyRng::new((1 << 40) + 7);
        assert_eq!([rng.double(), rng.double()], [0.829812891829413, 0.25530515834910417]);
    }

    #[test]
    fn uniforms_and_normals_are_those_of_numpy() {
        let mut rng = NumpyRng::new(42);
        let uniforms: [f64; 3] = std::array::from_fn(|_| rng.uniform(-0.1, 0.1));
        assert_eq!(uniforms, [0.05479120971119267, -0.012224312049589542, 0.07171958398227649]);
        let normals: [f64; 4] = std::array::from_fn(|_| rng.standard_normal());
        assert_eq!(normals, [0.9405647163912139, -1.9510351886538364, -1.302179506862318, 0.12784040316728537]);
        let mut rng = NumpyRng::new(0);
        let normals: [f64; 4] = std::array::from_fn(|_| rng.standard_normal());
        assert_eq!(normals, [0.1257302210933933, -0.1321048632913019, 0.6404226504432821, 0.10490011715303971]);
    }

    #[test]
    fn a_million_normals_are_those_of_numpy() {
        // h = 0; for v in rng.standard_normal(1_000_000).view(uint64): h = h * 1099511628211 ^ v  (mod 2^64)
        // Among them are 279 from the tail, so every branch of the ziggurat is taken.
        let mut rng = NumpyRng::new(42);
        let hash = (0..1_000_000).fold(0u64, |h, _| h.wrapping_mul(1099511628211) ^ rng.standard_normal().to_bits());
        assert_eq!(hash, 0x22c0_0559_9386_dfab);
        assert_eq!(rng.double(), 0.9123211877332856);
    }

    #[test]
    fn integers_are_those_of_numpy() {
        // [rng.integers(6) for _ in range(12)], rng.integers(2**40), rng.integers(6), rng.random()
        let mut rng = NumpyRng::new(42);
        let dice: [usize; 12] = std::array::from_fn(|_| rng.below(6));
        assert_eq!(dice, [0, 4, 3, 2, 2, 5, 0, 4, 1, 0, 3, 5]);
        assert_eq!((rng.below(1 << 40), rng.below(6), rng.double()), (836881952700, 4, 0.12811363267554587));
    }

    #[test]
    fn a_saved_stream_goes_on_where_it_was() {
        let mut rng = NumpyRng::new(7);
        rng.below(6);
        let mut copy = NumpyRng::load(&rng.save()).expect("what save wrote");
        assert_eq!(copy, rng);
        assert_eq!((copy.below(6), copy.double()), (rng.below(6), rng.double()));
        for text in ["", "1", "1:x", "1:2:3:4"] {
            assert_eq!(NumpyRng::load(text), None, "{text}");
        }
    }

    #[test]
    fn streams_differ_by_name_and_index() {
        let first = |name: &str, index| Seed(1).stream(name, index).next_u64();
        assert_eq!(first("policy", 0), first("policy", 0));
        assert_ne!(first("policy", 0), first("policy", 1));
        assert_ne!(first("policy", 0), first("eval", 0));
    }
}
