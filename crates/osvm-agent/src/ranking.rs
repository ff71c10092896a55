//! Which texts fit some words best: BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
//! Framework: BM25 and Beyond", 2009), with its usual constants.

use std::collections::{BTreeSet, HashMap};

/// How fast a word that is repeated stops to count.
const K1: f64 = 1.2;
/// How much a long text is held against it.
const B: f64 = 0.75;

/// Texts that can be searched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranking {
    texts: Vec<HashMap<String, u32>>,
    lengths: Vec<f64>,
    /// In how many texts a word is.
    in_texts: HashMap<String, u32>,
}

impl Ranking {
    pub(crate) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ranking = Self::default();
        for text in texts {
            let mut words = HashMap::new();
            let mut length = 0_u32;
            for word in words_of(text) {
                *words.entry(word).or_insert(0) += 1;
                length += 1;
            }
            for word in words.keys() {
                *ranking.in_texts.entry(word.clone()).or_insert(0) += 1;
            }
            ranking.texts.push(words);
            ranking.lengths.push(f64::from(length));
        }
        ranking
    }

    /// The texts that fit, best first, each with its score. Equal ones keep their order.
    pub(crate) fn search(&self, query: &str) -> Vec<(usize, f64)> {
        let query: BTreeSet<String> = words_of(query).collect();
        let count = self.texts.len() as f64;
        let average = self.lengths.iter().sum::<f64>() / count.max(1.0);
        let mut found: Vec<(usize, f64)> = Vec::new();
        for (index, (words, length)) in self.texts.iter().zip(&self.lengths).enumerate() {
            let mut score = 0.0;
            for word in &query {
                let Some(times) = words.get(word).copied().map(f64::from) else { continue };
                let texts = f64::from(self.in_texts.get(word).copied().unwrap_or(0));
                let rare = ((count - texts + 0.5) / (texts + 0.5)).ln_1p();
                let long = 1.0 - B + B * length / average.max(1.0);
                score += rare * times * (K1 + 1.0) / (times + K1 * long);
            }
            if score > 0.0 {
                found.push((index, score));
            }
        }
        found.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        found
    }
}

/// The words of a text: lower case, split at whatever is no letter or digit and where a lower-case
/// letter is followed by an upper-case one, without the ending of a plural.
fn words_of(text: &str) -> impl Iterator<Item = String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut lower = false;
    for letter in text.chars() {
        if !letter.is_alphanumeric() || (lower && letter.is_uppercase()) {
            words.push(std::mem::take(&mut word));
        }
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
        lower = letter.is_lowercase();
    }
    words.push(word);
    words.into_iter().filter(|word| !word.is_empty() && !is_filler(word)).map(singular)
}

/// Words that say nothing about which tool is meant.
fn is_filler(word: &str) -> bool {
    const FILLERS: [&str; 24] = [
        "a", "an", "and", "are", "can", "do", "for", "give", "i", "in", "is", "it", "me", "my",
        "of", "on", "please", "that", "the", "this", "to", "what", "with", "you",
    ];
    FILLERS.binary_search(&word).is_ok()
}

fn singular(word: String) -> String {
    match word.strip_suffix('s') {
        Some(stem) if stem.len() > 2 && !stem.ends_with('s') => stem.to_owned(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_with_the_rare_word_comes_first() {
        let ranking = Ranking::new([
            "get_balance the balance of an account",
            "get_slot the slot of the chain",
            "get_block the block of the chain",
        ]);
        let best = |query| ranking.search(query).first().map(|(index, _)| *index);
        assert_eq!(best("what is the balance of my account"), Some(0));
        assert_eq!(best("slots please"), Some(1));
        assert_eq!(best("getBlock"), Some(2));
        assert_eq!(best("weather"), None);
    }

    #[test]
    fn fillers_are_in_order_so_that_they_are_found() {
        for word in ["a", "the", "you", "please"] {
            assert!(is_filler(word), "{word}");
        }
    }
}
