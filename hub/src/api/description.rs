//! The description of the API, `/api/openapi.json`, from which it is tested.

use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Object, Ref, RefOr, Type};
use utoipa::{Modify, OpenApi};

use super::{gateways, ingest, records};
use crate::wire;

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ultra Hub",
        description = "What gateways and programs say to the Hub. Errors are a `Problem` each: one word that \
                       does not change, and a text for people.\n\n\
                       People get an access token from the Hub's own authorization server, which \
                       `/.well-known/oauth-authorization-server` describes (RFC 8414): authorization code \
                       with PKCE, as client `ultra-cli`, with a redirect to a loopback address. `ultra login` \
                       does that. A deploy key is created in Settings, Security. A gateway gets its secret \
                       when it is linked.",
    ),
    paths(
        gateways::workspaces,
        gateways::link,
        gateways::me,
        gateways::unlink,
        gateways::heartbeat,
        ingest::records,
        records::gateways,
        records::gateway,
        records::streams,
        records::traces,
        records::trace,
        records::audit_events,
        records::audit_event,
        records::servers,
        records::server,
    ),
    components(schemas(wire::BatchHead, wire::Problem)),
    modifiers(&Tokens, &Problems),
)]
pub(super) struct Description;

/// Every request shows a token.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let schemes = [
            ("person", "An access token of `ultra login`, `uha_…`."),
            ("gateway", "A gateway's own secret, `ugw_…`."),
            ("deploy_key", "A deploy key, `dk_…`."),
        ];
        for (name, description) in schemes {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(description.to_owned());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// What any request may be answered. What only some are, stands at those.
struct Problems;

impl Modify for Problems {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut api.paths.paths {
            for operation in operations(item) {
                describe(path, operation);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete].into_iter().filter_map(Option::as_mut)
}

fn describe(path: &str, operation: &mut Operation) {
    let has_body = operation.request_body.is_some();
    let is_read = path.contains("{workspace}");
    let always = [
        (true, "401", "No token, or one that is not valid any more"),
        (true, "429", "Too often"),
        (true, "500", "A fault of the Hub, which is in its log"),
        (true, "503", "Not now"),
        (true, "default", "Whatever else goes wrong"),
        (has_body || is_read, "400", "Something is wrong with what was sent"),
        (has_body, "413", "The body has more bytes than are taken"),
        (is_read, "403", "The asker's role sees no records"),
        (is_read, "404", "There is no such thing, or it is none of the asker's business"),
    ];
    for (_, status, text) in always.into_iter().filter(|(holds, ..)| *holds) {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| problem(status, text).into());
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = "Done".to_owned();
        }
    }
}

fn problem(status: &str, text: &str) -> Response {
    let body = Content::new(Some(Ref::from_schema_name("Problem")));
    let mut response = ResponseBuilder::new().description(text).content("application/json", body);
    let headers = match status {
        "401" => Some(("WWW-Authenticate", Type::String)),
        "429" | "503" => Some(("Retry-After", Type::Integer)),
        _ => None,
    };
    if let Some((name, kind)) = headers {
        response = response.header(name, Header::new(Object::with_type(kind)));
    }
    response.build()
}
