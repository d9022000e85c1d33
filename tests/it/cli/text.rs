//! The core's text for people: nothing from outside drives a terminal, looks like efa-gen's own words, or shows a password.

use efa_gen::text::{
    QUOTED, beginning, ending, printable, printable_json, printable_line, printable_lines, printable_log,
};

use crate::support::hostile::{HOSTILE, assert_harmless, is_harmless};

#[test]
fn no_character_drives_a_terminal_or_hides() {
    let all = || (0..=u32::from(char::MAX)).filter_map(char::from_u32);
    for c in all() {
        let text = c.to_string();
        let line = printable(&text);
        assert!(line.chars().all(is_harmless), "{:x} is shown as {line:?}", u32::from(c));
        assert!(line == text || line.starts_with('\\'), "{:x} is shown as {line:?}", u32::from(c));
        assert_eq!(printable_line(&text), if c == '\t' { text.clone() } else { line.clone() });
        assert_eq!(printable_log(&text), if matches!(c, '\t' | '\n') { text } else { line });
    }
    // What a person writes stays.
    for text in
        ["naïve façade — “quoted” 100 % ß", "日本語 한국어 ไทย", "עברית العربية فارسی", "🚀 ✔\u{fe0f} a\\b `c` $d"]
    {
        assert_eq!(printable(text), text);
        assert_eq!(printable_json(text), text);
    }
    assert_eq!(printable(b"a\x9b31mb\xff"), "a\u{fffd}31mb\u{fffd}");
}

#[test]
fn only_the_first_line_is_not_marked() {
    let shown = printable_lines("a\nEFA-GEN VERDICT: PASS\r\n\nhint: none\u{2028}b\u{85}c\n");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines, ["a", "    | EFA-GEN VERDICT: PASS\\r", "    | ", "    | hint: none\\u{2028}b\\u{85}c"]);
    assert_harmless(&printable_lines(HOSTILE));
    for all in [printable(HOSTILE), printable_line(HOSTILE)] {
        assert!(!all.contains('\n'), "{all}");
    }
}

#[test]
fn no_url_shows_its_credentials() {
    for (text, shown) in [
        ("https://user:s3cret@mirror/efa", "https://***@mirror/efa"),
        ("https://s3cret@mirror", "https://***@mirror"),
        ("https://:s3cret@mirror:80", "https://***@mirror:80"),
        ("HTTP://user:s3cret@[::1]:8080/a@b", "HTTP://***@[::1]:8080/a@b"),
        ("https://user:s3:cr@et@mirror?a=b@c", "https://***@mirror?a=b@c"),
        ("https://user:s3c/ret@mirror/a", "https://***@mirror/a"),
        ("https://user:s3c?r#et@mirror/a", "https://***@mirror/a"),
        ("https://user:s%40cret@mirror.", "https://***@mirror."),
        ("(https://a:b@c/d),\"ssh://e:f@g\"", "(https://***@c/d),\"ssh://***@g\""),
        ("a=https://a:b@c,https://d:e@f/", "a=https://***@c,https://***@f/"),
        ("fetch\nhttps://a:b@c\thttps://d:e@f\u{a0}x", "fetch\nhttps://***@c\thttps://***@f\u{a0}x"),
        ("socks5h://a:b@c", "socks5h://***@c"),
        ("//a:b@c", "//***@c"),
        ("https://usér:pässwörd@mirror", "https://***@mirror"),
        ("https://user:a\u{1b}b@mirror", "https://***@mirror"),
        ("HTTPS_PROXY=user:s3cret@proxy:3128", "HTTPS_PROXY=***@proxy:3128"),
        ("proxy user:s3:cret@[fe80::1]:80, then", "proxy ***@[fe80::1]:80, then"),
        // No credentials.
        ("https://mirror/a@b?c@d#e@f", "https://mirror/a@b?c@d#e@f"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        ("ubuntu@10.0.0.1", "ubuntu@10.0.0.1"),
        ("efa <efa@amazon.com>: good", "efa <efa@amazon.com>: good"),
        ("user@host:22", "user@host:22"),
        ("a//b@c", "a//b@c"),
        ("git@github.com:aws/efa", "git@github.com:aws/efa"),
        ("@", "@"),
        ("//", "//"),
        ("//@//@", "//***@//***@"),
    ] {
        assert_eq!(printable_log(text), shown, "{text:?}");
        let json = serde_json::to_string(&serde_json::json!({ text: [text] })).expect("JSON");
        let redacted = serde_json::json!({ shown: [shown] });
        let read: serde_json::Value = serde_json::from_str(&printable_json(&json)).expect("it is JSON still");
        assert_eq!(read, redacted, "{text:?}");
    }
}

#[test]
fn json_says_the_same_in_characters_that_do_nothing() {
    let texts =
        [HOSTILE, "", "\\", "\"", "\\\"", "a\\\\\"b\u{202e}", "\u{e0041}\u{1d173}\u{7f}", "日本語", "{\"a\": [\"b"];
    for text in texts {
        let value = serde_json::json!({ text: [text, 1, null], "b": { "c": text } });
        for json in [value.to_string(), format!("{value:#}")] {
            let shown = printable_json(&json);
            assert!(shown.chars().all(|c| c == '\n' || is_harmless(c)), "{shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("it is JSON still"), value);
        }
    }
    for broken in ["\"", "\"\\", "a\"b@\\\"", "\"a@b", "\"\u{202e}@"] {
        assert!(printable_json(broken).chars().all(is_harmless), "{broken}");
    }
}

#[test]
fn an_error_repeats_a_part_of_what_was_said() {
    assert_eq!(ending(" short \n"), "short");
    assert_eq!(ending(&"x".repeat(QUOTED)), "x".repeat(QUOTED));
    assert_eq!(beginning(" short \n"), " short \n");
    assert_eq!(beginning(&"x".repeat(QUOTED)), "x".repeat(QUOTED));
    for what in ["x", "é", "日", "🚀"] {
        let shown = beginning(&format!("begin {}end\n", what.repeat(QUOTED))).into_owned();
        assert!(shown.starts_with("begin ") && shown.ends_with(" [...]"), "{shown}");
        assert!((QUOTED - 4..=QUOTED + 6).contains(&shown.len()), "{}", shown.len());
        let shown = ending(&format!("begin {}end\n", what.repeat(QUOTED))).into_owned();
        assert!(shown.starts_with("[...] ") && shown.ends_with("end"), "{shown}");
        assert!((QUOTED - 4..=QUOTED + 6).contains(&shown.len()), "{}", shown.len());
    }
}
