//! What each prompt becomes, and how its arguments are completed.

use serde_json::{Value, json};

use crate::asking;
use crate::call::{Call, Outcome};
use crate::content::{embedded, image, text};
use crate::rpc::{Fault, Object};

/// What arguments are completed to, by the name of the argument.
const COMPLETIONS: [(&str, &[&str]); 3] = [
    ("arg1", &["test", "testing", "tester", "other"]),
    ("arg2", &["one", "two"]),
    ("id", &["123", "124", "456"]),
];

/// Runs the next step of a prompt.
pub(crate) fn step(name: &str, call: &Call) -> Result<Outcome, Fault> {
    let messages = match name {
        "test_simple_prompt" | "test_extra_prompt" => vec![text("A prompt without arguments.")],
        "test_prompt_with_arguments" => {
            let (arg1, arg2) = (argument(call, "arg1")?, argument(call, "arg2")?);
            vec![text(format!("A prompt with `{arg1}` and `{arg2}`."))]
        }
        "test_prompt_with_embedded_resource" => {
            let uri = argument(call, "resourceUri")?;
            vec![embedded(uri, "text/plain", "Embedded text."), text("What does it say?")]
        }
        "test_prompt_with_image" => vec![image(), text("What does it show?")],
        "test_input_required_result_prompt" => {
            let question = asking::elicitation(
                "What is the prompt about?",
                json!({"context": {"type": "string"}}),
                &["context"],
            );
            match asking::one(call, "user_context", question) {
                Ok(answer) => {
                    vec![text(format!("A prompt about {}.", answer["content"]["context"]))]
                }
                Err(ask) => return Ok(Outcome::Ask(ask)),
            }
        }
        _ => return Err(Fault::invalid_params(format!("no prompt `{name}`"))),
    };
    let messages: Vec<_> =
        messages.into_iter().map(|content| json!({"role": "user", "content": content})).collect();
    Ok(Outcome::Done(json!({"messages": messages})))
}

fn argument<'a>(call: &'a Call, name: &str) -> Result<&'a str, Fault> {
    let value = call.arguments.get(name).and_then(Value::as_str);
    value.ok_or_else(|| Fault::invalid_params(format!("the prompt needs `{name}`")))
}

/// Completes an argument of a prompt or template.
pub(crate) fn complete(params: &Object) -> Result<Value, Fault> {
    let argument = params.get("argument").and_then(|argument| {
        Some((argument.get("name")?.as_str()?, argument.get("value")?.as_str()?))
    });
    let Some((name, value)) = argument else {
        return Err(Fault::invalid_params("`argument` needs `name` and `value`"));
    };
    let known = COMPLETIONS.iter().find(|(argument, _)| *argument == name);
    let values: Vec<_> = known
        .map_or(&[][..], |(_, values)| values)
        .iter()
        .filter(|candidate| candidate.starts_with(value))
        .collect();
    Ok(json!({"completion": {"values": values, "total": values.len(), "hasMore": false}}))
}
