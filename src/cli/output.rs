use std::{
    env,
    io::{self, IsTerminal},
};

use clap::{Args, ValueEnum};

use crate::api::{Refusal, wire::ToJson};

/// The choice between a table for people and JSON for programs.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Format {
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Format {
    /// `view` as JSON, or laid out for people.
    pub(super) fn show<T: ToJson, L: Layout>(self, view: &T, layout: impl FnOnce(&T) -> L) -> Result<String, Refusal> {
        match self.output {
            Output::Table => Ok(layout(view).render(Paint::of_stdout())),
            Output::Json => view.to_json(),
        }
    }
}

/// Something that can be laid out for people.
pub(super) trait Layout {
    /// As lines, each with its end.
    fn render(&self, paint: Paint) -> String;
}

impl Layout for String {
    fn render(&self, _: Paint) -> String {
        format!("{self}\n")
    }
}

/// Rows under a header in capitals, columns two spaces apart.
pub(super) struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with one cell a column in each row.
    pub(super) fn new<const N: usize>(
        header: &'static [&'static str; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> Self {
        Self { header, rows: rows.into_iter().map(Vec::from).collect() }
    }
}

impl Layout for Table {
    fn render(&self, paint: Paint) -> String {
        let header: Vec<Cell> = self.header.iter().copied().map(Cell::from).collect();
        align(&[&[header], self.rows.as_slice()].concat(), paint)
    }
}

/// One thing, a line for each of its fields: its name, a colon, its value.
#[derive(Default)]
pub(super) struct Sheet {
    rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// One more field.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl Into<Cell>) -> Self {
        self.rows.push(vec![Cell::from(format!("{name}:")), value.into()]);
        self
    }

    /// One more field of one value a line; nothing if there are none.
    #[must_use]
    pub(super) fn with_each(mut self, name: &str, values: impl IntoIterator<Item = Cell>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            let name = if index == 0 { format!("{name}:") } else { String::new() };
            self.rows.push(vec![Cell::from(name), value]);
        }
        self
    }
}

impl Layout for Sheet {
    fn render(&self, paint: Paint) -> String {
        align(&self.rows, paint)
    }
}

fn align(rows: &[Vec<Cell>], paint: Paint) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(&paint.cell(cell));
            if index + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
            }
        }
        text.push('\n');
    }
    text
}

/// One value of a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Cell {
    /// As it should be.
    pub(super) fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Good }
    }

    /// To be looked at.
    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Warning }
    }

    /// Broken.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Bad }
    }

    /// `words` with commas between them, or a hyphen if there are none.
    pub(super) fn list<T: ToString>(words: impl IntoIterator<Item = T>) -> Self {
        let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
        if words.is_empty() { Self::from("-") } else { Self::from(words.join(",")) }
    }

    /// The value, or a hyphen if there is none.
    pub(super) fn optional<T: ToString>(value: Option<T>) -> Self {
        Self::list(value)
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// `yes` or `no`.
pub(super) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// `1 node`, `2 nodes`.
pub(super) fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Whether to print with colours: on a terminal that has them, unless `NO_COLOR` is set (no-color.org).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Coloured,
}

impl Paint {
    /// For standard output.
    pub(super) fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// For standard error.
    pub(super) fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    fn of(stream: &impl IsTerminal) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        if stream.is_terminal() && !refused { Self::Coloured } else { Self::Plain }
    }

    /// In the colour of what is broken.
    pub(super) fn bad(self, text: &str) -> String {
        self.sgr("31", text)
    }

    /// A line of advice.
    pub(super) fn hint(self, text: &str) -> String {
        format!("{} {text}\n", self.sgr("1", "hint:"))
    }

    fn cell(self, cell: &Cell) -> String {
        match cell.tone {
            Tone::Plain => cell.text.clone(),
            Tone::Good => self.sgr("32", &cell.text),
            Tone::Warning => self.sgr("33", &cell.text),
            Tone::Bad => self.bad(&cell.text),
        }
    }

    /// "Select graphic rendition" (ECMA-48, 8.3.117).
    fn sgr(self, parameter: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{parameter}m{text}\x1b[0m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(
            &["NAME", "STATUS", "X"],
            [
                [Cell::from("a"), Cell::good("ready"), Cell::optional(Some(1))],
                [Cell::from("longer"), Cell::bad("suspended"), Cell::list(Vec::<String>::new())],
            ],
        )
    }

    #[test]
    fn columns_stand_two_spaces_apart() {
        let text = table().render(Paint::Plain);
        assert_eq!(text, "NAME    STATUS     X\na       ready      1\nlonger  suspended  -\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = table().render(Paint::Coloured);
        let without: String =
            ["\x1b[32m", "\x1b[31m", "\x1b[0m"].iter().fold(text.clone(), |text, code| text.replace(code, ""));
        assert_ne!(text, without);
        assert_eq!(without, table().render(Paint::Plain));
    }

    #[test]
    fn a_sheet_has_a_line_a_field() {
        let sheet = Sheet::default().with("Name", "web").with_each("Warnings", [Cell::from("one"), Cell::from("two")]);
        assert_eq!(sheet.render(Paint::Plain), "Name:      web\nWarnings:  one\n           two\n");
        let sheet = Sheet::default().with_each("Warnings", []).with("A", "b");
        assert_eq!(sheet.render(Paint::Plain), "A:  b\n");
    }
}
