//! Texts that somebody else chose, in every place where there are some: a page that shows them has the
//! elements and attributes that it has with harmless ones.

use bytes::Bytes;
use serde_json::json;
use ultra_store::{AuditEvent, FieldValue, Status, Trace};

use super::super::testing::{Plan, Site, event, gateway, trace};
use super::super::text::visible;
use super::dom::{Element, elements};
use crate::events::GatewayLabel;
use crate::fleet::{Facets, State};
use crate::id::{GatewayId, UserId};
use crate::wire::{ClientReport, Host, SetupReport, UpstreamReport};

/// At most 90 characters each, so that none is cut. No two have one beginning, and none is JSON.
const PAYLOADS: [&str; 109] = [
    // Tags.
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "</script><script>alert(2)//",
    "<img src=x onerror=alert(1)>",
    "<img/src='x'/onerror=alert`1`>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<svg><a xlink:href=\"javascript:alert(1)\"><text>x</text></a></svg>",
    "<math><mtext><mglyph><style><img src onerror=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc=\"<script>alert(1)</script>\">",
    "<object data=data:text/html,<script>1</script>>",
    "<embed src=javascript:alert(1)>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//e>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>*{display:none}</style>",
    "<form action=//evil.example><button>x",
    "<button formaction=//evil.example>x</button>",
    "<input autofocus onfocus=alert(1)>",
    "<select onchange=alert(1)><option>x",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<audio src=x onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<html><head><title>x",
    "<table><tr><td>x</table>",
    "</table></div></main></body></html>",
    "</td></tr></tbody></table><h1>owned</h1>",
    "</title><script>alert(3)</script>",
    "</textarea><script>alert(4)</script>",
    "</select><img src=x onerror=alert(5)>",
    "</option></select><b>x</b>",
    "</a><a href=//evil.example>click</a>",
    "</pre><script>alert(6)</script>",
    "</time><b onclick=alert(1)>x</b>",
    "</svg><p>x",
    "<template><script>x</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<plaintext>",
    "<xmp>",
    "<listing>&lt;",
    "<!--",
    "--><script>alert(7)</script>",
    "<!DOCTYPE html>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version=1.0?>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href=\"jav&#x09;ascript:alert(1)\">x</a>",
    "<marquee onstart=alert(1)>",
    "<dialog open>x",
    "<portal src=//evil.example>",
    "<slot name=x>",
    "<x-element onclick=alert(1)>",
    "<p/onmouseover=alert(1)>x",
    // Attributes.
    "\" onmouseover=\"alert(1)",
    "' onmouseover='alert(1)",
    "\"><script>alert(8)</script>",
    "'><script>alert(9)</script>",
    "` onmouseover=`alert(1)",
    "x\" autofocus onfocus=alert(1) y=\"",
    "x\" style=\"position:fixed;inset:0",
    "\"/><img src=x>",
    "\" data-into=\"#page",
    "\" data-confirm=\"x",
    "\" href=\"javascript:alert(1)",
    "\" class=\"panel\" id=\"panel",
    "=\"\"''><",
    // Addresses.
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "//evil.example/x",
    "https://evil.example/?q=<x>&y=\"z\"",
    "../../../etc/passwd",
    "..",
    "/w/ws_0000000000002/traces",
    "?panel=x&after=y#z",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "%00%0d%0aSet-Cookie: x=y",
    "a&status=error&panel=x",
    "#main",
    // Entities and templates.
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "&#x3c;img&#x3e;",
    "&quot;&apos;&amp;&nbsp;",
    "&notit;&copy",
    "{{7*7}}",
    "{% include \"layout.html\" %}",
    "${7*7}#{7*7}",
    "<%= 7*7 %>",
    "[[${7*7}]]",
    "{{constructor.constructor('alert(1)')()}}",
    // JSON that breaks out.
    "\"}]}</script><script>alert(1)",
    "\\\"}];alert(1)//",
    "\\u003cscript\\u003ealert(1)",
    "\u{2028}alert(1)\u{2029}//",
    "{\"__proto__\":{\"x\":1}",
    // Style.
    "x;background:url(//evil.example)",
    "*/}body{display:none}/*",
    "expression(alert(1))",
    // What cannot be seen.
    "invoice\u{202e}fdp.exe",
    "a\u{200b}b\u{200d}c\u{feff}d",
    "\u{2066}isolated\u{2069}",
    "bell\u{7}esc\u{1b}[31mred",
    "tags\u{e0041}\u{e0042}",
    "z\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}algo",
    "full＜script＞width",
];

/// A harmless text for each of them: as long, different from the others, and with a slash where it has one,
/// because what stands behind that is the version of a client.
fn harmless(number: usize) -> String {
    let name = format!("h{number}");
    let mut rest = name.chars();
    let same = |char: char| if char == '/' { '/' } else { rest.next().unwrap_or('x') };
    let mut text: String = PAYLOADS[number].chars().map(same).collect();
    text.extend(rest);
    text
}

fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn traces(text: &str, number: u64) -> Trace {
    let json = json!({"name": text, "arguments": {text: [text]}}).to_string();
    Trace {
        operation: leaked(text),
        method: text.into(),
        upstream: Some(text.into()),
        request: Some(Bytes::from(json)),
        // No JSON at all.
        response: Some(Bytes::from(text.to_owned())),
        status: Status::Error,
        error: Some(text.to_owned()),
        principal: text.into(),
        session_id: text.into(),
        transport: Some("stdio"),
        metadata: vec![(text.to_owned(), FieldValue::Text(text.to_owned()))],
        ..trace(number, text)
    }
}

fn events(text: &str, number: u64) -> AuditEvent {
    AuditEvent {
        event_type: leaked(text),
        upstream: Some(text.into()),
        principal: text.into(),
        session_id: Some(text.into()),
        reason: Some(text.to_owned()),
        details: vec![(text.to_owned(), FieldValue::Text(text.to_owned()))],
        ..event(number, text)
    }
}

/// People and gateways that are called so.
fn plan(texts: &[String]) -> Plan {
    let text = &texts[0];
    let label = GatewayLabel {
        id: GatewayId::from_number(1),
        name: text.clone(),
        owner: Some(text.clone()),
    };
    let mut plan = Plan { label, ..Plan::default() };
    let account = plan.viewing.account.as_mut().unwrap();
    account.name = text.clone();
    account.email = text.clone();
    for entry in &mut plan.viewing.entries {
        entry.organization_name = text.clone();
        entry.team_name = text.clone();
        entry.workspace_name = text.clone();
    }
    plan.facets = Facets {
        versions: texts.to_vec(),
        systems: texts.to_vec(),
        kinds: texts.to_vec(),
        environments: texts.to_vec(),
        owners: texts.iter().map(|text| (UserId::from_number(1), text.clone())).collect(),
    };
    for (number, text) in (1..).zip(texts) {
        let mut gateway = gateway(number, text, State::Online);
        gateway.line.owner = Some(text.clone());
        gateway.line.workspace_name = text.clone();
        gateway.deploy_key = Some(text.clone());
        let host = Host {
            os: text.clone(),
            os_version: Some(text.clone()),
            arch: text.clone(),
            hostname: text.clone(),
            version: text.clone(),
            kind: text.clone(),
            environment: text.clone(),
        };
        gateway.line.host = host;
        gateway.setup =
            SetupReport { enforcement_profile: Some(text.clone()), ..SetupReport::default() };
        gateway.clients = vec![ClientReport {
            name: text.clone(),
            version: text.clone(),
            managed: None,
            active_unix_ms: None,
        }];
        gateway.upstreams = vec![UpstreamReport {
            name: text.clone(),
            state: text.clone(),
            server: Some(text.clone()),
            transport: Some(text.clone()),
            tools: 1,
            error: Some(text.clone()),
        }];
        plan.gateways.push(gateway);
    }
    plan
}

/// A site with these texts everywhere.
fn site(texts: &[String]) -> Site {
    let site = plan(texts).build();
    let numbered = || texts.iter().zip(1..);
    site.record(
        numbered().map(|(text, number)| traces(text, number)).collect(),
        numbered().map(|(text, number)| events(text, number)).collect(),
    );
    site
}

/// The pages on which a text stands.
fn pages(text: &str, number: u64) -> Vec<String> {
    let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let (call, event) = (trace(number, "").id, event(number, "").id);
    let gateway = GatewayId::from_number(number.cast_signed());
    vec![
        format!(
            "traces?name={encoded}&upstream={encoded}&client={encoded}&operation={encoded}&panel={call}"
        ),
        format!("traces/{call}"),
        format!("audit?type={encoded}&session={encoded}&panel={event}"),
        format!("audit/{event}"),
        format!("session?gateway=gw_0000000000001&session={encoded}&panel={call}"),
        format!("server?name={encoded}"),
        format!("server?name={encoded}&tab=gateways"),
        format!("gateways?search={encoded}&version={encoded}&os={encoded}&panel={gateway}"),
    ]
}

fn shapes(html: &str) -> Vec<String> {
    elements(html).iter().map(Element::shape).collect()
}

/// Compares pages, and says where they differ.
fn assert_same(hostile: &str, harmless: &str, what: &str) {
    let (of, expected) = (shapes(hostile), shapes(harmless));
    let first = of.iter().zip(&expected).position(|(a, b)| a != b);
    assert!(
        first.is_none() && of.len() == expected.len(),
        "{what}: element {first:?} of {} and {}: {:?} instead of {:?}",
        of.len(),
        expected.len(),
        first.map(|place| &of[place]),
        first.map(|place| &expected[place]),
    );
    let chosen = |html| elements(html).iter().filter(|of| of.get("selected").is_some()).count();
    assert_eq!(chosen(hostile), chosen(harmless), "{what}");
    for element in elements(hostile) {
        for name in ["href", "src", "action"] {
            let local = element.get(name).is_none_or(|to| {
                to.starts_with(['#', '?']) || (to.starts_with('/') && !to.starts_with("//"))
            });
            assert!(local, "{what}: {element:?}");
        }
    }
}

#[tokio::test]
async fn hostile_text_adds_no_element_and_no_attribute() {
    let bad: Vec<_> = PAYLOADS.iter().map(|text| (*text).to_owned()).collect();
    let good: Vec<_> = (0..PAYLOADS.len()).map(harmless).collect();
    // A hundred choices are offered of each thing.
    for (bad, good) in bad.chunks(60).zip(good.chunks(60)) {
        compare(bad, good).await;
    }
}

async fn compare(bad: &[String], good: &[String]) {
    let (hostile, tame) = (site(bad), site(good));

    for page in ["traces", "audit", "servers", "gateways"] {
        let (a, b) = (hostile.page(page).await.ok(), tame.page(page).await.ok());
        assert_same(&a, &b, page);
    }
    for (number, (bad, good)) in (1..).zip(bad.iter().zip(good)) {
        for (path, other) in pages(bad, number).iter().zip(&pages(good, number)) {
            let (a, b) = (hostile.page(path).await.ok(), tame.page(other).await.ok());
            assert_same(&a, &b, path);
            assert!(a.contains(&escaped(&visible(bad, false))), "{path} shows it");
        }
    }
}

/// As templates write it.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&#38;").replace('<', "&#60;").replace('>', "&#62;");
    text.replace('"', "&#34;").replace('\'', "&#39;")
}

#[tokio::test]
async fn each_text_is_where_people_are_named_too() {
    let (mut hostile, mut tame) = (Plan::default().build(), Plan::default().build());
    for (number, text) in PAYLOADS.iter().enumerate() {
        hostile.instead(plan(&[(*text).to_owned()]));
        tame.instead(plan(&[harmless(number)]));

        let (a, b) = (hostile.page("gateways").await.ok(), tame.page("gateways").await.ok());

        assert_same(&a, &b, text);
    }
}

#[tokio::test]
async fn nothing_invisible_reaches_a_page() {
    let all: Vec<_> = PAYLOADS.iter().map(|text| (*text).to_owned()).collect();
    let site = site(&all);
    let bells = PAYLOADS.iter().position(|text| text.contains('\u{7}')).unwrap() as i64 + 1;
    let opened = format!("gateways?panel={}", GatewayId::from_number(bells));

    for page in ["traces", "audit", "servers", "gateways", &opened] {
        let html = site.page(page).await.ok();

        for element in elements(&html) {
            // Values of options are sent back as they are, and not shown.
            let shown = element
                .attributes
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), "value" | "data-key"));
            let text = if element.name == "html" { &*element.text } else { "" };
            for text in shown.map(|(_, value)| value.as_str()).chain([text]) {
                assert_eq!(visible(text, true), text, "{page}");
            }
        }
    }
}
