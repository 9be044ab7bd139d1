//! Attributes of an image: `<ismrmrdMeta><meta><name>…</name><value>…</value></meta>…</ismrmrdMeta>`.

use std::fmt::Write;

use roxmltree::{Document, ParsingOptions};

/// Most elements and texts of a document.
pub(super) const MOST_NODES: u32 = 1 << 18;

/// Names with their values, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta(Vec<(String, Vec<String>)>);

impl Meta {
    /// Reads attributes; no text has none.
    ///
    /// # Errors
    /// A text that is no such document.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "attributes that are no UTF-8")?;
        let text = text.trim_matches(['\0', ' ', '\n', '\r']);
        if text.is_empty() {
            return Ok(Self::default());
        }
        let document = parse_xml(text).ok_or("attributes that are no XML")?;
        if document.root_element().tag_name().name() != "ismrmrdMeta" {
            return Err("attributes that are no ismrmrdMeta".into());
        }
        let entries = document.root_element().children().filter(|node| node.has_tag_name("meta"));
        let mut meta = Self::default();
        for entry in entries {
            let texts = |name: &'static str| {
                let nodes = entry.children().filter(move |node| node.has_tag_name(name));
                nodes.map(|node| node.text().unwrap_or_default().to_owned())
            };
            let Some(name) = texts("name").next().filter(|name| !name.is_empty()) else { continue };
            meta.0.push((name, texts("value").collect()));
        }
        Ok(meta)
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(known, _)| known == name)?;
        values.first().map(String::as_str)
    }

    /// Replaces the values of a name, or adds it.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), vec![value.into()]));
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let of = |(name, values): &(String, Vec<String>)| {
            name.len() + values.iter().map(String::len).sum::<usize>() + 64
        };
        self.0.iter().map(of).sum()
    }

    /// The document.
    pub fn to_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ismrmrdMeta>");
        for (name, values) in &self.0 {
            let _ = write!(xml, "<meta><name>{}</name>", escaped(name));
            for value in values {
                let _ = write!(xml, "<value>{}</value>", escaped(value));
            }
            xml.push_str("</meta>");
        }
        xml.push_str("</ismrmrdMeta>");
        xml
    }
}

/// A document without a type definition (so that no entity can grow), of bounded size.
pub(super) fn parse_xml(text: &str) -> Option<Document<'_>> {
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    if is_too_deep(text) {
        return None;
    }
    Document::parse_with_options(text, options).ok()
}

/// Elements within elements; real headers have fewer than ten.
const MOST_LEVELS: usize = 64;

/// Whether elements may lie deeper within each other than a parser's stack allows.
fn is_too_deep(text: &str) -> bool {
    let mut level = 0usize;
    let mut parts = text.split('<').skip(1);
    parts.any(|part| {
        let tag = part.split('>').next().unwrap_or_default();
        match tag.as_bytes() {
            [b'/', ..] => level = level.saturating_sub(1),
            [b'!' | b'?', ..] | [.., b'/'] => {}
            _ => level += 1,
        }
        level > MOST_LEVELS
    })
}

/// A text within an element. Characters that XML cannot have are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' | '\t' => escaped.push(character),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
            _ => escaped.push(character),
        }
    }
    escaped
}
