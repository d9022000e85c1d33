//! Owns the quoting of text for a shell. No other module quotes what it was given.

use crate::error::{Class, Error, Result};

/// Quotes text so that bash and sh read back exactly these bytes. NUL can't be passed to a program.
pub fn quote(text: &str) -> Result<String> {
    // As an argument, these need no quotes in any shell, and the text reads better without.
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    if !text.contains(['\'', '\0']) {
        return Ok(format!("'{text}'"));
    }
    shlex::try_quote(text).map(|quoted| quoted.into_owned()).map_err(|error| {
        let piece: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        Error::new(Class::Usage, format!("`{piece}` can't be an argument of a command")).with_source(error)
    })
}

/// Quotes the words of a command and puts blanks between them. With `=` in it, the first would be an assignment; zsh looks for
/// a program where a word begins with it.
pub fn join(words: &[impl AsRef<str>]) -> Result<String> {
    let word = |(index, word): (usize, &str)| match quote(word) {
        Ok(bare) if bare == word && (word.starts_with('=') || index == 0 && word.contains('=')) => {
            Ok(format!("'{word}'"))
        }
        other => other,
    };
    Ok(words.iter().map(AsRef::as_ref).enumerate().map(word).collect::<Result<Vec<_>>>()?.join(" "))
}
