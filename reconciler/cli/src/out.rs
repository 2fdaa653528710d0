//! Standard output: a reader that went away is no error, and colour is for terminals.
use std::io::{self, IsTerminal, Write};

use weir_agent::Error;

/// What may go wrong while printing, with a closed pipe taken for a reader that has seen enough.
pub fn written(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::Failed { what: "write to standard output".to_owned(), cause: error.to_string() }),
        Ok(()) => Ok(()),
    }
}

/// Runs `print` on buffered standard output.
pub fn print(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    written(print(&mut out).and_then(|()| out.flush()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    colour: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Green,
    Yellow,
    Red,
    Magenta,
    Dim,
    Bold,
}

impl Paint {
    pub fn stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && io::stdout().is_terminal() }
    }

    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    pub fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Green => 32,
            Ink::Yellow => 33,
            Ink::Red => 31,
            Ink::Magenta => 35,
            Ink::Dim => 2,
            Ink::Bold => 1,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows with aligned columns; the first is the head.
pub fn columns(rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let mut out = Vec::new();
        columns(&[row(&["NAME", "N"]), row(&["ä", "100"]), row(&["longer", ""])], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    N\nä       100\nlonger\n");
    }

    #[test]
    fn a_closed_pipe_is_a_reader_that_has_seen_enough() {
        assert!(written(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
