//! Settings, from the JSON object the gateway hands to `start`.
//!
//! A parser of its own, because a general one would be most of a small component.

/// How deep lists and tables may nest.
const DEPTH_MAX: usize = 16;

/// The settings of a plugin: the manifest's defaults with the administrator's values over them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    members: Vec<(String, Value)>,
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Flag(bool),
    /// As written: reading a number is 10 KB of code, for those that do.
    Number(String),
    Text(String),
    List(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl Settings {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// It is not one.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut parser = Parser { bytes: json.as_bytes(), at: 0 };
        let value = parser
            .value(0)
            .map_err(|()| format!("the settings are not JSON at byte {}", parser.at))?;
        parser.space();
        match value {
            Value::Table(members) if parser.at == json.len() => Ok(Self { members }),
            Value::Table(_) => Err(format!("the settings go on at byte {}", parser.at)),
            _ => Err("the settings are not an object".into()),
        }
    }

    /// Returns a text.
    ///
    /// # Errors
    ///
    /// It is missing or something else; so with all that follow.
    pub fn text(&self, key: &str) -> Result<&str, String> {
        match self.get(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(format!("setting `{key}` is not a text")),
        }
    }

    /// Returns a truth value.
    pub fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key)? {
            Value::Flag(flag) => Ok(*flag),
            _ => Err(format!("setting `{key}` is neither true nor false")),
        }
    }

    /// Returns a number.
    pub fn number(&self, key: &str) -> Result<f64, String> {
        match self.get(key)? {
            Value::Number(text) => {
                text.parse().map_err(|_| format!("setting `{key}` is not a number"))
            }
            _ => Err(format!("setting `{key}` is not a number")),
        }
    }

    /// Returns a list of texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let not_texts = || format!("setting `{key}` is not a list of texts");
        let Value::List(values) = self.get(key)? else { return Err(not_texts()) };
        let texts = values.iter().map(|value| match value {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(not_texts()),
        });
        texts.collect()
    }

    fn get(&self, key: &str) -> Result<&Value, String> {
        let found = self.members.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value).ok_or_else(|| format!("setting `{key}` is missing"))
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, ()> {
        self.space();
        if depth > DEPTH_MAX {
            return Err(());
        }
        match self.bytes.get(self.at).ok_or(())? {
            b'{' => self.table(depth),
            b'[' => self.list(depth),
            b'"' => Ok(Value::Text(self.text()?)),
            b't' => self.word("true", Value::Flag(true)),
            b'f' => self.word("false", Value::Flag(false)),
            b'n' => self.word("null", Value::Null),
            _ => self.number(),
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, ()> {
        let mut members = Vec::new();
        self.at += 1;
        if self.next_is(b'}') {
            return Ok(Value::Table(members));
        }
        loop {
            self.space();
            let key = self.text()?;
            if !self.next_is(b':') {
                return Err(());
            }
            members.push((key, self.value(depth + 1)?));
            if self.next_is(b'}') {
                return Ok(Value::Table(members));
            }
            if !self.next_is(b',') {
                return Err(());
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, ()> {
        let mut values = Vec::new();
        self.at += 1;
        if self.next_is(b']') {
            return Ok(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            if self.next_is(b']') {
                return Ok(Value::List(values));
            }
            if !self.next_is(b',') {
                return Err(());
            }
        }
    }

    fn text(&mut self) -> Result<String, ()> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(());
        }
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = *self.bytes.get(self.at).ok_or(())?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(text).map_err(drop),
                b'\\' => self.escape(&mut text)?,
                0..0x20 => return Err(()),
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), ()> {
        let byte = *self.bytes.get(self.at).ok_or(())?;
        self.at += 1;
        text.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let high = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&high)
                    && self.bytes[self.at..].starts_with(b"\\u")
                {
                    self.at += 2;
                    let low = self.hex4()?;
                    0x10000 + ((high - 0xd800) << 10) + low.checked_sub(0xdc00).ok_or(())?
                } else {
                    high
                };
                let letter = char::from_u32(code).ok_or(())?;
                text.extend(letter.encode_utf8(&mut [0; 4]).bytes());
                return Ok(());
            }
            _ => return Err(()),
        });
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, ()> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(())?;
        self.at += 4;
        digits
            .iter()
            .try_fold(0, |sum, &digit| Ok(sum * 16 + char::from(digit).to_digit(16).ok_or(())?))
    }

    fn number(&mut self) -> Result<Value, ()> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let length = length.count();
        let text = str::from_utf8(&rest[..length]).map_err(drop)?;
        if length == 0 {
            return Err(());
        }
        self.at += length;
        Ok(Value::Number(text.to_owned()))
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, ()> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(());
        }
        self.at += word.len();
        Ok(value)
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_by_key_and_type() {
        let json = r#" {"a": "x\n\u00e9\ud83d\ude00", "b": [ "y", "z" ], "c": -1.5e1, "d": true, "e": [], "f": {"g": null}} "#;
        let settings = Settings::parse(json).unwrap();

        assert_eq!(settings.text("a"), Ok("x\né😀"));
        assert_eq!(settings.texts("b"), Ok(vec!["y", "z"]));
        assert_eq!(settings.number("c"), Ok(-15.0));
        assert_eq!(settings.flag("d"), Ok(true));
        assert_eq!(settings.texts("e"), Ok(vec![]));
        assert_eq!(settings.text("d"), Err("setting `d` is not a text".into()));
        assert_eq!(settings.text("x"), Err("setting `x` is missing".into()));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{} x",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\ud83d\"}",
            "{\"a\":\"\\ud83d\\u0041\"}",
            "{\"a\":tru}",
            "{\"a\":\"b",
        ] {
            assert!(Settings::parse(json).is_err(), "{json}");
        }
        assert!(Settings::parse(&format!("{{\"a\":{}", "[".repeat(100_000))).is_err());
    }
}
