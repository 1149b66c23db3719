//! `upstream__tool`: the names clients see. Pure; the way back is the catalog's table, never a split.

use sha2::{Digest, Sha256};

/// Model providers take names of up to 64 characters.
const NAME_MAX: usize = 64;

/// Hex digits of the hash that tells shortened names apart.
const HASH_DIGITS: usize = 8;

/// Returns how long an exposed name may be behind a client that puts `mcp__<server>__` before it, as
/// Claude Code does.
pub(super) fn budget(server_name: &str) -> usize {
    NAME_MAX.saturating_sub("mcp____".len() + server_name.len()).max(24)
}

/// Returns the name a client sees for what an upstream calls `name`.
///
/// It is `upstream__name` if that has no character but `A-Za-z0-9_-` and fits the budget. Else it is
/// a readable part of that, and a hash of the whole: the same in every session.
pub(super) fn expose(upstream: &str, name: &str, budget: usize) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
    let full = format!("{upstream}__{name}");
    if full.len() <= budget && full.chars().all(plain) {
        return full;
    }
    let hash = Sha256::digest(&full);
    let digits: String =
        hash.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    let readable: String = full
        .chars()
        .map(|char| if plain(char) { char } else { '_' })
        .take(budget - HASH_DIGITS - 1)
        .collect();
    format!("{}_{digits}", readable.trim_end_matches(['_', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_fits_is_joined_and_nothing_else() {
        assert_eq!(expose("git", "git_status", 52), "git__git_status");
        assert_eq!(expose("a", "b__c", 52), "a__b__c");
    }

    #[test]
    fn other_names_get_a_short_form_that_fits_and_stays_the_same() {
        let long = "x".repeat(80);
        let exposed = expose("github", &long, 52);
        assert_eq!(exposed, expose("github", &long, 52));
        assert_eq!(exposed.len(), 52);
        assert_ne!(exposed, expose("github", &format!("{long}y"), 52));
        assert_eq!(expose("mail", "send.now", 52), "mail__send_now_4989ae61");
        assert_ne!(expose("mail", "send.now", 52), expose("mail", "send/now", 52));
        for name in ["émoji 😀", "a.b", ""] {
            let exposed = expose("up", name, 52);
            assert!(
                exposed.chars().all(|char| char.is_ascii_alphanumeric() || "_-".contains(char)),
                "{exposed}"
            );
        }
    }

    #[test]
    fn the_budget_leaves_room_for_what_clients_put_before() {
        assert_eq!(budget("ultra"), 52);
        assert_eq!(budget(&"s".repeat(60)), 24);
    }
}
