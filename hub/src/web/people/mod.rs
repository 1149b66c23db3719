//! The pages of people: set-up, sign-in, settings; and the doors for the command line.
//!
//! What they do is in [`crate::people`]; which of them somebody may open stands in `routes.rs`, and nowhere
//! else.

mod account;
mod answer;
mod authorize;
mod door;
mod fields;
mod invites;
mod routes;
mod settings;
mod setup;
mod sign_in;
#[cfg(test)]
mod tests;
mod token;
mod visit;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::routing::{MethodFilter, on};

pub(crate) use answer::failure;

use crate::people::People;
use crate::web::text::Text;
use routes::{ROUTES, Verb};

/// Returns the routes of people.
pub(crate) fn router(people: Arc<People>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        };
        let serve = move |State(people): State<Arc<People>>,
                          params: RawPathParams,
                          request: Request| async move {
            let params =
                params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            door::serve(people, route, params, request).await
        };
        router = router.route(route.path, on(filter, serve));
    }
    router.with_state(people)
}

/// Returns a name that somebody chose as it is shown. By reference: so do templates call it.
fn shown(text: &str) -> Text {
    Text::line(text)
}

/// Returns a time as it stands in tables. By reference: so do templates call it.
fn time(ms: &i64) -> String {
    match jiff::Timestamp::from_millisecond(*ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => "—".to_owned(),
    }
}

/// Likewise, if there was one.
fn time_or(ms: &Option<i64>, none: &str) -> String {
    ms.as_ref().map_or_else(|| none.to_owned(), time)
}
