//! A second reading of DNS messages (RFC 1035, 4.1), by other code than wrote them, and as strict as can be.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A message.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) id: u16,
    /// All 16 bits of flags and codes.
    pub(crate) flags: u16,
    /// `NAME TYPE CLASS`.
    pub(crate) questions: Vec<String>,
    /// Answers, authority, additional: `NAME TTL TYPE DATA`, OPT left out.
    pub(crate) sections: [Vec<String>; 3],
    /// The OPT record's class (payload size) and TTL (code, version, flags).
    pub(crate) opt: Option<(u16, u32)>,
}

impl Read {
    /// The code, with EDNS's upper bits.
    pub(crate) fn code(&self) -> u16 {
        self.flags & 0xf | self.opt.map_or(0, |(_, ttl)| u16::try_from(ttl >> 24).unwrap() << 4)
    }

    /// Whether it was cut short.
    pub(crate) fn is_truncated(&self) -> bool {
        self.flags & 0x200 != 0
    }
}

/// Reads a whole message; a byte too many or too few is an error.
pub(crate) fn read(message: &[u8]) -> Result<Read, String> {
    let mut at = 12;
    let count = |index: usize| number(message, 4 + 2 * index);
    let mut read = Read {
        id: number(message, 0)?,
        flags: number(message, 2)?,
        questions: vec![],
        sections: Default::default(),
        opt: None,
    };
    for _ in 0..count(0)? {
        let name = name(message, &mut at)?;
        let (kind, class) = (number(message, at)?, number(message, at + 2)?);
        at += 4;
        read.questions.push(format!("{name} {kind} {class}"));
    }
    for section in 0..3 {
        for _ in 0..count(section + 1)? {
            let owner = name(message, &mut at)?;
            let (kind, class) = (number(message, at)?, number(message, at + 2)?);
            let ttl = u32::from(number(message, at + 4)?) << 16 | u32::from(number(message, at + 6)?);
            let len = usize::from(number(message, at + 8)?);
            at += 10;
            let data = message.get(at..at + len).ok_or("data end too early")?;
            let mut inner = at;
            at += len;
            if kind == 41 {
                if owner != "." || section != 2 || read.opt.replace((class, ttl)).is_some() {
                    return Err("an OPT record out of its place".to_owned());
                }
                continue;
            }
            let text = match kind {
                1 => format!("A {}", Ipv4Addr::from(<[u8; 4]>::try_from(data).map_err(|_| "an A of another length")?)),
                28 => {
                    format!(
                        "AAAA {}",
                        Ipv6Addr::from(<[u8; 16]>::try_from(data).map_err(|_| "an AAAA of another length")?)
                    )
                }
                12 => format!("PTR {}", exactly(message, &mut inner, at)?),
                33 => {
                    let [priority, weight, port] = [0, 2, 4].map(|offset| number(data, offset));
                    inner += 6;
                    if data[6..].iter().any(|byte| *byte >= 0xc0) {
                        return Err("a target with compression (RFC 2782)".to_owned());
                    }
                    format!("SRV {} {} {} {}", priority?, weight?, port?, exactly(message, &mut inner, at)?)
                }
                6 => {
                    let (primary, person) = (name(message, &mut inner)?, name(message, &mut inner)?);
                    if inner + 20 != at {
                        return Err("an SOA of another length".to_owned());
                    }
                    format!("SOA {primary} {person}")
                }
                other => format!("TYPE{other} {} bytes", data.len()),
            };
            if class != 1 {
                return Err(format!("class {class}"));
            }
            read.sections[section].push(format!("{owner} {ttl} {text}"));
        }
    }
    if at == message.len() { Ok(read) } else { Err(format!("{} bytes after the end", message.len().abs_diff(at))) }
}

fn exactly(message: &[u8], at: &mut usize, end: usize) -> Result<String, String> {
    let name = name(message, at)?;
    if *at == end { Ok(name) } else { Err("a name of another length than its record".to_owned()) }
}

fn name(message: &[u8], at: &mut usize) -> Result<String, String> {
    let (mut here, mut text, mut jumped) = (*at, String::new(), false);
    loop {
        let len = usize::from(*message.get(here).ok_or("a name ends too early")?);
        match len {
            0 => {
                if !jumped {
                    *at = here + 1;
                }
                return Ok(if text.is_empty() { ".".to_owned() } else { text });
            }
            1..=63 => {
                let label = message.get(here + 1..here + 1 + len).ok_or("a label ends too early")?;
                text.push_str(&label.escape_ascii().to_string());
                text.push('.');
                here += 1 + len;
            }
            192.. => {
                let target = usize::from(number(message, here)? & 0x3fff);
                if !jumped {
                    *at = here + 2;
                }
                // Only backwards, so that it ends.
                if target >= here {
                    return Err("a pointer that leads forward".to_owned());
                }
                (here, jumped) = (target, true);
            }
            _ => return Err(format!("a label of kind {len}")),
        }
    }
}

fn number(message: &[u8], at: usize) -> Result<u16, String> {
    let bytes = message.get(at..at + 2).ok_or("the message ends too early")?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A question as `dig` sends it.
pub(crate) fn question(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut message = Vec::new();
    let additional = u16::from(payload.is_some());
    for number in [id, 0x0100, 1, 0, 0, additional] {
        message.extend(number.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    if let Some(payload) = payload {
        message.extend([0, 0, 41]);
        message.extend(payload.to_be_bytes());
        message.extend([0; 6]);
    }
    message
}
