//! The Admin Log.

use askama::Template;
use axum::response::Response;

use super::super::answer::page;
use super::super::fields::Fields;
use super::super::visit::Visit;
use super::{Tabs, place};
use crate::error::ApiError;
use crate::people::admin_log::{Filter, Line, Place, Weight};
use crate::web::Frame;
use crate::web::text::Text;

/// Of a page.
const LINES: u32 = 50;

/// What actions begin with.
const GROUPS: [(&str, &str); 8] = [
    ("auth", "Authentication"),
    ("member", "Members"),
    ("role", "Roles"),
    ("deploy_key", "Deploy keys"),
    ("gateway", "Gateways"),
    ("organization", "Organization"),
    ("team", "Teams"),
    ("workspace", "Workspaces"),
];

#[derive(Template)]
#[template(path = "settings/log.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    here: String,
    group: String,
    severity: String,
    search: String,
    since: String,
    until: String,
    lines: Vec<Line>,
    /// The address of the next page.
    next: Option<String>,
    /// Whether this is not the first one.
    is_further: bool,
}

impl Page {
    /// What somebody else called something: a gateway has the name that its machine has.
    fn text(&self, text: &str) -> Text {
        Text::line(text)
    }

    fn groups(&self) -> [(&'static str, &'static str); 8] {
        GROUPS
    }
}

/// Shows a page of it.
pub(in super::super) async fn show(visit: Visit) -> Result<Response, ApiError> {
    let query = &visit.query;
    let filter = filter(query)?;
    let log = visit.people.admin_log(visit.organization()?, &filter, LINES).await?;
    let here = place(&visit, "log")?;
    let next = log.next.map(|next| {
        let mut address = url::form_urlencoded::Serializer::new(String::new());
        for name in ["group", "severity", "search", "since", "until"] {
            if let Some(value) = query.filled(name) {
                address.append_pair(name, value);
            }
        }
        format!("{here}?{}", address.append_pair("after", &next.to_string()).finish())
    });
    let text = |name| query.text(name).to_owned();
    page(&Page {
        frame: visit.frame("Admin Log"),
        tabs: Tabs::new(&visit, "log").await?,
        here,
        group: text("group"),
        severity: text("severity"),
        search: text("search"),
        since: text("since"),
        until: text("until"),
        lines: log.lines,
        next,
        is_further: filter.after.is_some(),
    })
}

fn filter(query: &Fields) -> Result<Filter, ApiError> {
    let wrong =
        |name: &str| ApiError::Invalid(format!("`{name}` is not one of what can be chosen"));
    let group = query.filled("group");
    if group.is_some_and(|group| !GROUPS.iter().any(|(known, _)| *known == group)) {
        return Err(wrong("group"));
    }
    let weight = match query.filled("severity") {
        None => None,
        Some("info") => Some(Weight::Info),
        Some("warning") => Some(Weight::Warning),
        Some(_) => return Err(wrong("severity")),
    };
    let after = query
        .filled("after")
        .map(|text| Place::parse(text).ok_or_else(|| wrong("after")))
        .transpose()?;
    Ok(Filter {
        group: group.map(str::to_owned),
        weight,
        search: query.filled("search").map(|text| text.chars().take(100).collect()),
        since_ms: query.filled("since").map(day).transpose()?,
        // The last day is among them.
        until_ms: query.filled("until").map(day).transpose()?.map(|ms| ms + 86_400_000),
        after,
    })
}

/// Returns when a day begins, in UTC.
fn day(text: &str) -> Result<i64, ApiError> {
    let wrong = || ApiError::Invalid("a day is written as 2026-11-20".to_owned());
    let day: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
    let begin = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?;
    Ok(begin.timestamp().as_millisecond())
}
