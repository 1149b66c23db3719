//! The heads of columns that sort.

use super::address::Address;

/// A column that sorts.
pub(crate) struct Column {
    pub(crate) href: String,
    pub(crate) label: &'static str,
    /// As `aria-sort` has it.
    pub(crate) sorted: &'static str,
    /// Whether it has figures.
    pub(crate) is_figure: bool,
}

impl Column {
    /// Returns the column `name` of the list at `list`; `sorted` is whether that is ordered by it, and if
    /// so, whether from its end. A click turns the order round; the first one shows the largest figures.
    pub(crate) fn new(
        list: &Address,
        name: &str,
        label: &'static str,
        is_figure: bool,
        sorted: Option<bool>,
    ) -> Self {
        let descending = sorted.map_or(is_figure, |descending| !descending);
        let order = if descending { "desc" } else { "asc" };
        Self {
            href: list.with("sort", name).with("order", order).to_string(),
            label,
            sorted: match sorted {
                None => "none",
                Some(false) => "ascending",
                Some(true) => "descending",
            },
            is_figure,
        }
    }
}
