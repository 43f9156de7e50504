//! Made-up names for containers that were given none: an adjective and a maker, as people know it.

/// First words.
const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "ample", "apt", "balmy", "bold", "brave", "bright", "brisk", "calm",
    "candid", "civil", "clear", "clever", "cosy", "crisp", "deft", "eager", "early", "fair",
    "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy", "hearty",
    "honest", "humble", "jolly", "keen", "kind", "light", "lively", "lucid", "lucky", "mellow",
    "merry", "mild", "neat", "noble", "nimble", "patient", "placid", "plucky", "polite", "proud",
    "quick", "quiet", "ready", "robust", "serene", "sharp", "silent", "steady", "sturdy", "sunny",
    "tidy", "vivid", "wise",
];

/// Second words: people who made computing, and people who make barrels.
const MAKERS: [&str; 64] = [
    "allen",
    "babbage",
    "backus",
    "barton",
    "bartik",
    "booth",
    "boyd",
    "brewer",
    "cerf",
    "church",
    "clarke",
    "codd",
    "cooper",
    "corbato",
    "curry",
    "dahl",
    "dijkstra",
    "easley",
    "eckert",
    "engelbart",
    "erdos",
    "feinler",
    "floyd",
    "gray",
    "hamilton",
    "hamming",
    "hoare",
    "holberton",
    "hooper",
    "hopper",
    "huffman",
    "iverson",
    "jennings",
    "johnson",
    "kay",
    "keller",
    "kleene",
    "knuth",
    "lamarr",
    "lamport",
    "liskov",
    "lovelace",
    "mauchly",
    "mccarthy",
    "milner",
    "moore",
    "naur",
    "neumann",
    "noether",
    "nygaard",
    "perlis",
    "perlman",
    "postel",
    "ritchie",
    "shannon",
    "spence",
    "stearns",
    "strachey",
    "tarjan",
    "thompson",
    "turing",
    "wilkes",
    "wirth",
    "zuse",
];

/// Returns the name that belongs to `seed`; after `attempt` names that were taken, with a number.
pub(crate) fn made_up(seed: u32, attempt: u32) -> String {
    let adjective = ADJECTIVES[(seed % 64) as usize];
    let maker = MAKERS[(seed / 64 % 64) as usize];
    match attempt {
        0 => format!("{adjective}_{maker}"),
        _ => format!("{adjective}_{maker}{}", seed / 4096 % 10_u32.pow(attempt.min(6))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContainerName;

    #[test]
    fn every_made_up_name_is_valid_and_different() {
        let names: std::collections::BTreeSet<_> = (0..4096).map(|seed| made_up(seed, 0)).collect();

        assert_eq!(names.len(), 4096);
        for name in names {
            assert!(ContainerName::parse(&name).is_ok(), "{name}");
        }
    }

    #[test]
    fn later_attempts_add_a_number() {
        assert_eq!(made_up(0, 0), "able_allen");
        assert_eq!(made_up(4096 * 7, 1), "able_allen7");
    }
}
