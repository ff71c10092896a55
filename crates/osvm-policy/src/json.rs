//! JSON in which every value knows where it stands.
//!
//! serde_json does all of the parsing, one level at a time: an object is read into borrowed
//! [`RawValue`]s, which are slices of the source, so the address of one says its offset. Levels
//! nobody asks for are checked by serde_json without recursion, so nesting costs nothing.
//!
//! Readers never stop at a problem. They note it in the [`Reader`] and go on without the value.

use crate::error::{ConfigErrors, Problem, ProblemKind};
use crate::source::{LineIndex, Location};
use crate::words::{member_pointer, printable};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// A value and the offset it stands at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) at: usize,
}

/// Way from the top of the file to a value, as steps on the reader's stack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The way in words, such as `mcp_servers.solana.mounts[0]`; empty for the whole file.
    pub(crate) fn pointer(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Member(parent, name) => member_pointer(&parent.pointer(), name),
            Self::Item(parent, index) => format!("{}[{index}]", parent.pointer()),
        }
    }
}

/// The text being read, and what was found wrong with it so far.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    lines: &'a LineIndex,
    problems: Vec<Problem>,
    more: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, lines: &'a LineIndex) -> Self {
        Self { text, lines, problems: Vec::new(), more: 0 }
    }

    /// The whole text as one value, if it is JSON.
    pub(crate) fn root(&mut self) -> Option<Node<'a, 'static>> {
        match serde_json::from_str::<&RawValue>(self.text) {
            Ok(raw) => Some(Node { raw, path: Path::Root }),
            Err(error) => {
                let (reason, at) = self.syntax_error(self.text, 0, &error);
                self.problem(at, &Path::Root, ProblemKind::Syntax { reason });
                None
            }
        }
    }

    /// Notes that something is wrong.
    pub(crate) fn problem(&mut self, at: usize, path: &Path<'_>, kind: ProblemKind) {
        self.add(Problem { location: self.locate(at), pointer: path.pointer(), kind });
    }

    /// Notes a problem. Only the first few are kept.
    pub(crate) fn add(&mut self, problem: Problem) {
        if self.problems.len() < ConfigErrors::MOST {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Notes that nothing in `path` can have the name of `member`.
    pub(crate) fn bad_name(&mut self, member: &Member<'a>, path: &Path<'_>, reason: &'static str) {
        let kind = ProblemKind::BadName { name: printable(&member.name), reason };
        self.problem(member.key_at, path, kind);
    }

    pub(crate) fn locate(&self, at: usize) -> Location {
        self.lines.locate(self.text, at)
    }

    /// What was found wrong, in the order of the text, and how much more there was.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, usize) {
        self.problems.sort_by_key(|problem| problem.location);
        (self.problems, self.more)
    }

    fn offset(&self, raw: &RawValue) -> usize {
        // Both point into the same text, so this is a plain subtraction; anything else gives 0.
        raw.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr())
    }

    /// serde_json's words without the place it appends, and the offset of that place.
    fn syntax_error(&self, part: &str, base: usize, error: &serde_json::Error) -> (String, usize) {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        let index = LineIndex::new(part);
        let at = base + index.offset(error.line(), error.column());
        (printable(words), at.min(self.text.len()))
    }
}

/// One value of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a, 'p> {
    raw: &'a RawValue,
    pub(crate) path: Path<'p>,
}

impl<'a, 'p> Node<'a, 'p> {
    /// Offset of the value's first byte.
    pub(crate) fn at(&self, reader: &Reader<'a>) -> usize {
        reader.offset(self.raw)
    }

    /// Notes that something is wrong with this value.
    pub(crate) fn problem(&self, reader: &mut Reader<'a>, kind: ProblemKind) {
        reader.problem(self.at(reader), &self.path, kind);
    }

    /// Notes that this value makes no sense.
    pub(crate) fn invalid(&self, reader: &mut Reader<'a>, value: &str, reason: impl Into<String>) {
        let kind = ProblemKind::Invalid { value: printable(value), reason: reason.into() };
        self.problem(reader, kind);
    }

    pub(crate) fn spanned<T>(&self, reader: &Reader<'a>, value: T) -> Spanned<T> {
        Spanned { value, at: self.at(reader) }
    }

    pub(crate) fn bool(&self, reader: &mut Reader<'a>) -> Option<bool> {
        self.scalar(reader, "true or false")
    }

    pub(crate) fn string(&self, reader: &mut Reader<'a>) -> Option<Cow<'a, str>> {
        if self.kind() != "a string" {
            return self.wrong_type(reader, "a string");
        }
        match serde_json::from_str::<Text<'a>>(self.raw.get()) {
            Ok(Text(text)) => Some(text),
            // Half a surrogate pair: JSON allows to write it, but it is no text.
            Err(error) => {
                let (reason, at) = reader.syntax_error(self.raw.get(), self.at(reader), &error);
                reader.problem(at, &self.path, ProblemKind::Syntax { reason });
                None
            }
        }
    }

    /// A whole number from `least` to `most`; `takes` says so in words.
    pub(crate) fn integer(
        &self,
        reader: &mut Reader<'a>,
        (least, most): (u64, u64),
        takes: impl FnOnce() -> String,
    ) -> Option<u64> {
        let text = self.raw.get();
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.wrong_type(reader, "a whole number");
        }
        // A number that is too long for any integer is out of range too.
        match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                let value = printable(text);
                self.problem(reader, ProblemKind::OutOfRange { value, takes: takes() });
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(
        &self,
        reader: &mut Reader<'a>,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let word = self.string(reader)?;
        let found = words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if found.is_none() {
            let known = words.iter().map(|(name, _)| *name).collect();
            let word = printable(&word);
            self.problem(reader, ProblemKind::UnknownWord { word, known });
        }
        found
    }

    pub(crate) fn items(&self, reader: &mut Reader<'a>) -> Option<Vec<Node<'a, '_>>> {
        let items: Vec<&'a RawValue> = self.scalar(reader, "a list")?;
        let node = |(index, raw)| Node { raw, path: Path::Item(&self.path, index) };
        Some(items.into_iter().enumerate().map(node).collect())
    }

    /// The members, each name once. A name that comes again is a problem, and its value is not
    /// looked at.
    pub(crate) fn members(&self, reader: &mut Reader<'a>) -> Option<Vec<Member<'a>>> {
        let Members(pairs) = self.scalar(reader, "an object")?;
        let mut seen: HashMap<Cow<'a, str>, usize> = HashMap::new();
        let mut members = Vec::with_capacity(pairs.len());
        for (key, raw) in pairs {
            let key = Node { raw: key, path: self.path };
            let Some(name) = key.string(reader) else { continue };
            let key_at = key.at(reader);
            if let Some(first) = seen.get(&name) {
                let first = reader.locate(*first);
                let name = printable(&name);
                key.problem(reader, ProblemKind::DuplicateField { name, first });
                continue;
            }
            seen.insert(name.clone(), key_at);
            members.push(Member { name, key_at, raw });
        }
        Some(members)
    }

    /// The members by name, for a value whose members are all known.
    pub(crate) fn fields(&self, reader: &mut Reader<'a>) -> Option<Fields<'a, 'p>> {
        let at = self.at(reader);
        Some(Fields { members: self.members(reader)?, known: Vec::new(), path: self.path, at })
    }

    /// What JSON calls this value.
    pub(crate) fn kind(&self) -> &'static str {
        match self.raw.get().as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    fn scalar<T: Deserialize<'a>>(
        &self,
        reader: &mut Reader<'a>,
        expected: &'static str,
    ) -> Option<T> {
        match serde_json::from_str(self.raw.get()) {
            Ok(value) if self.kind() == expected => Some(value),
            _ => self.wrong_type(reader, expected),
        }
    }

    fn wrong_type<T>(&self, reader: &mut Reader<'a>, expected: &'static str) -> Option<T> {
        let found = match self.kind() {
            "a number" if expected == "a whole number" => "a fraction",
            found => found,
        };
        self.problem(reader, ProblemKind::WrongType { expected, found });
        None
    }
}

/// One member of an object.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    /// Offset of the name.
    pub(crate) key_at: usize,
    raw: &'a RawValue,
}

impl<'a> Member<'a> {
    /// The member's value, on the way `path`.
    pub(crate) fn node<'p>(&self, path: Path<'p>) -> Node<'a, 'p> {
        Node { raw: self.raw, path }
    }
}

/// The members of an object whose names are all known.
#[derive(Debug)]
pub(crate) struct Fields<'a, 'p> {
    members: Vec<Member<'a>>,
    known: Vec<&'static str>,
    pub(crate) path: Path<'p>,
    /// Offset of the object.
    pub(crate) at: usize,
}

impl<'a> Fields<'a, '_> {
    /// Reads the member `name` with `read`, if it is there. Asking makes the name a known one.
    pub(crate) fn take<T>(
        &mut self,
        reader: &mut Reader<'a>,
        name: &'static str,
        read: impl FnOnce(Node<'a, '_>, &mut Reader<'a>) -> Option<T>,
    ) -> Option<T> {
        self.know(name);
        let index = self.members.iter().position(|member| member.name == name)?;
        let member = self.members.swap_remove(index);
        read(member.node(Path::Member(&self.path, name)), reader)
    }

    /// The same, together with where the value stands.
    pub(crate) fn take_spanned<T>(
        &mut self,
        reader: &mut Reader<'a>,
        name: &'static str,
        read: impl FnOnce(Node<'a, '_>, &mut Reader<'a>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        self.take(reader, name, |node, reader| {
            read(node, reader).map(|value| node.spanned(reader, value))
        })
    }

    /// Reads the member `name`, which has to be there.
    pub(crate) fn require<T>(
        &mut self,
        reader: &mut Reader<'a>,
        name: &'static str,
        read: impl FnOnce(Node<'a, '_>, &mut Reader<'a>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(name) {
            reader.problem(self.at, &self.path, ProblemKind::MissingField { name });
        }
        self.take(reader, name, read)
    }

    /// Makes a name that is not taken a known one.
    pub(crate) fn know(&mut self, name: &'static str) {
        self.known.push(name);
    }

    /// Whether the member `name` is there and has not been taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.name == name)
    }

    /// Every member that nobody took is a problem.
    pub(crate) fn finish(self, reader: &mut Reader<'a>) {
        for member in &self.members {
            let kind = ProblemKind::UnknownField {
                name: printable(&member.name),
                known: self.known.clone(),
            };
            reader.problem(member.key_at, &self.path, kind);
        }
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
