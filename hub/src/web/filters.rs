//! What narrows a list: the form to choose from, and a chip for each filter that is set.
//!
//! Every filter is a parameter of the address, so that a list can be sent to somebody, and works without
//! a script.

use askama::Template;
use askama::filters::HtmlSafe;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::address::{Address, VALUE_BYTES_MAX};
use super::text::Text;
use super::visit::Visit;
use crate::error::ApiError;

/// Ranges up to now.
const RANGES: [(&str, &str, i64); 4] = [
    ("1h", "Last hour", 3600),
    ("24h", "Last 24 hours", 86_400),
    ("7d", "Last 7 days", 7 * 86_400),
    ("30d", "Last 30 days", 30 * 86_400),
];

/// The filters of a list.
#[derive(Debug, Template)]
#[template(path = "filters.html")]
pub(crate) struct Filters {
    address: Address,
    pub(crate) search: Option<Search>,
    pub(crate) fields: Vec<Field>,
    pub(crate) chips: Vec<Chip>,
    /// Parameters that the form hands on: what is no filter, and filters that only links set.
    pub(crate) kept: Vec<(&'static str, String)>,
    /// Names of those that are no filters.
    stays: Vec<&'static str>,
}

/// A text to look for.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) hint: &'static str,
}

/// Something to choose in the form.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) input: Input,
}

/// How it is chosen.
#[derive(Debug)]
pub(crate) enum Input {
    /// One of these.
    One(Vec<Choice>),
    /// Any of these.
    Many(Vec<Choice>),
    /// A minute, in UTC.
    Time(String),
}

/// Something that can be chosen.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) value: String,
    pub(crate) label: Text,
    pub(crate) chosen: bool,
}

/// A filter that is set.
#[derive(Debug)]
pub(crate) struct Chip {
    pub(crate) label: &'static str,
    pub(crate) value: Text,
    /// The address without it.
    pub(crate) without: String,
}

/// From when until when, in nanoseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) since_ns: Option<i64>,
    pub(crate) until_ns: Option<i64>,
}

/// Its template escapes.
impl HtmlSafe for Filters {}

impl Filters {
    pub(crate) fn new(address: &Address) -> Self {
        let address = address.first_page();
        Self {
            address,
            search: None,
            fields: Vec::new(),
            chips: Vec::new(),
            kept: Vec::new(),
            stays: Vec::new(),
        }
    }

    /// Where the form leads.
    pub(crate) fn action(&self) -> &str {
        self.address.path()
    }

    /// The list without any of them.
    pub(crate) fn clear(&self) -> String {
        self.address.only(&self.stays).to_string()
    }

    /// What is no filter and stays when one is set, such as the order.
    pub(crate) fn keep(&mut self, name: &'static str) {
        if let Some(value) = self.address.get(name) {
            self.kept.push((name, value.to_owned()));
            self.stays.push(name);
        }
    }

    /// A text to look for.
    pub(crate) fn search(&mut self, name: &'static str, hint: &'static str) -> Option<String> {
        let set = self.address.get(name).map(str::to_owned);
        let value = set.as_deref().map(|text| text.trim().to_owned());
        if let (Some(set), Some(value)) = (&set, &value) {
            self.chip("Search", name, set, value);
        }
        self.search = Some(Search { name, value: value.clone().unwrap_or_default(), hint });
        value
    }

    /// One of several values. One that is set and not among them is added.
    pub(crate) fn one(
        &mut self,
        name: &'static str,
        label: &'static str,
        choices: impl IntoIterator<Item = (String, String)>,
    ) -> Option<String> {
        let set = self.address.get(name).map(str::to_owned);
        let mut choices = self.choices(name, choices);
        if let Some(set) = &set {
            if !choices.iter().any(|choice| choice.chosen) {
                let label = Text::from(set);
                choices.insert(0, Choice { value: set.clone(), label, chosen: true });
            }
            let shown = choices.iter().find(|choice| choice.chosen);
            let shown = shown.map_or_else(|| Text::from(set), |choice| choice.label.clone());
            self.chips.push(self.chip_of(label, name, set, shown));
        }
        if !choices.is_empty() {
            self.fields.push(Field { name, label, input: Input::One(choices) });
        }
        set
    }

    /// Any of several values.
    pub(crate) fn many(
        &mut self,
        name: &'static str,
        label: &'static str,
        choices: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<String> {
        let set: Vec<_> = self.address.all(name).map(str::to_owned).collect();
        let mut choices = self.choices(name, choices);
        for value in &set {
            let known = choices.iter().find(|choice| choice.value == *value);
            let shown = known.map(|choice| choice.label.clone());
            if shown.is_none() {
                let label = Text::from(value);
                choices.push(Choice { value: value.clone(), label, chosen: true });
            }
            let shown = shown.unwrap_or_else(|| Text::from(value));
            self.chips.push(self.chip_of(label, name, value, shown));
        }
        if !choices.is_empty() {
            self.fields.push(Field { name, label, input: Input::Many(choices) });
        }
        set
    }

    /// A value that only links set, such as a session: a chip, and nothing to choose.
    pub(crate) fn linked(&mut self, name: &'static str, label: &'static str) -> Option<String> {
        let set = self.address.get(name).map(str::to_owned)?;
        self.chip(label, name, &set, &set);
        self.kept.push((name, set.clone()));
        Some(set)
    }

    /// A range of time: up to now, or from and until a minute.
    pub(crate) fn time(&mut self, visit: &Visit) -> Result<Span, ApiError> {
        let ranges = RANGES.map(|(value, label, _)| (value.to_owned(), label.to_owned()));
        let range = self.one("range", "Time", ranges);
        let since = self.minute("since", "From (UTC)")?;
        let until = self.minute("until", "Until (UTC)")?;
        let Some(range) = range else { return Ok(Span { since_ns: since, until_ns: until }) };
        let known = RANGES.iter().find(|(value, ..)| *value == range);
        let (.., seconds) = known.ok_or_else(|| {
            let known = RANGES.map(|(value, ..)| value).join("`, `");
            ApiError::Invalid(format!("`range` is one of `{known}`"))
        })?;
        let from = visit.now_ns().saturating_sub(seconds * 1_000_000_000);
        Ok(Span { since_ns: Some(since.unwrap_or(from).max(from)), until_ns: until })
    }

    fn minute(&mut self, name: &'static str, label: &'static str) -> Result<Option<i64>, ApiError> {
        let set = self.address.get(name).map(str::to_owned);
        let at_ns = set.as_deref().map(|text| parse(name, text)).transpose()?;
        let mut field = String::new();
        if let (Some(set), Some(at_ns)) = (&set, at_ns) {
            let time = Timestamp::from_nanosecond(at_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
            let time = time.to_zoned(TimeZone::UTC);
            self.chip(label, name, set, &time.strftime("%Y-%m-%d %H:%M").to_string());
            // Browsers show nothing for a time with a zone.
            field = time.strftime("%Y-%m-%dT%H:%M").to_string();
        }
        self.fields.push(Field { name, label, input: Input::Time(field) });
        Ok(at_ns)
    }

    fn choices(
        &self,
        name: &str,
        choices: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<Choice> {
        let choice = |(value, label): (String, String)| Choice {
            chosen: self.address.has(name, &value),
            label: Text::from(&label),
            value,
        };
        let fits = |(value, _): &(String, String)| value.len() <= VALUE_BYTES_MAX;
        choices.into_iter().filter(fits).map(choice).collect()
    }

    fn chip(&mut self, label: &'static str, name: &str, value: &str, shown: &str) {
        self.chips.push(self.chip_of(label, name, value, Text::from(shown)));
    }

    fn chip_of(&self, label: &'static str, name: &str, value: &str, shown: Text) -> Chip {
        Chip { label, value: shown, without: self.address.without_value(name, value).to_string() }
    }
}

/// Reads a minute as browsers write it, in UTC, or a whole RFC 3339 time.
fn parse(name: &str, text: &str) -> Result<i64, ApiError> {
    let time = text.parse::<Timestamp>().or_else(|_| {
        text.parse::<DateTime>()?.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let at_ns = time.ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    at_ns
        .ok_or_else(|| ApiError::Invalid(format!("`{name}` is a time, such as `2026-11-20T10:00`")))
}

/// Choices whose value is what is shown.
pub(crate) fn same(values: &[String]) -> impl Iterator<Item = (String, String)> {
    values.iter().map(|value| (value.clone(), value.clone()))
}
