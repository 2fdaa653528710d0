//! Who reaches whom.

use std::fmt::Write as _;

use super::{probe::Service, world::Place};

/// A column: where to, and what is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub to: Place,
    pub service: Service,
}

/// What came out for one row and column, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub v4: bool,
    pub v6: bool,
}

impl Cell {
    pub const YES: Self = Self { v4: true, v6: true };
    pub const NO: Self = Self { v4: false, v6: false };

    const fn text(self) -> &'static str {
        match (self.v4, self.v6) {
            (true, true) => "yes",
            (false, false) => "-",
            (true, false) => "v4 only",
            (false, true) => "v6 only",
        }
    }
}

/// One row per place that asks. `None`: a place does not ask itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<(Place, Vec<Option<Cell>>)>,
}

impl Table {
    /// As text, `yes` where both families get an answer, `-` where none does.
    pub fn text(&self) -> String {
        let head = |column: &Column| format!("{} {}", column.to.name(), column.service);
        let widths: Vec<usize> = self.columns.iter().map(|column| head(column).len().max(7)).collect();
        let mut text = format!("    {:<8}", "from");
        for (column, width) in self.columns.iter().zip(&widths) {
            let _ = write!(text, "  {:<width$}", head(column));
        }
        for (place, cells) in &self.rows {
            let _ = write!(text, "\n    {:<8}", place.name());
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(text, "  {:<width$}", cell.map_or("", Cell::text));
            }
        }
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// Each cell that is not what `expected` says, as a sentence.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for ((place, cells), (_, wanted)) in self.rows.iter().zip(&expected.rows) {
            for ((column, cell), wanted) in self.columns.iter().zip(cells).zip(wanted) {
                if cell != wanted {
                    let say = |cell: &Option<Cell>| cell.map_or("nothing", Cell::text);
                    differences.push(format!(
                        "{} to {} {}: {} and not {}",
                        place.name(),
                        column.to.name(),
                        column.service,
                        say(cell),
                        say(wanted)
                    ));
                }
            }
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cell: Cell) -> Table {
        Table {
            columns: vec![
                Column { to: Place::Web, service: Service::Tcp(80) },
                Column { to: Place::Db, service: Service::Ping },
            ],
            rows: vec![(Place::Web, vec![None, Some(cell)]), (Place::Client, vec![Some(Cell::YES), Some(Cell::NO)])],
        }
    }

    #[test]
    fn is_printed_in_columns() {
        let text =
            "    from      web tcp/80  db ping\n    web                   v6 only\n    client    yes         -\n";
        assert_eq!(table(Cell { v4: false, v6: true }).text(), text);
    }

    #[test]
    fn a_difference_names_the_cell() {
        assert_eq!(table(Cell::YES).differences(&table(Cell::NO)), ["web to db ping: yes and not -"]);
        assert!(table(Cell::YES).differences(&table(Cell::YES)).is_empty());
    }
}
