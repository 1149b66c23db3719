//! The endpoints.

use std::sync::{Mutex, PoisonError};

use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use serde_json::{Map, Value, json};
use url::{Url, form_urlencoded};

use super::state::{Asked, State};

type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub(super) async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let path = head.uri.path().to_owned();
    if path.starts_with("/.well-known/") || path.ends_with("/.well-known/openid-configuration") {
        state.seen.well_known.push(path.clone());
    }
    if head.headers.contains_key(AUTHORIZATION) && !matches!(path.as_str(), "/mcp" | "/token") {
        state.fault(format!("a token or a password at `{path}`"));
    }
    match (head.method, path.as_str()) {
        (Method::GET, path) if Some(path) == state.behaviour.resource_metadata_at => {
            resource_metadata(&state)
        }
        (Method::GET, path) if Some(path) == state.behaviour.server_metadata_at => {
            server_metadata(&state)
        }
        (Method::POST, "/register") => register(&body, &mut state),
        (Method::GET, "/authorize") => {
            authorize(pairs(head.uri.query().unwrap_or_default().as_bytes()), &mut state)
        }
        (Method::POST, "/token") => token(pairs(&body), &head.headers, &mut state),
        (Method::POST, "/mcp") => mcp(&head.headers, &body, &mut state),
        _ => plain(StatusCode::NOT_FOUND),
    }
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

fn document(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(value.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a header value"));
    answer
}

fn pairs(form: &[u8]) -> Asked {
    Asked(form_urlencoded::parse(form).into_owned().collect())
}

fn patched(mut value: Value, patch: &Map<String, Value>) -> Value {
    for (name, member) in patch {
        match member {
            Value::Null => drop(value.as_object_mut().expect("an object").remove(name)),
            member => value[name] = member.clone(),
        }
    }
    value
}

fn resource_metadata(state: &State) -> Answer {
    let metadata = json!({
        "resource": format!("{}/mcp", state.origin),
        "authorization_servers": [state.issuer()],
    });
    document(StatusCode::OK, &patched(metadata, &state.behaviour.resource_metadata))
}

fn server_metadata(state: &State) -> Answer {
    let at = |path: &str| format!("{}{path}", state.origin);
    let metadata = json!({
        "issuer": state.issuer(),
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "registration_endpoint": at("/register"),
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "authorization_response_iss_parameter_supported": true,
    });
    document(StatusCode::OK, &patched(metadata, &state.behaviour.server_metadata))
}

fn register(body: &[u8], state: &mut State) -> Answer {
    let Ok(mut client) = serde_json::from_slice::<Value>(body) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    if client["application_type"] != "native" {
        state.fault("registered as no native application");
    }
    state.seen.registrations += 1;
    let id = state.name("client");
    state.clients.insert(id.clone(), None);
    client["client_id"] = id.into();
    document(StatusCode::CREATED, &client)
}

fn authorize(asked: Asked, state: &mut State) -> Answer {
    state.seen.sign_ins.push(asked.clone());
    if asked.get("resource") != format!("{}/mcp", state.origin) {
        state.fault(format!("`{}` is no resource here", asked.get("resource")));
    }
    if asked.get("code_challenge_method") != "S256" || asked.get("response_type") != "code" {
        state.fault("no PKCE with S256, or no code asked for");
    }
    let Ok(mut url) = Url::parse(asked.get("redirect_uri")) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    url.query_pairs_mut().append_pair("state", asked.get("state"));
    match state.behaviour.iss {
        Some("") => drop(url.query_pairs_mut().append_pair("iss", &state.issuer())),
        Some(iss) => drop(url.query_pairs_mut().append_pair("iss", iss)),
        None => {}
    }
    match state.behaviour.denies {
        Some(error) => drop(url.query_pairs_mut().append_pair("error", error)),
        None => {
            let code = state.name("code");
            url.query_pairs_mut().append_pair("code", &code);
            state.codes.insert(code, asked);
        }
    }
    let mut answer = plain(StatusCode::FOUND);
    answer.headers_mut().insert(LOCATION, url.as_str().parse().expect("a URL is a header value"));
    answer
}

fn token(mut asked: Asked, headers: &HeaderMap, state: &mut State) -> Answer {
    let refused = |error: &str| document(StatusCode::BAD_REQUEST, &json!({"error": error}));
    let method = match (headers.get(AUTHORIZATION), asked.0.contains_key("client_secret")) {
        (Some(_), _) => "client_secret_basic",
        (None, true) => "client_secret_post",
        (None, false) => "none",
    };
    asked.0.insert("method".into(), method.into());
    if method == "none" {
        // Whoever shows a secret is known; this server does not check which.
        let known = state.clients.get(asked.get("client_id"));
        let is_document = asked.get("client_id").starts_with("https://");
        if !is_document && known.is_none_or(Option::is_some) {
            return refused("invalid_client");
        }
    }
    if asked.get("resource") != format!("{}/mcp", state.origin) {
        state.fault("no resource at the token endpoint");
    }
    let scopes = match asked.get("grant_type") {
        "authorization_code" => {
            state.seen.redeemed.push(asked.clone());
            let Some(request) = state.codes.remove(asked.get("code")) else {
                return refused("invalid_grant");
            };
            let verifier = PkceCodeVerifier::new(asked.get("code_verifier").to_owned());
            let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
            if challenge.as_str() != request.get("code_challenge")
                || asked.get("redirect_uri") != request.get("redirect_uri")
            {
                state.fault("another verifier or redirect URI than at the beginning");
                return refused("invalid_grant");
            }
            if state.behaviour.grants { request.get("scope").to_owned() } else { String::new() }
        }
        "refresh_token" => {
            state.seen.refreshes.push(asked.clone());
            match state.refresh.remove(asked.get("refresh_token")) {
                Some(scopes) => scopes,
                None => return refused("invalid_grant"),
            }
        }
        _ => return refused("unsupported_grant_type"),
    };
    let mut answer = json!({"access_token": state.issue(&scopes), "token_type": "Bearer"});
    if let Some(seconds) = state.behaviour.lifetime_seconds {
        answer["expires_in"] = seconds.into();
    }
    if !scopes.is_empty() {
        answer["scope"] = scopes.clone().into();
    }
    if state.behaviour.refreshes {
        let token = state.name("refresh");
        answer["refresh_token"] = token.clone().into();
        state.refresh.insert(token, scopes);
    }
    document(StatusCode::OK, &answer)
}

fn mcp(headers: &HeaderMap, body: &[u8], state: &mut State) -> Answer {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let behaviour = &state.behaviour;
    let has = |scopes: &str, needed: &str| {
        needed.split_ascii_whitespace().all(|scope| scopes.split(' ').any(|has| has == scope))
    };
    let scopes = token.and_then(|token| state.scopes_of(token));
    let (status, challenge) = match scopes.or(behaviour.is_open.then_some("")) {
        None => (StatusCode::UNAUTHORIZED, format!(r#"Bearer scope="{}""#, behaviour.needs)),
        Some(scopes) if !has(scopes, behaviour.needs_more) => (
            StatusCode::FORBIDDEN,
            format!(r#"Bearer error="insufficient_scope", scope="{}""#, behaviour.needs_more),
        ),
        Some(_) => {
            state.seen.calls += 1;
            return message(body);
        }
    };
    let challenge = challenge.replace(r#" scope="""#, "");
    let challenge = match behaviour.resource_metadata_at.filter(|_| behaviour.names_metadata) {
        Some(path) if challenge == "Bearer" => {
            format!(r#"Bearer resource_metadata="{}{path}""#, state.origin)
        }
        Some(path) => format!(r#"{challenge}, resource_metadata="{}{path}""#, state.origin),
        None => challenge,
    };
    let mut answer = plain(status);
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, challenge.parse().expect("a challenge is a header value"));
    answer
}

/// Answers a message of the legacy era. There is one tool, `whoami`.
fn message(body: &[u8]) -> Answer {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    if message["id"].is_null() {
        return plain(StatusCode::ACCEPTED);
    }
    let mut answer = json!({"jsonrpc": "2.0", "id": message["id"]});
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            let info = json!({"name": "protected", "version": "1"});
            answer["result"] = json!({
                "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info,
            });
        }
        "tools/list" => {
            let tool = json!({"name": "whoami", "inputSchema": {"type": "object"}});
            answer["result"] = json!({"tools": [tool]});
        }
        "tools/call" => {
            answer["result"] = json!({"content": [{"type": "text", "text": "somebody"}]});
        }
        method => {
            answer["error"] = json!({"code": -32601, "message": format!("no method `{method}`")});
        }
    }
    document(StatusCode::OK, &answer)
}
