//! The exact upper bound of a rate of which some hits in some trials were seen.

/// What a bound may be wrong by: one-sided 95 %.
const ERROR: f64 = 0.05;

/// Clopper and Pearson's one-sided 95 % upper bound: the rate at which no more than `hits` in `trials` would have
/// been seen in one of 20 measurements. No trial says nothing: 1.
pub fn upper_bound(hits: u64, trials: u64) -> f64 {
    if hits >= trials {
        return 1.0;
    }
    if hits == 0 {
        // (1 - p)^n = 0.05; about 3 / n, the "rule of three".
        return -(ERROR.ln() / trials as f64).exp_m1();
    }
    // P(at most k of n at rate p) = 1 - I_p(k + 1, n - k), and I rises with p.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if incomplete_beta(hits as f64 + 1.0, (trials - hits) as f64, middle) < 1.0 - ERROR {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The regularised incomplete beta function, by its continued fraction (Abramowitz and Stegun, 26.5.8), which
/// converges fast on the side of the mean that the symmetry chooses.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * continued_fraction(a, b, x) / a
    } else {
        1.0 - front * continued_fraction(b, a, 1.0 - x) / b
    }
}

/// Lentz's method.
fn continued_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut product = d;
    for step in 1..100_000 {
        let m = f64::from(step);
        for term in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            product *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    product
}

/// The logarithm of the gamma function for arguments of 1 and more: Stirling's series, after the recurrence has
/// brought the argument to 10.
fn log_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series + shift
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(at most k of n at rate p), summed term by term.
    fn at_most(k: u64, n: u64, p: f64) -> f64 {
        let (mut term, mut sum) = ((1.0 - p).powi(n as i32), 0.0);
        for i in 0..=k {
            sum += term;
            term *= (n - i) as f64 / (i + 1) as f64 * p / (1.0 - p);
        }
        sum
    }

    #[test]
    fn the_bound_is_where_the_sum_of_the_binomial_says() {
        for n in [4_u64, 5, 20, 100, 700] {
            for k in [0, 1, 2, n / 3] {
                let bound = upper_bound(k, n);
                assert!((at_most(k, n, bound) - ERROR).abs() < 1e-9, "{k} of {n}: {bound}");
            }
        }
    }

    /// One-sided 95 % limits of the Poisson distribution (Garwood 1936): 2.996, 4.744, 6.296, 16.96
    #[test]
    fn for_many_trials_it_is_that_of_the_poisson_distribution() {
        let n = 1_000_000_000;
        for (hits, limit) in [(0, 2.995_732), (1, 4.743_865), (2, 6.295_794), (10, 16.962_22)] {
            let found = upper_bound(hits, n) * n as f64;
            assert!((found - limit).abs() < 1e-4, "{hits}: {found}");
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!((upper_bound(0, 0), upper_bound(9, 9)), (1.0, 1.0));
        assert!((upper_bound(0, 1) - 0.95).abs() < 1e-12);
        // All but one: P(not all) = 1 - p^n.
        assert!((upper_bound(99, 100) - 0.95_f64.powf(0.01)).abs() < 1e-9);
        let half = upper_bound(500_000_000, 1_000_000_000);
        assert!((0.5..0.500_1).contains(&half));
    }
}
