//! The tools that ask: the user, the model, for roots. Each is a step that knows nothing of the steps before
//! but what comes with the call.

use serde_json::{Value, json};

use crate::call::{Ask, Call, Outcome};
use crate::content::says;
use crate::rpc::Object;

/// Runs the next step of a tool that asks; none if there is no such tool.
pub(crate) fn step(name: &str, call: &Call) -> Option<Outcome> {
    let step = match name {
        "test_sampling" => one(call, "answer", sampling(call.text("prompt")))
            .map(|answer| format!("The model says: {}", answer["content"]["text"])),
        "test_missing_capability" => one(call, "answer", sampling("Anything"))
            .map(|_| "The client can sample after all.".to_owned()),
        "test_elicitation" => one(call, "answer", ask_for_account(call.text("message")))
            .map(|answer| format!("The user says: {answer}")),
        "test_elicitation_sep1034_defaults" => one(call, "answer", ask_with_defaults())
            .map(|answer| format!("The user says: {answer}")),
        "test_elicitation_sep1330_enums" => {
            one(call, "answer", ask_with_enums()).map(|answer| format!("The user says: {answer}"))
        }
        "test_input_required_result_elicitation"
        | "test_streaming_elicitation"
        | "test_tool_with_task" => one(call, "user_name", ask_for("name", "Your name?"))
            .map(|answer| format!("Hello, {}!", content(answer, "name"))),
        "test_input_required_result_sampling" => {
            one(call, "capital_question", sampling("What is the capital of France?"))
                .map(|answer| format!("The model says: {}", answer["content"]["text"]))
        }
        "test_input_required_result_list_roots" => one(call, "client_roots", roots())
            .map(|answer| format!("The roots are {}", answer["roots"])),
        "test_input_required_result_request_state"
        | "test_input_required_result_tampered_state" => confirm(call),
        "test_input_required_result_multiple_inputs" => many(call),
        "test_input_required_result_multi_round" => rounds(call),
        "test_input_required_result_capabilities" => what_the_client_can(call),
        "confirm_delete" => one(call, "confirm", ask_to_confirm())
            .map(|answer| format!("{}: {answer}", call.text("filename"))),
        "multi_input" => all(
            call,
            [("first", ask_for("name", "A name?")), ("second", ask_for("name", "Another?"))],
            None,
        )
        .map(|answers| format!("Two answers: {}", json!(answers))),
        _ => return None,
    };
    Some(match step {
        Ok(text) => Outcome::Done(says(text)),
        Err(ask) => Outcome::Ask(ask),
    })
}

/// Returns the answer to one question, or what to ask.
pub(crate) fn one<'a>(call: &'a Call, key: &str, question: Value) -> Result<&'a Value, Ask> {
    let answer = call.answers.get(key);
    answer.ok_or_else(|| Ask {
        requests: Object::from_iter([(key.to_owned(), question)]),
        state: None,
    })
}

/// Returns the answers, if there is one to each question; otherwise all have to be asked again.
fn all<const N: usize>(
    call: &Call,
    questions: [(&str, Value); N],
    state: Option<Value>,
) -> Result<Object, Ask> {
    let answered = questions.iter().all(|(key, _)| call.answers.contains_key(*key));
    if answered && call.state == state {
        return Ok(call.answers.clone());
    }
    let requests =
        questions.into_iter().map(|(key, question)| (key.to_owned(), question)).collect();
    Err(Ask { requests, state })
}

/// Wants its state back with the answer.
fn confirm(call: &Call) -> Result<String, Ask> {
    all(call, [("confirm", ask_to_confirm())], Some(json!("confirming")))
        .map(|_| "Confirmed, state-ok.".to_owned())
}

/// Asks the user, the model and for the roots at once.
fn many(call: &Call) -> Result<String, Ask> {
    let questions = [
        ("user_name", ask_for("name", "Your name?")),
        ("greeting", sampling("Greet somebody")),
        ("client_roots", roots()),
    ];
    all(call, questions, Some(json!("asking"))).map(|answers| format!("{} answers", answers.len()))
}

/// Asks twice, and remembers the first answer in the state.
fn rounds(call: &Call) -> Result<String, Ask> {
    let name = call.state.as_ref().and_then(|state| state.get("name"));
    match (name, call.answers.get("step1"), call.answers.get("step2")) {
        (Some(name), _, Some(answer)) => Ok(format!("{name} likes {}", content(answer, "color"))),
        (Some(name), _, None) => Err(second_round(name.clone())),
        (None, Some(answer), _) if call.state.is_some() => {
            Err(second_round(content(answer, "name").clone()))
        }
        (None, _, _) => {
            let requests = json!({"step1": ask_for("name", "Step 1: your name?")});
            Err(asking(requests, json!({"step": 1})))
        }
    }
}

fn second_round(name: Value) -> Ask {
    let requests = json!({"step2": ask_for("color", "Step 2: your favourite colour?")});
    asking(requests, json!({"step": 2, "name": name}))
}

/// Asks for what the client has capabilities for, and nothing else.
fn what_the_client_can(call: &Call) -> Result<String, Ask> {
    let questions = [
        ("elicitation", "user_name", ask_for("name", "Your name?")),
        ("sampling", "greeting", sampling("Greet somebody")),
        ("roots", "client_roots", roots()),
    ];
    let requests: Object = questions
        .into_iter()
        .filter(|(capability, _, _)| call.client_can(capability))
        .map(|(_, key, question)| (key.to_owned(), question))
        .collect();
    if requests.keys().all(|key| call.answers.contains_key(key)) {
        Ok(format!("{} answers", requests.len()))
    } else {
        Err(Ask { requests, state: None })
    }
}

fn asking(requests: Value, state: Value) -> Ask {
    let Value::Object(requests) = requests else { unreachable!("questions are written as object") };
    Ask { requests, state: Some(state) }
}

/// Returns a field of the form the user filled in, null if he did not.
fn content<'a>(answer: &'a Value, field: &str) -> &'a Value {
    &answer["content"][field]
}

pub(crate) fn elicitation(message: &str, properties: Value, required: &[&str]) -> Value {
    let schema = json!({"type": "object", "properties": properties, "required": required});
    json!({"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}})
}

fn ask_for(field: &str, message: &str) -> Value {
    elicitation(message, json!({field: {"type": "string"}}), &[field])
}

fn ask_to_confirm() -> Value {
    elicitation("Are you sure?", json!({"ok": {"type": "boolean"}}), &["ok"])
}

fn ask_for_account(message: &str) -> Value {
    let properties = json!({
        "username": {"type": "string", "description": "Name of the account"},
        "email": {"type": "string", "description": "Address of the account"},
    });
    elicitation(message, properties, &["username", "email"])
}

/// A default for each primitive type (SEP-1034).
fn ask_with_defaults() -> Value {
    let properties = json!({
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true},
    });
    elicitation("Please check these.", properties, &[])
}

/// Each way to offer a choice (SEP-1330), the deprecated one with `enumNames` too.
fn ask_with_enums() -> Value {
    let options = ["option1", "option2", "option3"];
    let titled = |constant: &str, title: &str| json!({"const": constant, "title": title});
    let titled = [titled("value1", "First"), titled("value2", "Second"), titled("value3", "Third")];
    let properties = json!({
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["One", "Two", "Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    });
    elicitation("Please choose.", properties, &[])
}

fn sampling(prompt: &str) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    json!({"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}})
}

fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}
