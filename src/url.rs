//! Owns what an address may not hold that is rendered, stored or logged: names, passwords, tokens.

/// What of a URL only its owner may know: user information before the host, a query or a fragment, in which tokens and
/// signatures are given (RFC 3986, section 3).
pub fn secret_part(url: &str) -> Option<&'static str> {
    let (_, rest) = url.split_once("//").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    if rest[..end].contains('@') {
        return Some("a user name or password");
    }
    // A password with a `/` that should have been encoded: no host ends in `:LETTERS`.
    let port = rest[..end].rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) && rest.contains('@') {
        return Some("a user name or password");
    }
    rest.contains(['?', '#']).then_some("a query or a fragment")
}

/// The first http or https URL of a text in which a user name or a password is written out, without it. What a shell puts there
/// when it runs (`https://$TOKEN@host`) is none, nor is the user `git`. A query is not looked at: a script has many of them.
pub fn url_with_credentials(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let starts = ["http://", "https://"].into_iter().flat_map(|scheme| lower.match_indices(scheme));
    let found = starts.filter_map(|(at, scheme)| {
        let rest = &text[at + scheme.len()..];
        let word = &rest[..rest.find(|c: char| c.is_whitespace() || "\"'`<>\\".contains(c)).unwrap_or(rest.len())];
        let authority = word.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some(parts) => parts,
            // A password with a `/` that should have been encoded: no host ends in `:LETTERS`.
            None => {
                let (_, port) = authority.rsplit_once(':')?;
                let is_port = port.is_empty() || port.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit());
                if is_port || port.starts_with('$') { None } else { word.rsplit_once('@') }?
            }
        };
        let written = match user.split_once(':') {
            Some((_, password)) => !password.is_empty() && !password.starts_with('$'),
            None => !["", "git"].contains(&user) && !user.starts_with('$'),
        };
        written.then(|| (at, format!("{scheme}***@{}", host.split(['/', '?', '#']).next().unwrap_or_default())))
    });
    found.min().map(|(_, shown)| shown)
}
