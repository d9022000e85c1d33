//! Owns which of the template's shell functions a script needs: what no line of it calls is left out, so that there is
//! less to read, and to send. Knows nothing of what they do.

/// A function of the template that is the same in every script.
pub(super) struct Helper {
    name: String,
    /// Its definition with the comment before it and the blank line after it.
    text: String,
}

/// The functions that are defined at the beginning of a line and hold nothing to fill in.
pub(super) fn of(template: &str) -> Vec<Helper> {
    let lines: Vec<&str> = template.lines().collect();
    let mut helpers = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, rest)) = line.split_once("() {") else { continue };
        if !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        let comments = lines[..at].iter().rev().take_while(|line| line.starts_with("# ")).count();
        let length =
            if rest.contains(" }") { 1 } else { lines[at..].iter().take_while(|line| **line != "}").count() + 1 };
        let blank = usize::from(lines.get(at + length).is_some_and(|line| line.is_empty()));
        let text: String = lines[at - comments..at + length + blank].iter().map(|line| format!("{line}\n")).collect();
        if !text.contains("<~") && !text.contains("<%") {
            helpers.push(Helper { name: name.to_owned(), text });
        }
    }
    helpers
}

/// The script without the helpers that nothing in it calls.
pub(super) fn without_unused(mut script: String, helpers: &[Helper]) -> String {
    let mut helpers: Vec<&Helper> = helpers.iter().collect();
    loop {
        let before = helpers.len();
        helpers.retain(|helper| {
            let own = mentions(&helper.text, &helper.name);
            let unused = mentions(&script, &helper.name) == own && script.contains(&helper.text);
            if unused {
                script = script.replacen(&helper.text, "", 1);
            }
            !unused
        });
        if helpers.len() == before {
            return script;
        }
    }
}

/// How often a word stands in a text.
fn mentions(text: &str, word: &str) -> usize {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .filter(|(at, _)| !text[..*at].ends_with(part) && !text[at + word.len()..].starts_with(part))
        .count()
}
