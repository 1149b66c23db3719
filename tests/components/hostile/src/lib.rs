//! A component that does what no plugin may do, as its settings say.
//!
//! Exports by hand what `plugin!` would: the SDK has no words for some of this.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, reason = "exported names and link sections are unsafe attributes")]

use std::cell::OnceCell;
use std::hint::black_box;

use ultra_plugin::bindings::exports::ultra::plugin::{interceptor, lifecycle};
use ultra_plugin::bindings::ultra::plugin::types::{Exchange, Head, Verdict};
use ultra_plugin::{Phases, Settings, log, metrics, state};

thread_local! {
    static DEEDS: OnceCell<(String, String)> = const { OnceCell::new() };
}

struct Hostile;

impl lifecycle::Guest for Hostile {
    fn start(settings: String) -> Result<Phases, String> {
        ultra_plugin::export::report_panics();
        let settings = Settings::parse(&settings)?;
        let deeds = (settings.text("before")?.to_owned(), settings.text("after")?.to_owned());
        match settings.text("start")? {
            "well" => {}
            "loop" => spin(),
            "panic" => panic!("no wish to start"),
            "refuse" => return Err("no wish to start".into()),
            "instruments" => {
                for i in 0..100 {
                    metrics::counter(&format!("counter-{i}"), "1");
                }
            }
            other => return Err(format!("no such deed: {other}")),
        }
        let phases = match deeds.0.as_str() {
            "unsubscribed" => Phases::RESPONSE,
            _ => Phases::all(),
        };
        DEEDS.with(|slot| slot.set(deeds)).map_err(|_| "started twice")?;
        Ok(phases)
    }
}

impl interceptor::Guest for Hostile {
    fn before(_: Head, exchange: &Exchange) -> Verdict {
        DEEDS.with(|slot| act(&slot.get().expect("it was started").0, exchange))
    }

    fn after(_: Head, exchange: &Exchange) -> Verdict {
        DEEDS.with(|slot| act(&slot.get().expect("it was started").1, exchange))
    }
}

fn act(deed: &str, exchange: &Exchange) -> Verdict {
    match deed {
        "well" => {}
        "loop" => spin(),
        "panic" => panic!("no wish to go on\nat all"),
        "allocate" => {
            // Without writing to it: that takes so long that the deadline would come first.
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(Vec::with_capacity(1 << 20));
                black_box(&hoard);
            }
        }
        "grow" => {
            black_box(vec![1_u8; 40 << 20]);
        }
        "recurse" => {
            black_box(recurse(1));
        }
        "flood" => loop {
            log::enabled(log::Level::Info);
        },
        "chatter" => {
            for _ in 0..1000 {
                log::write(log::Level::Error, "forged\nline");
            }
        }
        "stop" => return Verdict::Stop,
        "deny" => {
            exchange.deny("because");
            return Verdict::Stop;
        }
        "forget-to-stop" => {
            exchange.answer("{\"content\":[]}").expect("it is JSON");
        }
        "answer" => {
            exchange.answer("{\"content\":\n[]}").expect("it is JSON");
            return Verdict::Stop;
        }
        "answer-nonsense" => {
            assert!(exchange.answer("{\"content\":[}").is_err());
            assert!(exchange.answer("[]").is_err());
        }
        "edit" => {
            exchange.set_pointer("/arguments/token", "\"x\"").expect("it is there");
            exchange.set_pointer("/arguments/none", "1").expect_err("it is not there");
            exchange.set_pointer("/name", "\"other\"").expect_err("it names the tool");
            exchange.set_payload("{\"name\":\"other\"}").expect_err("likewise");
            exchange.set_pointer("", "[]").expect_err("it is no object");
        }
        "edit-result" => exchange.set_pointer("/isError", "true").expect("it is there"),
        "edit-error" => {
            exchange.set_payload("{}").expect_err("an error cannot become a result");
        }
        "edit-and-panic" => {
            exchange.set_pointer("/arguments/token", "\"x\"").expect("it is there");
            panic!("after an edit");
        }
        "slots" => {
            exchange.keep(3, 7);
            assert_eq!((exchange.kept(3), exchange.kept(0)), (7, 0));
            exchange.keep(4, 7);
        }
        "kept" => assert_eq!(exchange.kept(3), 7),
        "hoard-state" => {
            let full = (0..20).any(|i| state::put(&format!("{i}"), &vec![0; 100_000], 0).is_err());
            assert!(full, "more than 1 MiB");
        }
        "late-instrument" => {
            metrics::counter("late", "1");
        }
        "count" => {
            state::add("calls", 1, 0).expect("it is a counter");
        }
        other => panic!("no such deed: {other}"),
    }
    Verdict::Next
}

fn spin() {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse(n: u64) -> u64 {
    black_box(recurse(black_box(n + 1)) + 1)
}

ultra_plugin::bindings::export_plugin!(Hostile with_types_in ultra_plugin::bindings);

#[allow(dead_code, reason = "it is for the gateway")]
#[unsafe(link_section = "ultra:manifest")]
static MANIFEST: [u8; include_bytes!("../plugin.toml").len()] = *include_bytes!("../plugin.toml");
