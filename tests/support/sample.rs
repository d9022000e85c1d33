//! Owns which share of an expensive dimension one run tries: the boundaries at which a script is cut, the calls at which a
//! build is killed. `.ci/run` sets the share by HEAD, so that the runs of eight shares together have tried everything.

#![allow(clippy::print_stderr, reason = "a test's output is shown when it fails")]

use std::fmt::Display;

/// The items of this run's share, in their order. `EFA_GEN_SHARE` is `all`, or `K/N` for share K of N, counted from 0.
/// `EFA_GEN_TOUCHED` names a file with what the newest commits changed: an item that is named there is always in.
pub fn share<T: Display>(items: Vec<T>) -> Vec<T> {
    let share = std::env::var("EFA_GEN_SHARE").expect("EFA_GEN_SHARE: tests/rehearsal/run sets it");
    if share == "all" {
        return items;
    }
    let (mine, of) = share.split_once('/').expect("EFA_GEN_SHARE is all, or K/N");
    let [mine, of] = [mine, of].map(|number| number.parse().expect("EFA_GEN_SHARE is all, or K/N"));
    let touched = std::env::var_os("EFA_GEN_TOUCHED");
    let touched = touched.map_or_else(String::new, |path| std::fs::read_to_string(path).expect("it can be read"));
    let all = items.len();
    let chosen = choose(items, mine, of, &touched);
    let names: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    eprintln!("share {share}: {} of {all}: {}", chosen.len(), names.join(", "));
    chosen
}

/// Part `mine` of `of` parts of the items, one at least, and whatever the text names. Neighbours are in one part: boundaries of
/// one stage are compared with the same undisturbed run of it.
pub fn choose<T: Display>(items: Vec<T>, mine: usize, of: usize, touched: &str) -> Vec<T> {
    let words: Vec<&str> = touched.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let all = items.len();
    let chosen = |(index, item): &(usize, T)| {
        // Where there are fewer items than parts, some parts have the same one.
        let part = if all < of { *index == mine % all } else { index * of / all == mine };
        let spelled = in_code(&item.to_string());
        part || spelled.split_ascii_whitespace().any(|word| words.contains(&word))
    };
    items.into_iter().enumerate().filter(chosen).map(|(_, item)| item).collect()
}

/// An item's words as code spells them: `efa.install` is `efa_install`, `CreateImage` is itself and `create_image`. What is
/// in no code, such as `before` and a number, is left out.
fn in_code(name: &str) -> String {
    let mut words = Vec::new();
    for word in name.split_ascii_whitespace() {
        let plain = word.replace(['.', '-'], "_");
        let humps = word.chars().filter(char::is_ascii_uppercase).count();
        if humps > 1 {
            let snake: String = word
                .chars()
                .flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
                .collect();
            words.extend([word.to_owned(), snake.trim_start_matches('_').to_owned()]);
        } else if plain.contains('_') {
            words.push(plain);
        }
    }
    words.join(" ")
}
