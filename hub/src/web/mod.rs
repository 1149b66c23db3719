//! The pages. The same for the Hub and for one machine's dashboard: what differs is behind [`Gate`],
//! [`Records`] and [`Fleet`].
//!
//! Nothing is changed here: every route is a `GET`.

mod address;
mod assets;
mod audit;
mod columns;
mod export;
mod figures;
mod filters;
mod frame;
mod gate;
mod gateways;
mod headers;
mod json;
mod live;
mod pager;
pub(crate) mod people;
mod servers;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;
mod traces;
mod visit;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::Uri;

pub(crate) use address::Address;
pub(crate) use frame::{Frame, Tab};
pub(crate) use gate::{Gate, Viewing};
pub(crate) use headers::{POLICY, headers};
pub(crate) use visit::{failure, refusal, sentence};

use visit::Visit;

use crate::error::ApiError;
use crate::events::Records;
use crate::fleet::Fleet;

/// What pages are made from.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) fleet: Arc<dyn Fleet>,
}

/// What pages share.
#[derive(Clone)]
struct Site {
    web: Web,
    exports: export::Room,
    live: live::Live,
}

/// Returns the pages over records and gateways, with what they refer to.
pub(crate) fn router(web: Web) -> Router {
    let site = Site { web, exports: export::Room::default(), live: live::Live::default() };
    Router::new()
        .route("/", get(first))
        .route("/w/{workspace}", get(first))
        .route("/w/{workspace}/gateways", get(gateways::list))
        .route("/w/{workspace}/servers", get(servers::list))
        .route("/w/{workspace}/server", get(servers::detail))
        .route("/w/{workspace}/session", get(session::session))
        .route("/w/{workspace}/live", get(live::live))
        .route("/w/{workspace}/traces", get(traces::list))
        .route("/w/{workspace}/traces/{trace}", get(traces::detail))
        .route("/w/{workspace}/traces/{trace}/json", get(traces::file))
        .route("/w/{workspace}/audit", get(audit::list))
        .route("/w/{workspace}/audit/{event}", get(audit::detail))
        .route("/w/{workspace}/export/{file}", get(export::export))
        .route("/assets/{name}", get(assets::asset))
        .fallback(nothing)
        .with_state(site)
}

/// Says that there is no such page; to a program that there is no such route.
async fn nothing(uri: Uri) -> Response {
    if uri.path().starts_with("/api/") {
        return ApiError::NotFound("route; see /api/openapi.json").into_response();
    }
    failure(None, &ApiError::NotFound("page"))
}

/// The first page of a workspace, of the first one if the address names none.
async fn first(visit: Visit) -> Redirect {
    Redirect::to(&visit.page("gateways").to_string())
}
