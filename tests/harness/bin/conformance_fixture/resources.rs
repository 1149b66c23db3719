//! What each resource contains.

use serde_json::{Value, json};

use crate::call::Era;
use crate::content::PNG;
use crate::rpc::{Fault, INVALID_PARAMS, RESOURCE_NOT_FOUND};

/// Returns the contents of a resource.
pub(crate) fn read(uri: &str, era: Era) -> Result<Value, Fault> {
    let content = match uri {
        "test://static-text" => {
            json!({"mimeType": "text/plain", "text": "Text that never changes."})
        }
        "test://static-binary" => json!({"mimeType": "image/png", "blob": PNG}),
        "test://watched-resource" => json!({"mimeType": "text/plain", "text": "Worth watching."}),
        _ => match template_id(uri) {
            Some(id) => {
                let text = json!({"id": id, "data": format!("Data of {id}")}).to_string();
                json!({"mimeType": "application/json", "text": text})
            }
            None => return Err(not_found(uri, era)),
        },
    };
    let mut content = content;
    content["uri"] = json!(uri);
    Ok(json!({"contents": [content]}))
}

/// Returns the `id` in `test://template/{id}/data`.
fn template_id(uri: &str) -> Option<&str> {
    let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn not_found(uri: &str, era: Era) -> Fault {
    let code = match era {
        Era::Legacy => RESOURCE_NOT_FOUND,
        Era::Modern => INVALID_PARAMS,
    };
    Fault::new(code, "resource not found").with(json!({"uri": uri}))
}
