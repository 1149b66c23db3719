//! JSON-RPC: what comes in, what goes out, and what goes wrong.

use serde_json::{Map, Value, json};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

pub(crate) const PARSE_ERROR: i64 = -32700;
pub(crate) const INVALID_REQUEST: i64 = -32600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
pub(crate) const INVALID_PARAMS: i64 = -32602;
pub(crate) const INTERNAL_ERROR: i64 = -32603;
/// What servers with sessions commonly answer to a request that has none.
pub(crate) const NO_SESSION: i64 = -32000;
/// Resource not found, up to 2025-11-25.
pub(crate) const RESOURCE_NOT_FOUND: i64 = -32002;
/// 2026-07-28: a header differs from the body, or is missing.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
/// 2026-07-28: the client did not declare a capability that is needed.
pub(crate) const MISSING_CAPABILITY: i64 = -32021;
/// 2026-07-28: no such revision here.
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;

/// Why a request has no result.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

impl Fault {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(crate) fn with(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("no method `{method}`"))
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// Returns the error response, without an id if the request's could not be read.
    pub(crate) fn response(self, id: Option<Value>) -> Value {
        let mut message = json!({"jsonrpc": "2.0", "error": self.object()});
        if let Some(id) = id {
            message["id"] = id;
        }
        message
    }

    /// Returns the `error` member.
    pub(crate) fn object(self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = self.data {
            error["data"] = data;
        }
        error
    }
}

/// A request of the client.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: Value,
    pub(crate) method: String,
    pub(crate) params: Object,
}

impl Request {
    /// Returns a member of `params._meta`.
    pub(crate) fn meta(&self, key: &str) -> Option<&Value> {
        self.params.get("_meta")?.get(key)
    }

    /// Returns the arguments of a tool or prompt; none is as good as empty ones.
    pub(crate) fn arguments(&self) -> Object {
        self.params.get("arguments").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Returns a string of `params`.
    pub(crate) fn text(&self, key: &str) -> Result<&str, Fault> {
        let text = self.params.get(key).and_then(Value::as_str);
        text.ok_or_else(|| Fault::invalid_params(format!("`{key}` is missing or no string")))
    }
}

/// A message of the client.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Request),
    Notification { method: String, params: Object },
    Response { id: Value, answer: Result<Value, Value> },
}

impl Incoming {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let message: Value = serde_json::from_slice(bytes)
            .map_err(|error| Fault::new(PARSE_ERROR, format!("no JSON: {error}")))?;
        let invalid = |what: &str| Fault::new(INVALID_REQUEST, what);
        let Value::Object(mut message) = message else {
            return Err(invalid("a message is an object"));
        };
        if message.get("jsonrpc") != Some(&json!("2.0")) {
            return Err(invalid("`jsonrpc` is not `2.0`"));
        }
        let id = message.remove("id");
        if id.as_ref().is_some_and(|id| !id.is_string() && !id.is_number()) {
            return Err(invalid("`id` is neither string nor number"));
        }
        match (message.remove("method"), id) {
            (Some(Value::String(method)), id) => {
                let params = match message.remove("params") {
                    Some(Value::Object(params)) => params,
                    None => Object::new(),
                    Some(_) => return Err(invalid("`params` is no object")),
                };
                Ok(match id {
                    Some(id) => Self::Request(Request { id, method, params }),
                    None => Self::Notification { method, params },
                })
            }
            (None, Some(id)) => match (message.remove("result"), message.remove("error")) {
                (Some(result), None) => Ok(Self::Response { id, answer: Ok(result) }),
                (None, Some(error)) => Ok(Self::Response { id, answer: Err(error) }),
                _ => Err(invalid("a response has either `result` or `error`")),
            },
            _ => Err(invalid("neither request, notification nor response")),
        }
    }
}

pub(crate) fn result(id: Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

pub(crate) fn request(id: u64, method: &Value, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub(crate) fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}
