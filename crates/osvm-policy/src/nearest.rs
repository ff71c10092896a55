//! Guesses what somebody meant to type.

/// The candidate that `name` is most likely a slip of, if one is near enough to say so.
///
/// Near is at most one edit in three characters (Damerau-Levenshtein, so swapped neighbours are
/// one edit), case ignored. Names over 64 bytes are nobody's slip, and comparing them is slow.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if LONGEST < name.len() {
        return None;
    }
    let lower = name.to_lowercase();
    let allowed = lower.chars().count().div_ceil(3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name() {
        let names = ["memory_mb", "vcpus", "mounts"];
        assert_eq!(nearest("memroy_mb", names), Some("memory_mb"));
        assert_eq!(nearest("VCPU", names), Some("vcpus"));
        assert_eq!(nearest("mount", names), Some("mounts"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("colour", ["memory_mb", "vcpus"]), None);
        assert_eq!(nearest("", ["memory_mb", "a"]), None);
        assert_eq!(nearest(&"v".repeat(65), ["vcpus"]), None);
    }
}
