//! Slots of a service whose flows go by chance: every backend as often as its weight.

/// Above this many slots, weights are rounded.
const MOST: usize = 4096;

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many slots each gets.
fn shares(weights: &[u16]) -> Vec<usize> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(usize::from(*weight), divisor)).max(1);
    let reduced: Vec<usize> = weights.iter().map(|weight| usize::from(*weight) / divisor).collect();
    let total: usize = reduced.iter().sum();
    if total <= MOST {
        return reduced;
    }
    let mut shares: Vec<usize> = reduced.iter().map(|weight| (weight * MOST / total).max(1)).collect();
    let left = MOST.saturating_sub(shares.iter().sum());
    // The largest remainder first; of equal ones the first backend. Who got one for nothing gets no other.
    let mut order: Vec<usize> = (0..reduced.len()).filter(|at| reduced[*at] * MOST >= total).collect();
    order.sort_by_key(|at| std::cmp::Reverse(reduced[*at] * MOST % total));
    order.into_iter().take(left).for_each(|at| shares[at] += 1);
    shares
}

/// `backends` with their weights, sorted by address and port; no weight is 0.
pub(super) fn slots(backends: &[(u32, u16)]) -> Vec<u32> {
    let weights: Vec<u16> = backends.iter().map(|(_, weight)| *weight).collect();
    let shares = shares(&weights).into_iter().zip(backends);
    shares.flat_map(|(share, (number, _))| std::iter::repeat_n(*number, share)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_weights_are_exact() {
        assert!(slots(&[]).is_empty());
        assert_eq!(slots(&[(7, 100), (8, 100)]), [7, 8]);
        assert_eq!(slots(&[(7, 20), (8, 10), (9, 30)]), [7, 7, 8, 9, 9, 9]);
        assert_eq!(shares(&[4095, 1]), [4095, 1]);
        assert_eq!(shares(&[65535, 1]), [4095, 1]);
        assert_eq!(slots(&[(1, 1); 5000]).len(), 5000);
    }

    proptest! {
        #[test]
        fn shares_are_those_of_the_weights(weights in proptest::collection::vec(1u16.., 1..200)) {
            let shares = shares(&weights);
            let (total, of): (usize, f64) = (shares.iter().sum(), weights.iter().map(|weight| f64::from(*weight)).sum());
            prop_assert!(total <= MOST + weights.len());
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!(*share >= 1);
                let fair = f64::from(*weight) / of * total as f64;
                // A backend has whole slots: what is said of shares holds beyond one of them.
                prop_assert!((*share as f64 - fair).abs() <= 1.0 + fair * 0.05, "{share} for {fair}");
            }
        }
    }
}
