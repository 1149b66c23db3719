//! Finds clues: a few dozen short patterns, in any case.
//!
//! For each of three places there is a table from byte to the patterns that have it there, a bit each.
//! Three look-ups tell which patterns can begin at a position. No position waits for the one before
//! it, which makes this several times as fast as an automaton on texts without clues, that is, on
//! most.

use super::text::{CLUES, Hit};

/// Bytes looked up before a pattern is compared; none is shorter.
const KEY_BYTES: usize = 3;

static FIRST: [u64; 256] = table(0);
static SECOND: [u64; 256] = table(1);
static THIRD: [u64; 256] = table(2);

const fn table(place: usize) -> [u64; 256] {
    assert!(CLUES.len() <= 64, "a bit per clue");
    let mut table = [0; 256];
    let mut clue = 0;
    while clue < CLUES.len() {
        let byte = CLUES[clue].0.as_bytes()[place];
        table[byte.to_ascii_lowercase() as usize] |= 1 << clue;
        table[byte.to_ascii_uppercase() as usize] |= 1 << clue;
        clue += 1;
    }
    table
}

/// Returns all clues, by rising start.
pub(super) fn find(text: &[u8]) -> Vec<Hit> {
    let mut hits = Vec::new();
    for (start, key) in text.windows(KEY_BYTES).enumerate() {
        let candidates =
            FIRST[usize::from(key[0])] & SECOND[usize::from(key[1])] & THIRD[usize::from(key[2])];
        if candidates != 0 {
            compare(candidates, text, start, &mut hits);
        }
    }
    hits
}

/// Apart from the loop, which is faster without it.
#[cold]
#[inline(never)]
fn compare(mut candidates: u64, text: &[u8], start: usize, hits: &mut Vec<Hit>) {
    while candidates != 0 {
        let (pattern, clue) = CLUES[candidates.trailing_zeros() as usize];
        candidates &= candidates - 1;
        let end = start + pattern.len();
        let there = text.get(start..end);
        if there.is_some_and(|there| there.eq_ignore_ascii_case(pattern.as_bytes())) {
            hits.push(Hit { start, end, clue });
        }
    }
}
