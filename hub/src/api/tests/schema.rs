//! Whether JSON is as a schema of the description says: no more, and no less.

use serde_json::{Map, Value};

/// Says where a value is not as the schema says. What the schema does not mention must not be there.
///
/// # Panics
///
/// If the schema has a keyword that is not known here: then this would believe too much.
pub(super) fn fits(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let mut whole = Map::new();
    gather(document, schema, &mut whole);
    let members = whole.get("properties").and_then(Value::as_object);
    for (keyword, says) in &whole {
        match keyword.as_str() {
            "type" => {
                let types = says.as_array().map_or_else(|| vec![says], |all| all.iter().collect());
                let known = types.iter().any(|name| is(name, value));
                known.then_some(()).ok_or_else(|| format!("{at}: {value} is no {says}"))?;
                if let (Some(object), false) = (value.as_object(), whole.contains_key("oneOf")) {
                    let stray = object
                        .keys()
                        .find(|name| !members.is_some_and(|of| of.contains_key(*name)));
                    stray.map_or(Ok(()), |name| Err(format!("{at}: `{name}` is not described")))?;
                }
            }
            "enum" => {
                let known = list(says).contains(value);
                known.then_some(()).ok_or_else(|| format!("{at}: {value} is none of {says}"))?;
            }
            "minimum" if value.is_null() => {}
            "minimum" => {
                let enough = value.as_f64() >= says.as_f64();
                enough.then_some(()).ok_or_else(|| format!("{at}: {value} is below {says}"))?;
            }
            "oneOf" => {
                let fit = |option: &&Value| fits(document, option, value, at).is_ok();
                let count = list(says).iter().filter(fit).count();
                (count == 1).then_some(()).ok_or_else(|| format!("{at}: {count} of {says} fit"))?;
            }
            "required" if value.is_object() => {
                let missing =
                    list(says).iter().find(|name| value.get(name.as_str().unwrap()).is_none());
                missing.map_or(Ok(()), |name| Err(format!("{at}: no {name}")))?;
            }
            "properties" if value.is_object() => {
                for (name, schema) in members.into_iter().flatten() {
                    let Some(member) = value.get(name) else { continue };
                    fits(document, schema, member, &format!("{at}/{name}"))?;
                }
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(document, says, item, &format!("{at}/{place}"))?;
                }
            }
            "required" | "properties" | "description" | "format" | "default" => {}
            other => panic!("{at}: the keyword `{other}` is not known here"),
        }
    }
    Ok(())
}

/// Puts together what a schema, those it refers to, and its parts say.
fn gather(document: &Value, schema: &Value, whole: &mut Map<String, Value>) {
    for (keyword, says) in schema.as_object().expect("a schema") {
        match (keyword.as_str(), whole.get_mut(keyword)) {
            ("$ref", _) => {
                let path = says.as_str().unwrap().trim_start_matches('#');
                gather(document, document.pointer(path).expect("what is referred to"), whole);
            }
            ("allOf", _) => list(says).iter().for_each(|part| gather(document, part, whole)),
            ("properties", Some(Value::Object(known))) => {
                known.extend(says.as_object().unwrap().clone());
            }
            ("required", Some(Value::Array(known))) => known.extend(list(says).iter().cloned()),
            (_, _) => {
                whole.insert(keyword.clone(), says.clone());
            }
        }
    }
}

fn list(says: &Value) -> &[Value] {
    says.as_array().expect("a list")
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("the name of a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type `{other}` is not known here"),
    }
}
