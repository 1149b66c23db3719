use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use super::*;

fn file(text: &str) -> ConfigFile {
    ConfigFile { path: "ultra.yaml".into(), found: Some(text.into()), text: text.into() }
}

fn set(text: &str, keys: &[&str], value: Value) -> Result<String, String> {
    let mut file = file(text);
    match file.set(keys, &value) {
        Ok(()) => Ok(file.text),
        Err(error) => {
            assert_eq!(file.text, text, "a refused edit changes nothing");
            Err(error.to_string())
        }
    }
}

const ENABLED: [&str; 3] = ["upstream", "github", "enabled"];

#[test]
fn value_is_replaced_and_nothing_else() {
    let text = "# mine\nzoo: [1, 2]   # unknown\nupstream:\n\n  github:  # the hub\n    enabled:   false # not yet\n    command: npx\n";

    assert_eq!(set(text, &ENABLED, json!(true)).unwrap(), text.replace("false", "true"));
}

#[test]
fn missing_key_is_added_below_its_siblings() {
    for (text, expected) in [
        (
            "upstream:\n  github:\n    command: npx # c\n",
            "upstream:\n  github:\n    command: npx # c\n    enabled: true\n",
        ),
        (
            "upstream:\n    github:\n        command: npx",
            "upstream:\n    github:\n        command: npx\n        enabled: true\n",
        ),
        (
            "upstream:\n  github:\n    command: npx\n    args:\n    - a\n    - b  \n\n# end\nserver:\n  name: x\n",
            "upstream:\n  github:\n    command: npx\n    args:\n    - a\n    - b  \n    enabled: true\n\n# end\nserver:\n  name: x\n",
        ),
        (
            "upstream:\r\n  github:\r\n    args: [a,\r\n      b]\r\n  z:\r\n    url: x\r\n",
            "upstream:\r\n  github:\r\n    args: [a,\r\n      b]\r\n    enabled: true\r\n  z:\r\n    url: x\r\n",
        ),
        (
            "upstream:\n  github:\n    description: |\n      two\n      lines\n\n  z:\n    url: x\n",
            "upstream:\n  github:\n    description: |\n      two\n      lines\n    enabled: true\n\n  z:\n    url: x\n",
        ),
        (
            "upstream:\n  github:\n    env:\n      A: ü\n      B:\n# c\n",
            "upstream:\n  github:\n    env:\n      A: ü\n      B:\n    enabled: true\n# c\n",
        ),
    ] {
        assert_eq!(set(text, &ENABLED, json!(true)).as_deref(), Ok(expected));
    }
}

#[test]
fn missing_mappings_are_added_too() {
    let github = json!({"command": "npx", "args": ["-y", "a b"], "enabled": true});

    for (text, expected) in [
        (
            "",
            "upstream:\n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\n",
        ),
        (
            "# hello\n",
            "# hello\nupstream:\n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\n",
        ),
        (
            "upstream: # none yet\nserver:\n  name: x\n",
            "upstream: # none yet\n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\nserver:\n  name: x\n",
        ),
        (
            "upstream: {} # none yet\n",
            "upstream: # none yet\n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\n",
        ),
        (
            "upstream: ~",
            "upstream: \n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\n",
        ),
        (
            "{}\n",
            "upstream:\n  github:\n    args: [\"-y\",\"a b\"]\n    command: npx\n    enabled: true\n",
        ),
    ] {
        assert_eq!(
            set(text, &["upstream", "github"], github.clone()).as_deref(),
            Ok(expected),
            "{text}"
        );
    }
}

#[test]
fn flow_style_takes_a_new_value_but_no_new_key() {
    let text = "upstream:\n  github: {command: npx, enabled: false}\n";

    assert_eq!(set(text, &ENABLED, json!(true)).unwrap(), text.replace("false", "true"));
    assert_eq!(
        set("upstream:\n  github: {command: npx}\n", &ENABLED, json!(true)).unwrap_err(),
        "line 2 of the config file cannot be changed safely: it is written in `{…}` style"
    );
}

#[test]
fn what_an_anchor_shares_is_left_alone() {
    for text in [
        "base: &base\n  command: npx\n  enabled: false\nupstream:\n  github: *base\n",
        "upstream:\n  github: &github\n    command: npx\n    enabled: false\n  copy: *github\n",
        "on: &on false\nupstream:\n  github:\n    enabled: *on\n",
    ] {
        let error = set(text, &ENABLED, json!(true)).unwrap_err();
        assert!(error.contains("an anchor shares it with another place"), "{text}: {error}");
    }
}

#[test]
fn other_values_are_not_overwritten() {
    for (text, expected) in [
        ("upstream: [a]\n", "line 1 of the config file cannot be changed safely: it holds a list"),
        (
            "upstream:\n  github: x\n",
            "line 2 of the config file cannot be changed safely: it holds a single value",
        ),
        (
            "upstream:\n  github:\n    enabled: |\n      true\n",
            "line 3 of the config file cannot be changed safely: it holds a block of text",
        ),
    ] {
        assert_eq!(set(text, &ENABLED, json!(true)).unwrap_err(), expected);
    }
}

#[test]
fn texts_survive_the_round_trip() {
    for text in [
        "plain",
        "",
        "true",
        "12",
        "a: b",
        "# no",
        "ü",
        "it's \"q\"",
        "a\nb\t\u{7}",
        "-",
        "null",
        " x ",
        "1.5",
        "@a/b",
    ] {
        let changed = set("server:\n  name: x\n", &["server", "name"], json!(text)).unwrap();

        assert_eq!(
            file(&changed).get(&["server", "name"]).unwrap(),
            Some(json!(text)),
            "{changed}"
        );
    }
}

#[test]
fn entry_is_removed_with_its_lines() {
    let text = "upstream:\n  a:\n    command: x\n  # about b\n  b:\n    args:\n      - 1 # one\n\n    url: y\n  c:\n    url: z\n";
    let mut with_b = file(text);

    assert!(with_b.remove(&["upstream", "b"]).unwrap());
    assert_eq!(with_b.text, "upstream:\n  a:\n    command: x\n  # about b\n  c:\n    url: z\n");
    assert!(!with_b.remove(&["upstream", "b"]).unwrap());
    assert!(with_b.remove(&["upstream", "a"]).unwrap());
    assert!(with_b.remove(&["upstream", "c"]).unwrap());
    assert_eq!(with_b.text, "upstream:\n  # about b\n");
}

#[test]
fn save_keeps_mode_and_link() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.yaml"), dir.path().join("config.yaml"));
    std::fs::write(&real, "server:\n  name: x\n").unwrap();
    std::fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
    symlink(&real, &link).unwrap();

    let mut file = ConfigFile::open(&link).unwrap();
    file.set(&["server", "name"], &json!("y")).unwrap();
    file.save().unwrap();

    assert_eq!(std::fs::read_to_string(&real).unwrap(), "server:\n  name: y\n");
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn new_file_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ultra/config.yaml");

    let mut file = ConfigFile::open(&path).unwrap();
    file.set(&["upstream", "a", "command"], &json!("x")).unwrap();
    file.save().unwrap();

    assert_eq!(std::fs::read_to_string(&path).unwrap(), "upstream:\n  a:\n    command: x\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn change_by_somebody_else_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "a: 1\n").unwrap();
    let mut file = ConfigFile::open(&path).unwrap();
    std::fs::write(&path, "a: 2\n").unwrap();

    file.set(&["a"], &json!(3)).unwrap();

    assert!(matches!(file.save(), Err(EditError::Changed { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a: 2\n");
}
