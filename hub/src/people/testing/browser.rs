//! A browser, as far as a server sees one: cookies, forms, and where a request comes from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use tower_service::Service;

use crate::people::ticket::Ticket;
use crate::server::Peer;

/// Where the site is.
pub(crate) const ORIGIN: &str = "http://127.0.0.1:8080";

/// What came back.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    /// Where it leads; nothing if it is a page.
    pub(crate) fn location(&self) -> &str {
        self.header("location")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} {}", self.status, self.text))
    }

    /// Returns what stands between two texts, the first time they do.
    pub(crate) fn between(&self, before: &str, after: &str) -> String {
        let rest = self
            .text
            .split_once(before)
            .unwrap_or_else(|| panic!("no `{before}`: {}", self.text))
            .1;
        rest.split_once(after).unwrap_or_else(|| panic!("no `{after}`: {rest}")).0.to_owned()
    }
}

/// A browser.
#[derive(Clone)]
pub(crate) struct Browser {
    router: Router,
    pub(crate) cookies: BTreeMap<String, String>,
    pub(crate) address: IpAddr,
    pub(crate) secure: bool,
    /// Sent with every request, in place of what a browser would say.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Browser {
    pub(crate) fn new(router: Router, address: IpAddr) -> Self {
        let headers = vec![
            ("host", "127.0.0.1:8080".to_owned()),
            ("sec-fetch-site", "same-origin".to_owned()),
            ("accept", "text/html".to_owned()),
            ("user-agent", "Browser/1.0".to_owned()),
        ];
        Self { router, cookies: BTreeMap::new(), address, secure: false, headers }
    }

    /// Says this in a header from now on; nothing if it is empty.
    pub(crate) fn saying(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.headers.push((name, value.to_owned()));
        }
        self
    }

    pub(crate) async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, Body::empty()).await
    }

    /// Posts a form as it is.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let body =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(Method::POST, path, Body::from(body)).await
    }

    /// Posts a form with the token that pages of this session have.
    pub(crate) async fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.csrf();
        let mut fields = fields.to_vec();
        fields.push(("csrf", &csrf));
        self.post(path, &fields).await
    }

    /// Posts JSON.
    pub(crate) async fn tell(&mut self, path: &str, body: &serde_json::Value) -> Page {
        let mut browser = self.clone().saying("content-type", "application/json");
        browser.send(Method::POST, path, Body::from(body.to_string())).await
    }

    /// The token of forms, as the pages have it.
    pub(crate) fn csrf(&self) -> String {
        let session =
            self.cookies.get("ultra_session").or(self.cookies.get("__Host-ultra_session"));
        session.map(|text| Ticket::parse(text).unwrap().csrf()).unwrap_or_default()
    }

    pub(crate) async fn send(&mut self, method: Method, path: &str, body: Body) -> Page {
        let mut request = Request::builder().method(&method).uri(path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let says_what = self.headers.iter().any(|(name, _)| *name == "content-type");
        if method == Method::POST && !says_what {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Peer { address: self.address, secure: self.secure });
        let response = self.router.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        for line in parts.headers.get_all(header::SET_COOKIE) {
            let (name, rest) = line.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let is_endless = parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let text =
            if is_endless { first(body).await } else { to_bytes(body, 1 << 22).await.unwrap() };
        let text = String::from_utf8(text.to_vec()).unwrap();
        Page { status: parts.status, headers: parts.headers, text }
    }
}

/// The beginning of an answer that has no end.
async fn first(mut body: Body) -> Bytes {
    let frame = body.frame().await.expect("something").unwrap();
    frame.into_data().unwrap()
}
