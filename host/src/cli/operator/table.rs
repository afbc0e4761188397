//! Aligned columns.

use super::print::one_line;
use std::fmt;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table that is printed once it is complete.
pub(super) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        let heads = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { align: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heads] }
    }

    /// Adds a row: a text for each column, made harmless to the terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.align.len()).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.align) {
                let fill = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, fill.as_str(), "  "]),
                    Align::Right => line.extend([fill.as_str(), cell, "  "]),
                }
            }
            write!(f, "{}{}", if number > 0 { "\n" } else { "" }, line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_ends_of_blanks() {
        let mut table = Table::new(&[("NAME", Align::Left), ("LAG", Align::Right), ("WHY", Align::Left)]);
        table.row(["größe", "7", ""].map(String::from));
        table.row(["a", "1,000", "it\nblocks"].map(String::from));
        assert_eq!(table.to_string(), "NAME     LAG  WHY\ngröße      7\na      1,000  it\u{fffd}blocks");
    }
}
