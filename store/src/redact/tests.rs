//! Cases of redaction, and that JSON stays JSON.

use serde_json::{Value, json};

use super::*;

const SECRET: &str = "hunter2/Öl \"q\"";

fn redactor() -> Redactor {
    Redactor::new([SECRET.to_owned(), "87654321".to_owned(), "short".to_owned()])
}

fn redact(json: &str) -> String {
    redactor().redact(json.as_bytes()).into_owned()
}

#[test]
fn what_holds_no_secret_is_borrowed() {
    let cases = [
        r#"{"name":"read","arguments":{"path":"a\tb/c.txt"},"_meta":{"progressToken":7}}"#,
        r#"{"max_tokens":100,"nextPageToken":"abc","isSecret":true,"password":null}"#,
        r#"{"text":"a bearer certificate, basic authentication, task-management-1"}"#,
        r#"{"text":"see https://example.org:8080/a?b=c@d and short \"quotes\""}"#,
        r#"{"text":"for token in tokens: eyJ is no token; fn secret() == Token::new()"}"#,
        "[1,2.5e3,true,null]",
        r#""text""#,
        "",
    ];

    for case in cases {
        assert!(
            matches!(redactor().redact(case.as_bytes()), Cow::Borrowed(_)),
            "{case}: {}",
            redact(case)
        );
    }
}

#[test]
fn values_of_secret_names_are_replaced_whole() {
    let cases = [
        (r#"{"password":"x"}"#, r#"{"password":"[redacted]"}"#),
        (r#"{"PassWord" : 1.5e3 , "b":1}"#, r#"{"PassWord" : "[redacted]" , "b":1}"#),
        (r#"{"X-API-Key":{"a":["}"]},"b":1}"#, r#"{"X-API-Key":"[redacted]","b":1}"#),
        (r#"{"set-cookie":["a=1","b=2"]}"#, r#"{"set-cookie":"[redacted]"}"#),
        (r#"{"client_secret":"a\"b","b":1}"#, r#"{"client_secret":"[redacted]","b":1}"#),
        (r#"{"to-ken":"x"}"#, r#"{"to-ken":"[redacted]"}"#),
        (r#"{"p\u0061ssword":"x"}"#, r#"{"p\u0061ssword":"[redacted]"}"#),
        (
            r#"{"dbPassword":"x","GITHUB_TOKEN":"y"}"#,
            r#"{"dbPassword":"[redacted]","GITHUB_TOKEN":"[redacted]"}"#,
        ),
        (
            r#"{"bearer":"x","Credentials":[1]}"#,
            r#"{"bearer":"[redacted]","Credentials":"[redacted]"}"#,
        ),
    ];

    for (json, expected) in cases {
        assert_eq!(redact(json), expected);
    }
}

#[test]
fn names_within_text_are_known_too() {
    let cases = [
        (r#"{\"password\":\"x y\",\"b\":1}"#, r#"{\"password\":\"[redacted]\",\"b\":1}"#),
        (r#"{\"token\": 123, \"b\":1}"#, r#"{\"token\": \"[redacted]\", \"b\":1}"#),
        (r#"{\"credentials\":{\"a\":\"}\"}}"#, r#"{\"credentials\":\"[redacted]\"}"#),
        (
            r#"{\"a\":\"{\\\"secret\\\":\\\"x\\\"}\"}"#,
            r#"{\"a\":\"{\\\"secret\\\":\\\"[redacted]\\\"}\"}"#,
        ),
        ("DB_PASSWORD=abc PORT=1", "DB_PASSWORD=[redacted] PORT=1"),
        ("https://h/?access_token=abc&b=1", "https://h/?access_token=[redacted]&b=1"),
        (r"a\npassword: abc\nb: 1", r"a\npassword: [redacted]\nb: 1"),
        (r"Cookie: a=b; c=d\nHost: x", r"Cookie: [redacted]\nHost: x"),
        ("curl -H 'Authorization: Bearer abc' x", "curl -H 'Authorization: [redacted]' x"),
        ("postgres://user:pass@host/db", "postgres://user:[redacted]@host/db"),
    ];

    for (text, expected) in cases {
        assert_eq!(redact(&format!(r#"{{"t":"{text}"}}"#)), format!(r#"{{"t":"{expected}"}}"#));
    }
}

#[test]
fn well_known_tokens_are_replaced() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN";
    let tokens = [
        "ghp_0123456789abcdefghij0123456789abcdef",
        "github_pat_0123456789abcdefghij_0123456789",
        "sk-ant-api03-0123456789abcdef",
        "xoxb-0123456789-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA0123456789abcdefghijklmnopqrstu",
        "glpat-0123456789abcdefghij",
        jwt,
    ];
    for token in tokens {
        let expected = r#"["say [redacted], then","\n[redacted]"]"#;
        assert_eq!(redact(&format!(r#"["say {token}, then","\n{token}"]"#)), expected, "{token}");
        assert_eq!(redactor().redact_text(&format!("x={token}\n")), "x=[redacted]\n", "{token}");
    }

    assert_eq!(
        redact(r#"["Bearer abc123DEF","basic dXNlcjpwYXNz"]"#),
        r#"["Bearer [redacted]","basic [redacted]"]"#
    );
    let pem = r"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----";
    assert_eq!(redact(&format!(r#"["a {pem} b"]"#)), r#"["a [redacted] b"]"#);
    let pem = r"-----BEGIN PRIVATE KEY-----\nMIIE";
    assert_eq!(redact(&format!(r#"["a {pem}"]"#)), r#"["a [redacted]"]"#);
}

#[test]
fn known_secrets_are_found_in_every_form() {
    let plain = json!({ "t": format!("a {SECRET} b") }).to_string();
    let nested = json!({ "t": plain }).to_string();
    let twice = json!({ "t": nested }).to_string();
    let ascii = plain.replace('Ö', "\\u00d6").replace('/', "\\/");
    let forms = [
        plain,
        nested,
        twice,
        ascii.clone(),
        json!({ "t": ascii }).to_string(),
        r#"{"u":"a=hunter2%2F%C3%96l%20%22q%22&b"}"#.to_owned(),
        r#"{"u":"a=hunter2%2f%c3%96l+%22q%22&b"}"#.to_owned(),
        // base64 of "SECRET", "u:SECRET", "us:SECRET!".
        r#"{"b":"aHVudGVyMi/Dlmwg InEi"}"#.replace(' ', ""),
        r#"{"b":"\ndTpodW50ZXIyL8OWbCAicSI="}"#.to_owned(),
        r#"{"b":"dXM6aHVudGVyMi/DlmwgInEiIQ=="}"#.to_owned(),
        r#"{"b":"aHVudGVyMi_DlmwgInEi"}"#.to_owned(),
    ];

    for form in forms {
        let redacted = redact(&form);
        assert!(redacted.contains(REDACTED), "{form} became {redacted}");
        for piece in ["hunter2", "aHVudG", "W50ZXI", "odW50", "q%22"] {
            assert!(!redacted.contains(piece), "{form} became {redacted}");
        }
        serde_json::from_str::<Value>(&redacted).unwrap();
    }
    assert_eq!(
        redact(r#"{"n":87654321,"m":[1876543210]}"#),
        r#"{"n":"[redacted]","m":["[redacted]"]}"#
    );
    assert_eq!(redact(r#"{"t":"a 87654321 b"}"#), r#"{"t":"a [redacted] b"}"#);
}

#[test]
fn overlapping_secrets_leave_nothing() {
    let redactor =
        Redactor::new(["abcdef".to_owned(), "defghi".to_owned(), "user-name".to_owned()]);

    assert_eq!(redactor.redact_text("-abcdefghi-"), "-[redacted]-");
    assert_eq!(redactor.redact_text("http://user-name:x@h"), "http://[redacted]:[redacted]@h");
}

/// Such as the key file of a service account in an environment variable.
#[test]
fn a_secret_that_is_json_is_found_in_its_pieces() {
    let redactor = Redactor::new([r#"{"kind":"account","key":"abc","n":12}"#.to_owned()]);
    let redacted = redactor.redact(br#"{"x":{"kind":"account","key":"abc","n":12},"y":"z"}"#);

    assert!(
        !redacted.contains("account") && !redacted.contains("abc") && !redacted.contains("12"),
        "{redacted}"
    );
    assert!(redacted.ends_with(r#","y":"z"}"#), "{redacted}");
    serde_json::from_str::<Value>(&redacted).unwrap();
}

#[test]
fn json_that_was_cut_is_redacted_to_its_end() {
    let cases = [
        (r#"{"a":"hunter2/Ö"#, r#"{"a":"[redacted]"#),
        (r#"{"a":"ghp_0123"#, r#"{"a":"[redacted]"#),
        (r#"{"a":"x","password":"abc"#, r#"{"a":"x","password":"[redacted]""#),
        (r#"{"password":{"a":["b""#, r#"{"password":"[redacted]""#),
        (r#"{"a":"b\"#, r#"{"a":"b\"#),
        (r#"{"password":"#, r#"{"password":"#),
    ];

    for (json, expected) in cases {
        assert_eq!(redact(json), expected);
    }
}

#[test]
fn text_that_is_no_json_is_redacted_as_text() {
    assert_eq!(redact("error: password=abc"), "error: password=[redacted]");
    assert_eq!(redactor().redact(b"\xff token=abc"), "\u{fffd} token=[redacted]");
}

#[test]
fn redacting_twice_changes_nothing_more() {
    let once = redact(r#"{"password":"x","t":"token=abc Bearer abcdef12 87654321 u://a:b@c"}"#);

    assert_eq!(redact(&once), once);
}

/// Throws pieces together that the passes are sensitive to.
#[test]
fn valid_json_stays_valid() {
    let pieces = [
        "password",
        "token=",
        "\": \"",
        "\\",
        "\"",
        "87654321",
        "ghp_0123456789abcdefghij",
        "\n",
        "n",
        "u00",
        "Bearer ",
        "abcdefgh1",
        "😀",
        "{",
        "}",
        "[",
        "]",
        ":",
        "://a:b@",
        "-----BEGIN PRIVATE KEY-----",
        " ",
        "eyJhbGciOiJI.eyJh.x",
        SECRET,
        "hunter2",
        "é",
        "sk-",
        "'",
        "aHVudGVyMi/DlmwgInEi",
        "/",
        "secret",
        "=",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..5_000 {
        let mut text =
            |count: usize| -> String { (0..count).map(|_| pieces[random(pieces.len())]).collect() };
        let value = json!({ text(2): [text(6), text(1)], text(1): 87654321, "t": json!({ text(1): text(4) }).to_string() });
        let mut json = value.to_string();
        if json.len().is_multiple_of(3) {
            json = json.replace('/', "\\/").replace('e', "\\u0065");
        }
        let redacted = redact(&json);
        assert!(serde_json::from_str::<Value>(&redacted).is_ok(), "{json} became {redacted}");
        assert!(
            !redacted.contains("87654321") && !redacted.contains("hunter2/Ö"),
            "{json} became {redacted}"
        );
    }
}

/// Clues without end must not make it slow.
#[test]
fn texts_of_nothing_but_clues_take_linear_time() {
    for clue in [
        "sk-",
        "eyJ-",
        "token",
        "://",
        "bearer ",
        "-----BEGIN ",
        "ghp_",
        "\\\"password",
        "password\\\\",
        "eyJ",
    ] {
        let json = format!(r#"{{"a":"{}"}}"#, clue.repeat(300_000 / clue.len()));
        let started = std::time::Instant::now();
        redact(&json);
        assert!(started.elapsed().as_secs() < 5, "{clue}: {:?}", started.elapsed());
    }
}
