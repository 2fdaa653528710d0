//! "Did you mean": the nearest of the words that would have been right.

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let scored = candidates.into_iter().filter_map(|candidate| {
        let most = (candidate.chars().count().max(3) / 3).min(4);
        let distance = distance(&lower, &candidate.to_lowercase(), most)?;
        Some((distance, candidate))
    });
    scored.min().map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between the two; `None` when over `most`.
fn distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()]).filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let fields = ["endpointSelector", "ingress", "egress", "ingressDeny"];
        assert_eq!(nearest("ingres", fields), Some("ingress"));
        assert_eq!(nearest("endpointselector", fields), Some("endpointSelector"));
        assert_eq!(nearest("ingess", fields), Some("ingress"));
        assert_eq!(nearest("podSelector", fields), None);
        assert_eq!(nearest("", fields), None);
        assert_eq!(distance("ab", "ba", 1), Some(1));
    }
}
