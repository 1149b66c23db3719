//! Lines out of a stream, and the little that is read of them.

use std::io::{self, Read};

use memchr::memmem;

/// Bytes that have arrived, cut into lines.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    filled: usize,
}

impl Lines {
    /// Reads once. Returns 0 at the end.
    pub(crate) fn read_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.buffer.len() - self.filled < 64 * 1024 {
            self.buffer.resize((self.buffer.len() * 2).max(256 * 1024), 0);
        }
        let read = source.read(&mut self.buffer[self.filled..])?;
        self.filled += read;
        Ok(read)
    }

    /// Gives each complete line to `each` and forgets it.
    pub(crate) fn each(&mut self, mut each: impl FnMut(&[u8])) {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.buffer[start..self.filled]) {
            each(&self.buffer[start..start + length]);
            start += length + 1;
        }
        self.buffer.copy_within(start..self.filled, 0);
        self.filled -= start;
    }
}

/// Returns the id of a response whose id is a number near the beginning, which all have that we ask.
pub(crate) fn response_id(line: &[u8]) -> Option<usize> {
    let head = &line[..line.len().min(256)];
    // Ids written after the result, as some do, are looked for at the end.
    let tail = &line[line.len().saturating_sub(64)..];
    if memmem::find(head, b"\"method\":").is_some() {
        return None;
    }
    number_after(head, b"\"id\":").or_else(|| number_after(tail, b"\"id\":"))
}

/// Returns the number that follows `name`, as in `"id":5`.
pub(crate) fn number_after(text: &[u8], name: &[u8]) -> Option<usize> {
    let start = memmem::find(text, name)? + name.len();
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits
        .clone()
        .fold(0, |sum: usize, digit| sum.wrapping_mul(10) + usize::from(digit - b'0'));
    (digits.count() > 0).then_some(number)
}

/// Returns whether a response is an error, or the result of a tool that failed.
pub(crate) fn is_error(line: &[u8]) -> bool {
    let head = &line[..line.len().min(256)];
    memmem::find(head, b"\"error\":{").is_some()
        || memmem::find(line, b"\"isError\":true").is_some()
}

/// Returns the number of tools in a response to `tools/list`.
pub(crate) fn count_tools(line: &[u8]) -> usize {
    memmem::find_iter(line, b"\"inputSchema\":").count()
}
