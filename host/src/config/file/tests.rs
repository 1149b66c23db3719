use super::*;

fn environment() -> Environment {
    Environment::of([("HOME", "/home/ada"), ("TOKEN", "s3cret-token"), ("EMPTY", "")])
}

fn config(text: &str) -> Config {
    validate(text, Some("/etc/ultra/ultra.yaml".into()), &environment(), Variables::Replace)
        .unwrap()
}

/// All problems, one per line, with their hints.
fn problems(text: &str) -> String {
    match validate(text, None, &environment(), Variables::Replace) {
        Ok(_) => "none".into(),
        Err(ConfigError::Invalid { problems, .. }) => {
            let line = |problem: &Problem| {
                let hint =
                    problem.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{problem}{hint}")
            };
            problems.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Err(error) => error.to_string(),
    }
}

fn warnings(text: &str) -> String {
    config(text).warnings.iter().map(Warning::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_file_means_defaults() {
    let dir = tempfile::tempdir().unwrap();

    let config = Config::load(None, &environment(), dir.path()).unwrap();

    assert_eq!(config.path, None);
    assert_eq!(config.server.name, "ultra");
    assert_eq!(config.server.log_level, LogLevel::Info);
    assert_eq!(config.server.call_timeout, Duration::from_secs(300));
    assert!(config.upstreams.is_empty());
    assert_eq!(config.storage.path, Path::new("/home/ada/.config/ultra/ultra.db"));
    assert_eq!(config.storage.backend, Backend::Sqlite);
    assert_eq!(config.storage.payload_bytes_max, 16_384);
    assert_eq!(config.storage.retention, Duration::from_secs(30 * 86_400));
    assert!(!config.observability.enabled);
    assert_eq!(config.cache_dir, Path::new("/home/ada/.cache/ultra"));
}

#[test]
fn every_key_is_read() {
    let config = config(
        r#"
version: "1"
server: {name: mine, log_level: debug, call_timeout: 1h30m, http_sessions_max: 5, http_session_idle: 10s, seal_key: "${TOKEN}-and-20-characters-more"}
upstream:
  zeta:
    command: ~/bin/zeta
    args: [-p, 8080, "${TOKEN}", 1.0, true]
    env: {PORT: 8080, TOKEN: "${TOKEN}", LITERAL: "$${TOKEN}"}
    cwd: work
    enabled: true
    shared: true
    description: The last letter
  alpha:
    url: https://example.com/mcp
    headers: {Authorization: "Bearer ${TOKEN}"}
    enabled: true
plugins:
  directory: ./plugins
  disabled: [logging]
  allow_refused: true
  overrides:
    audit:
      priority: -5
      request: closed
      response: open
      capabilities: []
      settings: {level: 2, names: [a, "1"], deep: {x: null}}
storage: {backend: memory, path: ~/u.db, payload_bytes_max: 1 MiB, retention: 2w, retention_rows: 7}
observability:
  enabled: true
  endpoint: localhost:4318
  service_name: mine
  headers: {x-key: "${TOKEN}"}
policy: {enabled: false, path: x}
hub: {enabled: true, url: "https://${HOST:-hub.example}", gateway_id: gw_1, workspace_id: "", sync_interval: 5m, offline_mode: true, deploy_key: "${TOKEN}", environment: prod}
"#,
    );

    assert_eq!(config.warnings, []);
    assert_eq!(config.server.call_timeout, Duration::from_secs(5_400));
    assert_eq!(config.server.http_sessions_max, 5);
    assert_eq!(config.server.http_session_idle, Duration::from_secs(10));
    let seal_key = config.server.seal_key.as_ref().unwrap().expose();
    assert_eq!(seal_key, "s3cret-token-and-20-characters-more");
    let [zeta, alpha] = &config.upstreams[..] else { panic!("{:?}", config.upstreams) };
    assert_eq!(
        (&*zeta.name, zeta.enabled, zeta.description.as_deref()),
        ("zeta", true, Some("The last letter"))
    );
    assert_eq!((zeta.shared, alpha.shared), (true, false));
    let Endpoint::Stdio { command, args, env, cwd } = &zeta.endpoint else { panic!("{zeta:?}") };
    assert_eq!(command, "/home/ada/bin/zeta");
    assert_eq!(args, &["-p", "8080", "s3cret-token", "1.0", "true"]);
    assert_eq!(env["PORT"], "8080");
    assert_eq!(env["TOKEN"], "s3cret-token");
    assert_eq!(env["LITERAL"], "${TOKEN}");
    assert_eq!(cwd.as_deref(), Some(Path::new("/etc/ultra/work")));
    let Endpoint::Http { url, headers, .. } = &alpha.endpoint else { panic!("{alpha:?}") };
    assert_eq!(url, "https://example.com/mcp");
    assert_eq!(headers["Authorization"], "Bearer s3cret-token");
    assert_eq!(config.plugins.directory.as_deref(), Some(Path::new("/etc/ultra/./plugins")));
    assert_eq!(config.plugins.disabled, ["logging"]);
    let audit = &config.plugins.overrides["audit"];
    assert_eq!(audit.priority, Some(-5));
    assert_eq!(
        (audit.request, audit.response),
        (Some(FailureMode::Closed), Some(FailureMode::Open))
    );
    assert_eq!(audit.capabilities.as_deref(), Some(&[][..]));
    assert_eq!(
        serde_json::Value::from(audit.settings.clone()),
        serde_json::json!({"level": 2, "names": ["a", "1"], "deep": {"x": null}})
    );
    assert_eq!(config.storage.path, Path::new("/home/ada/u.db"));
    assert_eq!(config.storage.payload_bytes_max, 1 << 20);
    assert_eq!(config.storage.retention_rows, 7);
    assert_eq!(config.observability.protocol, OtlpProtocol::HttpProtobuf);
    let hub = &config.hub;
    assert_eq!((hub.enabled, hub.offline_mode), (Some(true), true));
    assert_eq!((hub.url.as_str(), hub.environment.as_str()), ("https://hub.example", "prod"));
    assert_eq!((hub.gateway_id.as_deref(), hub.workspace_id.as_deref()), (Some("gw_1"), None));
    assert_eq!(hub.sync_interval, Duration::from_secs(300));
    assert_eq!(hub.deploy_key.as_ref().unwrap().expose(), "s3cret-token");
}

#[test]
fn unknown_keys_are_warnings_with_their_place() {
    insta::assert_snapshot!(warnings(
        "servr: {name: x}\nupstream:\n  github:\n    comand: npx\n    command: npx\n    type: stdio\n    headers: {a: b}\nplugins:\n  overrides:\n    audit: {prio: 1, requests: open}\nstorage: {patth: x}\n"
    ), @r"
    1:1: unknown key `servr`, did you mean `server`?
    4:5: unknown key `upstream.github.comand`, did you mean `command`?
    6:5: unknown key `upstream.github.type`
    7:5: `upstream.github.headers` has no effect beside `command`
    10:13: unknown key `plugins.overrides.audit.prio`
    10:22: unknown key `plugins.overrides.audit.requests`, did you mean `request`?
    11:11: unknown key `storage.patth`, did you mean `path`?
    ");
}

#[test]
fn disabled_upstreams_that_cannot_be_used_are_left_out() {
    let text =
        "upstream:\n  a:\n  b: {enabled: false}\n  c: {command: x, url: y}\n  d: {command: x}\n";

    let names: Vec<String> = config(text).upstreams.iter().map(|it| it.name.to_string()).collect();

    assert_eq!(names, ["d"]);
    insta::assert_snapshot!(warnings(text), @r"
    2:3: upstream `a` has neither `command` nor `url`, and is left out
    3:3: upstream `b` has neither `command` nor `url`, and is left out
    4:3: upstream `c` has both `command` and `url`, and is left out
    ");
}

#[test]
fn all_problems_are_named_at_once() {
    insta::assert_snapshot!(problems(
        r#"
version: "2"
server: {log_level: loud, call_timeout: 60}
upstream:
  a__b: {command: x}
  ultra: {command: x}
  näme: {command: x}
  nothing: x
  neither: {enabled: true}
  both: {command: x, url: y, enabled: true}
  args: {command: x, args: "-y pkg", enabled: "true"}
  env: {command: x, env: {A: null, "B=C": d, E: [1]}}
  a: {command: x}
  a: {command: y}
plugins:
  disabled: audit
  overrides: {audit: {priority: high, request: maybe}}
storage: {payload_bytes_max: 1 GB, retention: never, retention_rows: -1}
observability: {enabled: true, protocol: udp}
hub: [1]
"#
    ), @r#"
    2:10: unknown version `2` (this Ultra knows "1")
    3:21: `server.log_level` cannot be `loud` (one of `debug`, `info`, `warn`, `error`)
    3:41: `server.call_timeout` must be a duration, not `60` (such as `30s`, `5m`, `1h30m` or `30d`)
    5:3: the upstream name `a__b` contains `__` (`__` stands between the names of upstream and tool; use a single `_`)
    6:3: the name `ultra` is taken by the gateway's own tools (choose another name)
    7:3: `näme` is no name for an upstream (use 1 to 32 letters, digits, `-` and `_`, without accents)
    8:12: `upstream.nothing` must be a mapping, not a single value (write `key: value` lines, indented)
    9:3: upstream `neither` has neither `command` nor `url` (give it one of them)
    10:3: upstream `both` has both `command` and `url` (keep one of them)
    11:28: `upstream.args.args` must be a list, not a single value (write `args: ["a", "b"]`)
    11:47: `upstream.args.enabled` must be true or false (write `true` or `false`, without quotes)
    12:30: `upstream.env.env.A` has no value (write `""` if it is meant to be empty)
    12:36: `B=C` is no name for `upstream.env.env`
    12:49: `upstream.env.env.E` must be a single value, not a list
    14:3: the key `a` stands twice (it is already on line 13)
    16:13: `plugins.disabled` must be a list, not a single value (write `disabled: ["a", "b"]`)
    17:33: `plugins.overrides.audit.priority` must be a whole number within its range (such as `100`)
    17:48: `plugins.overrides.audit.request` cannot be `maybe` (one of `open`, `closed`)
    18:30: `storage.payload_bytes_max` must be a number of bytes, not `1 GB` (such as `16384` or `16 KiB`)
    18:47: `storage.retention` must be a duration, not `never` (such as `30s`, `5m`, `1h30m` or `30d`)
    18:70: `storage.retention_rows` must be a whole number within its range (such as `100`)
    19:26: `observability` is enabled without an `endpoint` (such as `endpoint: localhost:4317`)
    19:42: `observability.protocol` cannot be `udp` (one of `grpc`, `http`)
    20:6: `hub` must be a mapping, not a list (write `key: value` lines, indented)
    "#);
}

#[test]
fn what_keeps_clients_out_or_secrets_open_is_a_problem() {
    insta::assert_snapshot!(problems(
        "server: {http_sessions_max: 0, http_session_idle: soon, seal_key: \"${TOKEN}\"}\nupstream: {a: {command: x, shared: 1}}\n"
    ), @r"
    1:29: `server.http_sessions_max` is 0 (a client needs at least 1)
    1:51: `server.http_session_idle` must be a duration, not `soon` (such as `30s`, `5m`, `1h30m` or `30d`)
    1:67: `server.seal_key` has less than 32 characters (such as the output of `openssl rand -hex 32`)
    2:36: `upstream.a.shared` must be true or false (write `true` or `false`, without quotes)
    ");
}

/// Commands that start nothing need no secrets.
#[test]
fn a_key_is_not_looked_at_where_nothing_is_sealed() {
    let read = validate("server: {seal_key: \"${GONE}\"}", None, &environment(), Variables::Keep);

    assert_eq!(read.unwrap().server.seal_key.unwrap().expose(), "${GONE}");
}

#[test]
fn variables_matter_where_something_is_enabled() {
    let text = "
upstream:
  on:
    command: x
    args: ['a ${GONE}']
    env: {A: '${EMPTY}', B: '${ALSO GONE}', C: '${'}
    enabled: true
  off:
    command: ${GONE}
    url_: x
observability:
  endpoint: ${GONE}
";

    insta::assert_snapshot!(problems(text), @r"
    5:12: `upstream.on.args[0]` needs the variable `GONE`, which is not set (set it, or write `${GONE:-}` if it may be missing, or run `ultra servers disable on`)
    6:29: `upstream.on.env.B` has `${ALSO GONE}`, which names no variable (write `${NAME}` or `${NAME:-default}`, or `$${` for a literal `${`)
    6:48: `upstream.on.env.C` has a `${` without its `}` (write `$${` for a literal `${`)
    ");
    assert_eq!(problems(&text.replace("enabled: true", "enabled: false")), "none");

    let kept = validate(text, None, &environment(), Variables::Keep).unwrap();
    let Endpoint::Stdio { args, .. } = &kept.upstreams[0].endpoint else { panic!("{kept:?}") };
    assert_eq!(args, &["a ${GONE}"]);
}

#[test]
fn secrets_are_what_no_record_may_show() {
    let config = config(
        "upstream:
  a: {command: '${HOME}/x', args: ['--key=${TOKEN}'], env: {NODE_ENV: production, N: '1'}, enabled: true}
  b: {url: 'http://x', headers: {Authorization: 'Bearer abc.def.ghi'}, enabled: true}
  c: {command: x, env: {OFF: never-started}}
hub: {deploy_key: dk_0123456789}
",
    );

    assert_eq!(
        config.secrets(),
        ["Bearer abc.def.ghi", "dk_0123456789", "s3cret-token", "abc.def.ghi", "production"]
    );
}

#[test]
fn signing_in_is_configured_per_server() {
    let text = "upstream:
  a: {url: 'https://x/', enabled: true, oauth: {client_id: me, client_secret: '${TOKEN}', scopes: [a, b], callback_port: 8912}}
  b: {url: 'https://x/', enabled: true, oauth: {client_metadata_url: 'https://me.test/client.json'}}
  c: {url: 'https://x/', enabled: true}
";

    let config = config(text);

    let oauth = config.upstreams.iter().map(|upstream| match &upstream.endpoint {
        Endpoint::Http { oauth, .. } => oauth,
        Endpoint::Stdio { .. } => panic!("{upstream:?}"),
    });
    let [a, b, c] = oauth.collect::<Vec<_>>()[..] else { panic!("{config:?}") };
    assert_eq!((a.client_id.as_deref(), a.callback_port), (Some("me"), Some(8912)));
    assert_eq!(a.client_secret.as_ref().map(Secret::expose), Some("s3cret-token"));
    assert_eq!(a.scopes, ["a", "b"]);
    assert_eq!(b.client_metadata_url.as_deref(), Some("https://me.test/client.json"));
    assert!(c.client_id.is_none() && c.client_metadata_url.is_none() && c.scopes.is_empty());
    assert_eq!(config.secrets(), ["s3cret-token"]);
    assert!(!format!("{config:?}").contains("client_secret: Some(\"s3cret"));
}

#[test]
fn signing_in_that_cannot_work_is_a_problem() {
    let text = "upstream:
  a: {url: 'https://x/', enabled: true, oauth: {client_secret: x, callback_port: 70000}}
  b: {url: 'https://x/', enabled: true, oauth: {client_metadata_url: 'https://me.test'}}
  c: {command: x, enabled: true, oauth: {clientid: me}}
";

    insta::assert_snapshot!(problems(text), @r"
    2:64: `upstream.a.oauth.client_secret` has no `client_id` beside it (name the client whose secret it is)
    2:82: `upstream.a.oauth.callback_port` must be a whole number within its range (such as `100`)
    3:70: `upstream.b.oauth.client_metadata_url` is no URL of a document (it begins with `https://` and has a path)
    ");
    assert_eq!(
        warnings("upstream:\n  c: {command: x, oauth: {clientid: me}}\n"),
        "2:19: `upstream.c.oauth` has no effect beside `command`"
    );
    assert_eq!(
        warnings("upstream:\n  c: {url: 'https://x', oauth: {clientid: me}}\n"),
        "2:33: unknown key `upstream.c.oauth.clientid`, did you mean `client_id`?"
    );
}

#[test]
fn unreadable_files_are_errors_with_their_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("latin1.yaml"), b"a: 1\nb: \xfc\n").unwrap();
    std::fs::write(dir.path().join("big.yaml"), vec![b'#'; 2 << 20]).unwrap();
    let load =
        |name: &str| Config::load(Some(Path::new(name)), &environment(), dir.path()).unwrap_err();

    assert!(
        matches!(load("gone.yaml"), ConfigError::Read { source, .. } if source.kind() == ErrorKind::NotFound)
    );
    assert!(
        matches!(load("big.yaml"), ConfigError::Read { source, .. } if source.kind() == ErrorKind::FileTooLarge)
    );
    let ConfigError::Invalid { problems, path, .. } = load("./latin1.yaml") else { panic!() };
    assert_eq!(problems[0].to_string(), "2:4: not UTF-8");
    assert_eq!(path, dir.path().join("latin1.yaml"));
}

#[test]
fn explicit_file_beats_the_search() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ultra.yaml"), "server: {name: found}").unwrap();
    std::fs::write(dir.path().join("named.yaml"), "server: {name: named}").unwrap();
    let name = |explicit| Config::load(explicit, &environment(), dir.path()).unwrap().server.name;

    assert_eq!(name(None), "found");
    assert_eq!(name(Some(Path::new("named.yaml"))), "named");
}

#[test]
fn without_a_home_the_data_needs_a_place() {
    let xdg = Environment::of([("XDG_CACHE_HOME", "/cache")]);
    let validate = |text| validate(text, None, &xdg, Variables::Replace);

    assert!(matches!(validate(""), Err(ConfigError::NoHome)));
    assert_eq!(
        validate("storage: {path: /data/u.db}").unwrap().cache_dir,
        Path::new("/cache/ultra")
    );
    assert!(validate("storage: {backend: memory}").is_ok());
}

/// Whatever stands in the file: an answer, and edits that are made or refused, but no panic.
#[test]
fn mutations_of_a_config_never_panic() {
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    let seed = "# ünï\nversion: \"1\"\nserver: {name: x, log_level: warn}\nupstream:\n  a: &a\n    command: npx\n    args:\n    - \"-y\"\n    - '${HOME:-x}'\n    env: {A: b}\n    description: |\n      text\n      more\n    enabled: false\n  b: *a\nplugins:\n  overrides: {x: {settings: {n: 1.5}}}\nstorage:\n  retention: 30d\n";
    let pieces = [
        "\n",
        "  ",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "- ",
        "&a ",
        "*a",
        "|",
        ">",
        "'",
        "\"",
        "#",
        "${",
        "}",
        "é",
        "\r\n",
        "\u{feff}",
        "---\n",
        "? ",
        "!!int ",
        "<<",
        "%",
        "\0",
        "~",
        "enabled: ",
        "upstream:\n",
        "@",
        "`",
    ];
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..4_000 {
        let mut text: Vec<char> = seed.chars().collect();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..=text.len());
            let end = (at + random.random_range(0..8)).min(text.len());
            let piece = pieces.choose(&mut random).unwrap();
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();

        let _ = validate(&text, None, &environment(), Variables::Replace);
        crate::config::edit::exercise(&text);
    }
}

#[test]
fn clients_sign_in_where_the_config_says() {
    let config = config(
        "server:\n  auth:\n    issuer: https://idp.example\n    audience: https://gw.example/mcp\n    jwks_url: http://127.0.0.1:9/keys?v=1\n    scopes: [mcp:use]\n    principal_claim: email\n",
    );

    let expected = ServerAuth {
        issuer: "https://idp.example".into(),
        audience: "https://gw.example/mcp".into(),
        jwks_url: Some("http://127.0.0.1:9/keys?v=1".into()),
        scopes: vec!["mcp:use".into()],
        principal_claim: "email".into(),
    };
    assert_eq!(config.server.auth, Some(expected));
    assert_eq!(warnings("server: {auth: null}"), "");
}

#[test]
fn what_nobody_could_sign_in_with_is_a_problem() {
    insta::assert_snapshot!(problems("server:\n  auth: {}\n"), @r"
    2:9: `server.auth.issuer` is missing (the URL of the authorization server, just as `iss` of its tokens has it)
    2:9: `server.auth.audience` is missing (the URL by which clients know the gateway, such as `https://gateway.example/mcp`)
    ");
    insta::assert_snapshot!(problems("server:\n  auth: https://idp.example\n"), @"2:9: `server.auth` must be a mapping, not a single value (write `key: value` lines, indented)");
    insta::assert_snapshot!(problems(
        "server:\n  auth:\n    issuer: http://idp.example\n    audience: gw.example/mcp\n    jwks_url: https://me@idp.example/keys\n    scopes: [\"a b\"]\n    principal_claim: \"\"\n"
    ), @r"
    3:13: `server.auth.issuer` cannot be `http://idp.example` (it begins with `https://`, or on this machine with `http://`, and has no `?` or `#`)
    4:15: `server.auth.audience` cannot be `gw.example/mcp` (it begins with `https://`, or on this machine with `http://`, and has no `?` or `#`)
    5:15: `server.auth.jwks_url` cannot be `https://me@idp.example/keys` (it begins with `https://`, or on this machine with `http://`)
    6:13: `server.auth.scopes` has `a b`, which is no scope (a scope has no spaces and no quotes)
    7:22: `server.auth.principal_claim` is empty (such as `sub` or `email`)
    ");
    insta::assert_snapshot!(problems(
        "server:\n  auth:\n    issuer: https://idp.example/?x=1\n    audience: \"https://gw.example/mcp#x\"\n"
    ), @r"
    3:13: `server.auth.issuer` cannot be `https://idp.example/?x=1` (it begins with `https://`, or on this machine with `http://`, and has no `?` or `#`)
    4:15: `server.auth.audience` cannot be `https://gw.example/mcp#x` (it begins with `https://`, or on this machine with `http://`, and has no `?` or `#`)
    ");
}

#[test]
fn a_hub_is_where_nothing_can_leak_and_the_environments_key_beats_the_files() {
    insta::assert_snapshot!(problems(
        "hub:\n  url: http://hub.example\n  sync_interval: 10ms\n  enabled: perhaps\n"
    ), @r"
    2:8: `hub.url` cannot be `http://hub.example` (it begins with `https://`, or on this machine with `http://`, and has no `?` or `#`)
    3:18: `hub.sync_interval` is shorter than a second (such as `60s`)
    4:12: `hub.enabled` must be true or false (write `true` or `false`, without quotes)
    ");
    let hub = |text: &str, variables: &[(&'static str, &'static str)]| {
        let home = ("HOME", "/home/ada");
        let environment = Environment::of(variables.iter().copied().chain([home]));
        validate(text, None, &environment, Variables::Replace).unwrap().hub
    };
    let key = |hub: Hub| hub.deploy_key.map(|key| key.expose().to_owned());
    let file = "hub: {deploy_key: of-the-file}";

    assert_eq!(key(hub(file, &[("ULTRA_DEPLOY_KEY", "of-all")])).as_deref(), Some("of-all"));
    assert_eq!(key(hub(file, &[("ULTRA_DEPLOY_KEY", "")])).as_deref(), Some("of-the-file"));
    assert_eq!(key(hub("", &[])), None);
    // Nothing of what is switched off is looked at.
    assert_eq!(hub("hub: {enabled: false, url: 'http://${NONE}'}", &[]).enabled, Some(false));
    let defaults = hub("", &[]);
    assert_eq!((defaults.enabled, defaults.url.as_str()), (None, "https://hub.ultra.security"));
    assert_eq!((defaults.sync_interval.as_secs(), defaults.environment.as_str()), (60, "local"));
}
