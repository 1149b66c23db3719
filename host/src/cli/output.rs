//! Where commands write: data to stdout, everything else to stderr.
//!
//! Colours only where a person looks, and never with `NO_COLOR`. What comes from upstreams and clients
//! passes [`clean`](super::text::clean) first: a tool's name must not move the cursor.

use std::io::{BufRead, BufWriter, IsTerminal, Read, Write};

use serde::Serialize;

use super::error::CliError;
use super::table::{Cell, Layout, Paint, Table};
use super::text::clean;
use crate::config::Environment;

/// Nobody types more.
const ANSWER_BYTES_MAX: u64 = 4096;

/// The two streams of a command.
pub(crate) struct Output {
    stdout: Stream,
    stderr: Stream,
}

struct Stream {
    writer: Box<dyn Write>,
    colours: bool,
    /// Columns of the terminal; nothing if it is none, which then takes lines of any length.
    width: Option<usize>,
}

impl Output {
    /// Returns the streams of this process.
    pub(super) fn process(environment: &Environment) -> Self {
        let plain = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty())
            || environment.get("TERM") == Some("dumb");
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|_| stdout.is_terminal());
        let width = size.map(|size| usize::from(size.ws_col));
        Self {
            stdout: Stream {
                colours: stdout.is_terminal() && !plain,
                width: width.filter(|columns| *columns > 0),
                writer: Box::new(BufWriter::new(stdout)),
            },
            stderr: Stream {
                colours: stderr.is_terminal() && !plain,
                width: None,
                writer: Box::new(stderr),
            },
        }
    }

    /// Writes a line of data.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.stdout.writer, "{text}")?)
    }

    /// Writes a piece of data as it is.
    pub(super) fn piece(&mut self, text: &str) -> Result<(), CliError> {
        Ok(write!(self.stdout.writer, "{text}")?)
    }

    /// Writes a value as one indented JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.stdout.writer, value)
            .map_err(std::io::Error::from)?;
        self.line("")
    }

    /// Writes a value as JSON on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.stdout.writer, value).map_err(std::io::Error::from)?;
        self.line("")
    }

    /// Writes a table, as wide as the terminal allows.
    pub(super) fn table(&mut self, table: &Table) -> Result<(), CliError> {
        let layout = table.layout(self.stdout.width);
        self.table_head(table, &layout)?;
        table.rows.iter().try_for_each(|row| self.table_row(row, &layout))
    }

    /// Returns the columns of the terminal; nothing if a program reads, which takes lines of any length.
    pub(super) fn width(&self) -> Option<usize> {
        self.stdout.width
    }

    /// Writes the titles of a table.
    pub(super) fn table_head(&mut self, table: &Table, layout: &Layout) -> Result<(), CliError> {
        let line = layout.head(table, self.stdout.colours);
        self.line(&line)
    }

    /// Writes one row of a table.
    pub(super) fn table_row(&mut self, row: &[Cell], layout: &Layout) -> Result<(), CliError> {
        let line = layout.row(row, self.stdout.colours);
        self.line(&line)
    }

    /// Writes what there is to say about the row above.
    pub(super) fn table_note(&mut self, note: &Cell, layout: &Layout) -> Result<(), CliError> {
        let line = layout.note(note, self.stdout.colours);
        self.line(&line)
    }

    /// Paints a piece of data, where there are colours.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        paint.apply(text, self.stdout.colours)
    }

    /// Says that something is done.
    pub(crate) fn done(&mut self, text: &str) -> Result<(), CliError> {
        self.flush()?;
        Ok(writeln!(self.stderr.writer, "{}", clean(text))?)
    }

    /// Says what is odd but no error.
    pub(crate) fn warn(&mut self, text: &str) -> Result<(), CliError> {
        self.flush()?;
        let label = Paint::Yellow.apply("warning:", self.stderr.colours);
        Ok(writeln!(self.stderr.writer, "{label} {}", clean(text))?)
    }

    /// Says what to do next.
    pub(crate) fn hint(&mut self, text: &str) -> Result<(), CliError> {
        self.flush()?;
        let label = Paint::Dim.apply("hint:", self.stderr.colours);
        Ok(writeln!(self.stderr.writer, "{label} {}", clean(text))?)
    }

    /// Asks somebody at the terminal; nothing if nobody answers.
    pub(crate) fn ask(&mut self, question: &str) -> Result<Option<String>, CliError> {
        self.flush()?;
        write!(self.stderr.writer, "{}", clean(question))?;
        self.stderr.writer.flush()?;
        let mut answer = String::new();
        let bytes = std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
        if bytes == 0 {
            writeln!(self.stderr.writer)?;
            return Ok(None);
        }
        Ok(Some(answer.trim().to_owned()))
    }

    /// Asks whether something shall be done. Where nobody can be asked, that is an error: `flag` does
    /// not ask.
    pub(crate) fn confirm(&mut self, question: &str, flag: &str) -> Result<bool, CliError> {
        if !std::io::stdin().is_terminal() {
            let message = format!("nobody can be asked: {question}");
            return Err(CliError::user(message).hint(format!("`{flag}` does it without asking")));
        }
        let answer = self.ask(&format!("{question} [y/N] "))?.unwrap_or_default();
        Ok(["y", "yes"].contains(&answer.to_lowercase().as_str()))
    }

    /// Says why a command failed. Nothing is left to try if that fails too.
    pub(super) fn error(&mut self, error: &CliError) {
        self.flush().ok();
        if !error.is_heard() {
            return;
        }
        for warning in &error.warnings {
            self.warn(warning).ok();
        }
        for cause in &error.causes {
            let label = Paint::Red.apply("error:", self.stderr.colours);
            writeln!(self.stderr.writer, "{label} {}", clean(&cause.message)).ok();
            if let Some(hint) = &cause.hint {
                self.hint(hint).ok();
            }
        }
    }

    /// Hands on what is written so far.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.stdout.writer.flush()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a command wrote in a test.
    #[derive(Clone, Default)]
    pub(in crate::cli) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        /// Returns streams that write here, both into one, stdout `width` columns wide.
        pub(in crate::cli) fn output(&self, width: Option<usize>) -> Output {
            let stream = || Stream { writer: Box::new(self.clone()), colours: false, width };
            Output { stdout: stream(), stderr: stream() }
        }

        /// Returns what was written.
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A reader that is gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn errors_end_with_their_hint() {
        let written = Captured::default();
        let source = std::io::Error::other("disk on \u{1b}[31mfire");

        written.output(None).error(&CliError::other(&source));
        written
            .output(None)
            .error(&CliError::user("no upstream `x`").hint("`ultra servers` lists them"));

        insta::assert_snapshot!(written.text(), @r"
        error: disk on �[31mfire
        error: no upstream `x`
        hint: `ultra servers` lists them
        ");
    }

    #[test]
    fn reader_that_went_away_is_no_failure() {
        let written = Captured::default();
        let mut out = written.output(None);
        out.stdout.writer = Box::new(Closed);

        let error = out.line("x").unwrap_err();
        let error_of_json = out.json(&[1]).unwrap_err();
        out.error(&error);

        assert_eq!((error.exit_code(), error_of_json.exit_code()), (0, 0));
        assert_eq!(written.text(), "");
    }
}
