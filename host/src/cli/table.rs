//! A small table writer: columns as wide as their cells, cut where the terminal ends.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::text::clean;

const GAP: &str = "  ";

/// A column that may be cut keeps so many characters.
const CUT_WIDTH_MIN: usize = 8;

/// How a piece of text looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Paint {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    /// Returns the text with its colour.
    pub(super) fn apply(self, text: &str, colours: bool) -> String {
        let code = match self {
            _ if !colours => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// What stands in a row of a column.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Makes a cell of any text; what is not for terminals is taken out.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self { text: clean(text.as_ref()), paint: Paint::Plain }
    }

    /// Makes a cell of a text that may be missing.
    pub(super) fn or_dash(text: Option<&str>) -> Self {
        text.map_or_else(|| Self::new("-").paint(Paint::Dim), Self::new)
    }

    /// Gives it a colour.
    pub(super) fn paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    cut: bool,
    /// Width that most cells have, for a table whose rows are still to come.
    usual: usize,
}

impl Column {
    /// A column of texts that are shown whole.
    pub(super) const fn new(title: &'static str) -> Self {
        Self { title, right: false, cut: false, usual: 0 }
    }

    /// Figures: at the right.
    pub(super) const fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// May be cut when the terminal is narrow.
    pub(super) const fn cut(self) -> Self {
        Self { cut: true, ..self }
    }

    /// Most cells are this wide.
    pub(super) const fn usual(self, usual: usize) -> Self {
        Self { usual, ..self }
    }
}

/// Columns and rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A table's columns with their widths.
#[derive(Debug)]
pub(super) struct Layout {
    columns: Vec<(Column, usize)>,
    /// Of the terminal; nothing if lines may be of any length.
    width: Option<usize>,
}

impl Table {
    /// Makes a table without rows.
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Returns the widths that fit into `width`, if that is possible.
    pub(super) fn layout(&self, width: Option<usize>) -> Layout {
        self.fit(width, |_| 0)
    }

    /// As [`Table::layout`], with room for what cells usually hold.
    pub(super) fn layout_to_grow(&self, width: Option<usize>) -> Layout {
        self.fit(width, |column| column.usual)
    }

    fn fit(&self, width: Option<usize>, least: impl Fn(&Column) -> usize) -> Layout {
        let natural = |(index, column): (usize, &Column)| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.width());
            (*column, cells.max().unwrap_or(0).max(column.title.width()).max(least(column)))
        };
        let mut columns: Vec<(Column, usize)> =
            self.columns.iter().enumerate().map(natural).collect();
        let total = |columns: &[(Column, usize)]| {
            columns
                .iter()
                .map(|(_, width)| width + GAP.len())
                .sum::<usize>()
                .saturating_sub(GAP.len())
        };
        while width.is_some_and(|width| total(&columns) > width) {
            let widest = columns
                .iter_mut()
                .filter(|(column, width)| {
                    column.cut && *width > CUT_WIDTH_MIN.max(column.title.width())
                })
                .max_by_key(|(_, width)| *width);
            match widest {
                Some((_, width)) => *width -= 1,
                None => break,
            }
        }
        Layout { columns, width }
    }
}

impl Layout {
    /// Returns the line of titles.
    pub(super) fn head(&self, table: &Table, colours: bool) -> String {
        let titles = table.columns.iter().map(|column| Cell::new(column.title).paint(Paint::Bold));
        self.row(&titles.collect::<Vec<_>>(), colours)
    }

    /// Returns the line of a row.
    pub(super) fn row(&self, row: &[Cell], colours: bool) -> String {
        let mut line = String::new();
        let mut pending = 0;
        for ((column, width), cell) in self.columns.iter().zip(row) {
            let text = if self.width.is_some() && column.cut {
                cut(&cell.text, *width)
            } else {
                cell.text.clone()
            };
            let missing = width.saturating_sub(text.width());
            let (before, after) = if column.right { (missing, 0) } else { (0, missing) };
            // Spaces are written when something follows them: no line ends in any.
            if !text.is_empty() {
                line.extend(std::iter::repeat_n(' ', pending + before));
                line.push_str(&cell.paint.apply(&text, colours));
                pending = after + GAP.len();
            } else {
                pending += width + GAP.len();
            }
        }
        line
    }

    /// Returns a line that says more about the row above it.
    pub(super) fn note(&self, note: &Cell, colours: bool) -> String {
        let indent = self.columns.first().map_or(0, |(_, width)| width + GAP.len());
        let text = match self.width {
            Some(width) => cut(&note.text, width.saturating_sub(indent)),
            None => note.text.clone(),
        };
        format!("{:indent$}{}", "", note.paint.apply(&text, colours))
    }
}

/// Returns the beginning of a text, with an ellipsis if it is wider than `width`.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = 0;
    let mut short: String = text
        .chars()
        .take_while(|c| {
            kept += c.width().unwrap_or(0);
            kept < width
        })
        .collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[
            Column::new("NAME").cut(),
            Column::new("N").right(),
            Column::new("NOTE").cut(),
            Column::new("END"),
        ]);
        for row in [
            ["everything", "5", "short", ""],
            ["文件系统", "1234", "a note that takes a lot of room", "x"],
            ["e\u{301}\u{1b}[0m", "7", "", ""],
        ] {
            table.rows.push(row.into_iter().map(Cell::new).collect());
        }
        table
    }

    fn render(table: &Table, width: Option<usize>) -> String {
        let layout = table.layout(width);
        let rows = table.rows.iter().map(|row| layout.row(row, false));
        [layout.head(table, false)].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        insta::assert_snapshot!(render(&table(), None), @r"
        NAME           N  NOTE                             END
        everything     5  short
        文件系统    1234  a note that takes a lot of room  x
        é�[0m          7
        ");
    }

    #[test]
    fn widest_columns_are_cut_first() {
        insta::assert_snapshot!(render(&table(), Some(36)), @r"
        NAME           N  NOTE           END
        everything     5  short
        文件系统    1234  a note that …  x
        é�[0m          7
        ");
        assert!(render(&table(), Some(36)).lines().all(|line| line.width() <= 36));
        assert!(render(&table(), Some(3)).lines().all(|line| line.width() <= 31));
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let mut table = Table::new(&[Column::new("A"), Column::new("B")]);
        table.rows.push(vec![Cell::new("x").paint(Paint::Red), Cell::new("y")]);

        let line = table.layout(None).row(&table.rows[0], true);

        assert_eq!(line, "\u{1b}[31mx\u{1b}[0m  y");
    }
}
