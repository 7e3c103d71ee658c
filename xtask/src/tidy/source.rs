//! A Rust file as the rules want it: code without comments and strings, cut into words, each with its line.
//!
//! This is no parser. It knows just enough of the language to tell code from text and to follow `crate::`, `weft::` and
//! `super::` through nested `use` groups and inline modules.

/// A word of code: an identifier, `::`, or one character of punctuation.
pub(super) struct Token {
    /// The word.
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
}

/// A reference to a top-level module of our own library.
pub(super) struct Import {
    /// Such as `kernel`.
    pub(super) module: String,
    /// From 1.
    pub(super) line: usize,
}

/// One file.
pub(super) struct Source {
    code: String,
    tokens: Vec<Token>,
    /// How many modules deep the file itself lies: `src/plan/mod.rs` 1, `src/plan/step.rs` 2.
    depth: usize,
}

impl Source {
    /// Reads a file's text.
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let code = without_text(text);
        let tokens = tokens(&code);
        let inside = path.strip_prefix("src/").unwrap_or(path);
        let depth = inside.split('/').filter(|part| !matches!(*part, "mod.rs" | "lib.rs" | "main.rs")).count();
        Self { code, tokens, depth }
    }

    /// Each line of code with comments and strings blanked, numbered from 1.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    /// The first word of every path: `rtnetlink` in `rtnetlink::Handle`, also inside `use` groups at their top.
    pub(super) fn path_roots(&self) -> impl Iterator<Item = &Token> {
        (0..self.tokens.len()).filter_map(|at| {
            let follows = self.text(at + 1) == "::";
            let before = at.checked_sub(1).map_or("", |before| self.text(before));
            let continues = before == "."
                || (before == "::" && at >= 2 && is_word(self.text(at - 2)) && self.text(at - 2) != "use");
            (is_word(self.text(at)) && follows && !continues && !self.in_group(at)).then(|| &self.tokens[at])
        })
    }

    /// Every top-level module of ours that the file refers to.
    pub(super) fn own_imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        // The brace depths at which inline modules are open.
        let mut inline = Vec::new();
        let mut braces = 0_usize;
        let mut at = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "{" => {
                    braces += 1;
                    if at >= 2 && self.text(at - 2) == "mod" {
                        inline.push(braces);
                    }
                }
                "}" => {
                    if inline.last() == Some(&braces) {
                        inline.pop();
                    }
                    braces = braces.saturating_sub(1);
                }
                "crate" | "weft" if self.text(at + 1) == "::" && self.starts_path(at) => {
                    self.first_segments(at + 2, &mut imports);
                }
                "super" if self.starts_path(at) => {
                    let mut levels = 0;
                    while self.text(at + 2 * levels) == "super" && self.text(at + 2 * levels + 1) == "::" {
                        levels += 1;
                    }
                    if levels > 0 && levels == self.depth + inline.len() {
                        self.first_segments(at + 2 * levels, &mut imports);
                    }
                    at += (2 * levels).saturating_sub(1);
                }
                _ => {}
            }
            at += 1;
        }
        imports
    }

    /// The modules named from `at` on: one word, or the first words of a group.
    fn first_segments(&self, at: usize, imports: &mut Vec<Import>) {
        if self.text(at) != "{" {
            self.push_module(at, imports);
            return;
        }
        let mut depth = 0_usize;
        for at in at..self.tokens.len() {
            match self.text(at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
            if depth == 1 && matches!(self.text(at), "{" | ",") {
                self.push_module(at + 1, imports);
            }
        }
    }

    /// A module is written in lower case; a type or function re-exported at the root is not one of the folders.
    fn push_module(&self, at: usize, imports: &mut Vec<Import>) {
        let Some(token) = self.tokens.get(at) else { return };
        if is_word(&token.text) && token.text != "self" && token.text.starts_with(|c: char| c.is_ascii_lowercase()) {
            imports.push(Import { module: token.text.clone(), line: token.line });
        }
    }

    fn starts_path(&self, at: usize) -> bool {
        at == 0 || self.text(at - 1) != "::"
    }

    /// Whether the word lies in a `use` group that continues a path: `b` in `a::{b::C}`.
    fn in_group(&self, at: usize) -> bool {
        let mut depth = 0_usize;
        for before in (0..at).rev() {
            match self.text(before) {
                "}" => depth += 1,
                "{" if depth > 0 => depth -= 1,
                "{" if before >= 1 && self.text(before - 1) == "::" => return true,
                "{" if before >= 1 && matches!(self.text(before - 1), "use" | "{" | ",") => {}
                "{" | ";" => return false,
                _ => {}
            }
        }
        false
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (line, number) in code.lines().zip(1..) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token { text: rest[..length].to_owned(), line: number });
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// The code with the insides of comments, strings and character literals taken out and every line end kept.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    // Leaves the line ends of a stretch and nothing else.
    let blank = |code: &mut String, from: usize, to: usize| {
        code.extend(chars[from.min(chars.len())..to.min(chars.len())].iter().filter(|c| **c == '\n'));
    };
    while at < chars.len() {
        let begun = at;
        match (get(at), get(at + 1)) {
            ('/', '/') => {
                while at < chars.len() && get(at) != '\n' {
                    at += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0_usize;
                while at < chars.len() {
                    match (get(at), get(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                blank(&mut code, begun, at);
            }
            ('"', _) => {
                at += 1;
                while at < chars.len() && get(at) != '"' {
                    at += if get(at) == '\\' { 2 } else { 1 };
                }
                at += 1;
                code.push_str("\"\"");
                blank(&mut code, begun, at);
            }
            ('r', '"' | '#') if raw_string(&chars, at).is_some() && !ends_in_word(&code) => {
                at = raw_string(&chars, at).unwrap_or(at + 1);
                code.push_str("\"\"");
                blank(&mut code, begun, at);
            }
            // A character literal, as opposed to a lifetime: 'x' or '\...'.
            ('\'', '\\') => {
                at += 3;
                while at < chars.len() && get(at) != '\'' {
                    at += 1;
                }
                at += 1;
                code.push_str("''");
            }
            ('\'', _) if get(at + 2) == '\'' => {
                at += 3;
                code.push_str("''");
            }
            (other, _) => {
                code.push(other);
                at += 1;
            }
        }
    }
    code
}

fn ends_in_word(code: &str) -> bool {
    code.ends_with(|c: char| (c.is_alphanumeric() || c == '_') && c != 'b' && c != 'c')
}

/// Where the raw string that begins at `at` ends, if one does: `r"…"`, `r#"…"#`.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |quote: usize| chars[quote + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    let end = (open + 1..chars.len()).find(|quote| chars[*quote] == '"' && closes(*quote));
    Some(end.map_or(chars.len(), |quote| quote + 1 + hashes))
}
