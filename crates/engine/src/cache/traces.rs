//! What caches are asked for: keys by number, made by seeds. For the test of hit ratios and for `cache_bench`.

/// How large a trace is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// So many pairs the cache has room for.
    pub(crate) capacity: usize,
    pub(crate) request_count: usize,
    /// Different keys of the traces that follow Zipf's law.
    pub(crate) zipf_key_count: usize,
}

/// Keys that are asked for, one after the other. The same at every run.
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    pub(crate) keys: fn(Size) -> Vec<u64>,
}

pub(crate) const TRACES: [Trace; 8] = [
    Trace { name: "zipf 0.8", keys: |size| zipf_trace(size, 0.8) },
    Trace { name: "zipf 1.0", keys: |size| zipf_trace(size, 1.0) },
    Trace { name: "zipf 1.2", keys: |size| zipf_trace(size, 1.2) },
    Trace { name: "loop of 1.2x", keys: loop_trace },
    Trace { name: "scans", keys: scans_trace },
    Trace { name: "shifting", keys: shifting_trace },
    Trace { name: "mixed", keys: mixed_trace },
    Trace { name: "recency", keys: recency_trace },
];

/// Numbers from here on come once.
const FRESH: u64 = 1 << 40;

fn zipf_trace(size: Size, exponent: f64) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(size, exponent), Random(42));
    (0..size.request_count).map(|_| scramble(zipf.rank(&mut random))).collect()
}

fn loop_trace(size: Size) -> Vec<u64> {
    (0..size.request_count).map(|at| (at % (size.capacity * 6 / 5)) as u64).collect()
}

/// Zipf 1.0; after each two capacities of requests, as many keys as there is room for that never come again.
fn scans_trace(size: Size) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(size, 1.0), Random(43));
    let key = |at: usize| if at % (3 * size.capacity) < 2 * size.capacity { zipf.rank(&mut random) } else { FRESH + at as u64 };
    (0..size.request_count).map(key).map(scramble).collect()
}

/// Zipf 1.0, of which the hottest tenth of the keys are others ten times over.
fn shifting_trace(size: Size) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(size, 1.0), Random(44));
    let hot_count = size.zipf_key_count as u64 / 10;
    let key = |at: usize| match zipf.rank(&mut random) {
        hot if hot < hot_count => hot + FRESH * (1 + 10 * at as u64 / size.request_count as u64),
        cold => cold,
    };
    (0..size.request_count).map(key).map(scramble).collect()
}

/// A third each: Zipf 0.9, a loop of 1.2 capacities, keys that come again soon or never.
fn mixed_trace(size: Size) -> Vec<u64> {
    let (zipf, mut random, mut lately) = (Zipf::new(size, 0.9), Random(45), Lately::new(size.capacity / 4));
    let mut at = 0;
    let key = |_| match random.below(3) {
        0 => zipf.rank(&mut random),
        1 => {
            at += 1;
            2 * FRESH + at % (size.capacity as u64 * 6 / 5)
        }
        _ => lately.key(&mut random),
    };
    (0..size.request_count).map(key).map(scramble).collect()
}

/// Keys that come again soon or never: what an LRU is best at.
fn recency_trace(size: Size) -> Vec<u64> {
    let (mut random, mut lately) = (Random(46), Lately::new(size.capacity / 2));
    (0..size.request_count).map(|_| scramble(lately.key(&mut random))).collect()
}

/// Half of the keys are new, half are among the last so many new ones.
struct Lately {
    memory_len: usize,
    new_count: u64,
}

impl Lately {
    fn new(memory_len: usize) -> Self {
        Self { memory_len, new_count: 0 }
    }

    fn key(&mut self, random: &mut Random) -> u64 {
        if self.new_count > 0 && random.below(2) == 0 {
            return FRESH + self.new_count - random.below(self.new_count.min(self.memory_len as u64));
        }
        self.new_count += 1;
        FRESH + self.new_count
    }
}

/// Ranks from 0: the n-th comes in proportion to 1 / n^exponent.
struct Zipf {
    shares: Vec<f64>,
}

impl Zipf {
    fn new(size: Size, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = Vec::with_capacity(size.zipf_key_count);
        for rank in 1..=size.zipf_key_count {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        Self { shares: sums.into_iter().map(|part| part / sum).collect() }
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let at = random.share();
        self.shares.partition_point(|share| *share < at) as u64
    }
}

/// Xorshift: the same numbers at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        scramble(self.0)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Another number for each, without pattern.
pub(crate) fn scramble(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
