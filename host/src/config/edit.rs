//! Changes to the config file that leave the rest of its text alone: comments, order, unknown keys.
//!
//! An edit cuts into the text at the places the parser names. It only knows block style, as people
//! write it; afterwards the new text is read again, and unless it says exactly what was asked for, the
//! edit is refused and nothing has happened. Whether the values make sense is not its business.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::yaml::{Entry, Kind, Node, Position, Style, parse};
use super::{ConfigError, file};

/// The text of a config file, to be changed and saved.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What was on disk; nothing if there was no file.
    found: Option<String>,
    text: String,
}

/// Why a config file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read, or is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The text is written in a way that cannot be changed without a risk for the rest.
    #[error("line {line} of the config file cannot be changed safely: {reason}")]
    Unsafe {
        /// Line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// Somebody else changed it since it was read.
    #[error("the config file `{}` was changed meanwhile", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write the config file `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A piece of text and what comes in its place.
struct Splice {
    range: Range<usize>,
    text: String,
}

impl ConfigFile {
    /// Reads a file; one that does not exist is empty until it is saved.
    ///
    /// # Errors
    ///
    /// [`EditError::Config`]: it cannot be read, or is no YAML.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let found = match file::read(path) {
            Ok(text) => Some(text),
            Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let this = Self { path: path.to_owned(), text: found.clone().unwrap_or_default(), found };
        this.root()?;
        Ok(this)
    }

    /// Returns the text as it would be saved.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value at a path of keys.
    ///
    /// # Errors
    ///
    /// [`EditError::Config`]: the text is not valid.
    pub fn get(&self, keys: &[&str]) -> Result<Option<Value>, EditError> {
        let Some(root) = self.root()? else { return Ok(None) };
        let mut node = &root;
        for key in keys {
            let Some(entry) = entry_of(node, key) else { return Ok(None) };
            node = &entry.value;
        }
        Ok(Some(node.to_json()))
    }

    /// Sets the value at a path of keys, adding the mappings on the way.
    ///
    /// # Errors
    ///
    /// [`EditError::Unsafe`]: the place is in flow style or shared by an anchor, or holds more than a
    /// single value. The text is unchanged.
    pub fn set(&mut self, keys: &[&str], value: &Value) -> Result<(), EditError> {
        let root = self.root()?;
        let splice = self.plan_set(root.as_ref(), keys, value)?;
        let mut expected = root.map_or(Value::Null, |root| root.to_json());
        json_set(&mut expected, keys, value);
        self.apply(splice, &expected)
    }

    /// Removes the entry at a path of keys. Returns whether there was one.
    ///
    /// Comments above it stay.
    ///
    /// # Errors
    ///
    /// [`EditError::Unsafe`], as for [`ConfigFile::set`].
    pub fn remove(&mut self, keys: &[&str]) -> Result<bool, EditError> {
        let Some(root) = self.root()? else { return Ok(false) };
        let mut node = &root;
        for (index, key) in keys.iter().enumerate() {
            self.check_block(node)?;
            let Some(entry) = entry_of(node, key) else { return Ok(false) };
            if index + 1 == keys.len() {
                let start = self.line_start(entry.span.start);
                self.check_indent(start, entry)?;
                let range = start..self.line_end(self.content_end(entry));
                let mut expected = root.to_json();
                json_remove(&mut expected, keys);
                self.apply(Splice { range, text: String::new() }, &expected)?;
                return Ok(true);
            }
            node = &entry.value;
        }
        Ok(false)
    }

    /// Writes the text in one step: a reader sees the old file or the new one, never a part.
    ///
    /// The mode of the file stays, a new one is for its owner only. A symbolic link stays one.
    ///
    /// # Errors
    ///
    /// - [`EditError::Changed`]: the file is no longer what was read.
    /// - [`EditError::Write`]: the system refused. The old file is still there.
    pub fn save(&mut self) -> Result<(), EditError> {
        let failed = |source| EditError::Write { path: self.path.clone(), source };
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let now = match std::fs::read(&target) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if now.as_deref() != self.found.as_deref().map(str::as_bytes) {
            return Err(EditError::Changed { path: self.path.clone() });
        }
        write_atomically(&target, self.text.as_bytes()).map_err(failed)?;
        self.found = Some(self.text.clone());
        Ok(())
    }

    fn root(&self) -> Result<Option<Node>, EditError> {
        let invalid = |problems| {
            let path = self.path.clone();
            ConfigError::Invalid { path, problems, warnings: Vec::new() }
        };
        let document = parse(&self.text).map_err(|problem| invalid(vec![problem]))?;
        if !document.duplicates.is_empty() {
            return Err(invalid(document.duplicates).into());
        }
        Ok(document.root.filter(|root| !root.is_null()))
    }

    fn plan_set(
        &self,
        root: Option<&Node>,
        keys: &[&str],
        value: &Value,
    ) -> Result<Splice, EditError> {
        let Some(mut node) = root else {
            return Ok(self.insert_after(self.text.len(), 0, keys, value));
        };
        let mut parent: Option<&Entry> = None;
        for (index, key) in keys.iter().enumerate() {
            let rest = &keys[index..];
            match &node.kind {
                Kind::Map(entries) if entries.is_empty() => {
                    return self.fill(node, parent, rest, value);
                }
                Kind::Map(_) => {}
                Kind::Scalar { .. } if node.is_null() => {
                    return self.fill(node, parent, rest, value);
                }
                Kind::Scalar { .. } | Kind::List(_) => {
                    return Err(refused(node.at, format!("it holds {}", node.kind.name())));
                }
            }
            let Some(entry) = entry_of(node, key) else { return self.add(node, rest, value) };
            if node.shared {
                return Err(refused(node.at, "an anchor shares it with another place".into()));
            }
            (node, parent) = (&entry.value, Some(entry));
        }
        let Some(entry) = parent else {
            return Err(refused(node.at, "it is the whole file".into()));
        };
        self.replace(entry, value)
    }

    /// Puts a new value in the place of a single one.
    fn replace(&self, entry: &Entry, value: &Value) -> Result<Splice, EditError> {
        let node = &entry.value;
        if node.shared {
            return Err(refused(node.at, "an anchor shares it with another place".into()));
        }
        if value.is_object() || value.is_array() {
            return Err(refused(node.at, format!("`{}` has a value already", entry.key)));
        }
        match &node.kind {
            Kind::Scalar { .. } if node.span.is_empty() => {
                let at = self.after_colon(entry);
                Ok(Splice { range: at..at, text: format!(" {}", scalar(value)) })
            }
            Kind::Scalar { style: Style::Plain | Style::Quoted, .. } => {
                Ok(Splice { range: node.span.clone(), text: scalar(value) })
            }
            Kind::Scalar { style: Style::Block, .. } => {
                Err(refused(entry.at, "it holds a block of text".into()))
            }
            Kind::List(_) | Kind::Map(_) => {
                Err(refused(node.at, format!("it holds {}", node.kind.name())))
            }
        }
    }

    /// Adds an entry below the last one of a mapping.
    fn add(&self, map: &Node, keys: &[&str], value: &Value) -> Result<Splice, EditError> {
        self.check_block(map)?;
        let Kind::Map(entries) = &map.kind else {
            return Err(refused(map.at, format!("it holds {}", map.kind.name())));
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(refused(map.at, "it holds nothing".into()));
        };
        let line = self.line_start(first.span.start);
        self.check_indent(line, first)?;
        Ok(self.insert_after(self.content_end(last), first.span.start - line, keys, value))
    }

    /// Gives a key without a value, or with `{}`, its first entry.
    fn fill(
        &self,
        node: &Node,
        parent: Option<&Entry>,
        keys: &[&str],
        value: &Value,
    ) -> Result<Splice, EditError> {
        if node.shared {
            return Err(refused(node.at, "an anchor shares it with another place".into()));
        }
        let Some(parent) = parent else {
            let text = self.block(0, keys, value);
            return Ok(Splice { range: node.span.clone(), text: text.trim_end().to_owned() });
        };
        let line = self.line_start(parent.span.start);
        self.check_indent(line, parent)?;
        let indent = parent.span.start - line + 2;
        if node.span.is_empty() {
            return Ok(self.insert_after(self.after_colon(parent), indent, keys, value));
        }
        let end = self.line_end(node.span.end);
        let comment = self.text[node.span.end..end].trim_end();
        let text = format!(
            "{}{}{}",
            comment.trim_start(),
            self.newline(),
            self.block(indent, keys, value)
        );
        Ok(Splice { range: node.span.start..end, text })
    }

    /// Plans a block of lines below the one that holds `at`.
    fn insert_after(&self, at: usize, indent: usize, keys: &[&str], value: &Value) -> Splice {
        let end = self.line_end(at);
        let complete = end == 0 || self.text[..end].ends_with('\n');
        let newline = if complete { "" } else { self.newline() };
        Splice { range: end..end, text: format!("{newline}{}", self.block(indent, keys, value)) }
    }

    /// Makes the change, if the result says what it should.
    fn apply(&mut self, splice: Splice, expected: &Value) -> Result<(), EditError> {
        let line = self.text[..splice.range.start].matches('\n').count() + 1;
        let mut text = self.text.clone();
        text.replace_range(splice.range, &splice.text);
        let says = parse(&text).ok().filter(|document| document.duplicates.is_empty());
        match says.map(|document| document.root.map_or(Value::Null, |root| root.to_json())) {
            Some(value) if value == *expected => {
                self.text = text;
                Ok(())
            }
            _ => Err(EditError::Unsafe {
                line,
                reason: "the rest of the file would change too".into(),
            }),
        }
    }

    /// Renders `keys: value` in block style.
    fn block(&self, indent: usize, keys: &[&str], value: &Value) -> String {
        let newline = self.newline();
        let mut text = String::new();
        let mut indent = indent;
        let Some((last, parents)) = keys.split_last() else { return text };
        for key in parents {
            text.push_str(&format!("{:indent$}{}:{newline}", "", plain_or_quoted(key)));
            indent += 2;
        }
        let key = plain_or_quoted(last);
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                text.push_str(&format!("{:indent$}{key}:{newline}", ""));
                for (key, value) in entries {
                    text.push_str(&self.block(indent + 2, &[key], value));
                }
            }
            _ => text.push_str(&format!("{:indent$}{key}: {}{newline}", "", scalar(value))),
        }
        text
    }

    /// Returns where the text of an entry ends: in block style that is not where the parser notices.
    fn content_end(&self, entry: &Entry) -> usize {
        let node = &entry.value;
        match &node.kind {
            Kind::Scalar { .. } if node.span.is_empty() => self.after_colon(entry),
            _ if node.shared || self.is_flow(node) => node.span.end,
            Kind::Map(entries) if !entries.is_empty() => {
                entries.last().map_or(0, |last| self.content_end(last))
            }
            Kind::List(items) if !items.is_empty() => {
                items.last().map_or(0, |last| self.item_end(last))
            }
            Kind::Scalar { .. } | Kind::Map(_) | Kind::List(_) => {
                node.span.start + self.text[node.span.clone()].trim_end().len()
            }
        }
    }

    fn item_end(&self, node: &Node) -> usize {
        match &node.kind {
            _ if node.shared || self.is_flow(node) => node.span.end,
            Kind::Map(entries) if !entries.is_empty() => {
                entries.last().map_or(0, |last| self.content_end(last))
            }
            Kind::List(items) if !items.is_empty() => {
                items.last().map_or(0, |last| self.item_end(last))
            }
            Kind::Scalar { .. } | Kind::Map(_) | Kind::List(_) => {
                node.span.start + self.text[node.span.clone()].trim_end().len()
            }
        }
    }

    /// A value that is not there is placed by the parser at the next token; the colon is certain.
    fn after_colon(&self, entry: &Entry) -> usize {
        let end = entry.span.end;
        end + self.text[end..].find(':').map_or(0, |at| at + 1)
    }

    fn is_flow(&self, node: &Node) -> bool {
        !matches!(node.kind, Kind::Scalar { .. })
            && self.text[node.span.start..].starts_with(['{', '['])
    }

    fn check_block(&self, node: &Node) -> Result<(), EditError> {
        if self.is_flow(node) {
            return Err(refused(node.at, "it is written in `{…}` style".into()));
        }
        if node.shared {
            return Err(refused(node.at, "an anchor shares it with another place".into()));
        }
        Ok(())
    }

    /// Only a key with nothing but spaces before it has lines of its own.
    fn check_indent(&self, line_start: usize, entry: &Entry) -> Result<(), EditError> {
        if self.text[line_start..entry.span.start].bytes().all(|b| b == b' ') {
            return Ok(());
        }
        Err(refused(entry.at, format!("`{}` does not begin its line", entry.key)))
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Returns the beginning of the next line, or the end of the text.
    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }
}

fn refused(at: Position, reason: String) -> EditError {
    EditError::Unsafe { line: at.line, reason }
}

fn entry_of<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    let Kind::Map(entries) = &node.kind else { return None };
    entries.iter().find(|entry| entry.key == key)
}

/// Renders a value on one line. JSON is YAML in flow style.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        other => other.to_string(),
    }
}

fn plain_or_quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./@".contains(&b))
        && parse(text)
            .is_ok_and(|document| document.root.is_some_and(|root| root.to_json() == *text));
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

fn json_set(root: &mut Value, keys: &[&str], value: &Value) {
    let mut place = root;
    for key in keys {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[*key];
    }
    *place = value.clone();
}

/// A mapping that loses its last entry has no value any more.
fn json_remove(root: &mut Value, keys: &[&str]) {
    let Some((last, parents)) = keys.split_last() else { return };
    let mut place = root;
    for key in parents {
        place = &mut place[*key];
    }
    if let Value::Object(entries) = place {
        entries.remove(*last);
        if entries.is_empty() {
            *place = Value::Null;
        }
    }
}

fn write_atomically(target: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = dir.join(format!(".ultra-{}.tmp", uuid::Uuid::now_v7()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        if let Ok(old) = std::fs::metadata(target) {
            file.set_permissions(Permissions::from_mode(old.permissions().mode() & 0o7777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, target)?;
        // The rename itself lasts only with its directory; some file systems know no such sync.
        File::open(dir)?.sync_all().or(Ok(()))
    })();
    if written.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    written
}

#[cfg(test)]
mod tests;

/// Makes some edits of a text that may be anything, for the test of mutations.
#[cfg(test)]
pub(super) fn exercise(text: &str) {
    let mut file = ConfigFile { path: PathBuf::new(), found: None, text: text.to_owned() };
    for keys in
        [&["upstream", "a", "enabled"][..], &["server", "name"], &["upstream", "new", "url"]]
    {
        let _ = file.set(keys, &Value::Bool(true));
    }
    let _ = file.remove(&["upstream", "a"]);
    let _ = file.remove(&["server", "name"]);
}
