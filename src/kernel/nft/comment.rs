//! A rule's comment in the kernel: `weft 2 balance-port 4 tcp 3 65536 2`.
//!
//! The comment is what an observer reads a rule back from, so it must change whenever the same rule would compile to
//! other expressions: that is the number's purpose.

use crate::model::Rule;

/// Which expressions a rule's text stands for. Raise it with every change of what `expression::compile` writes for a rule
/// that a released version wrote: rules of another number read as foreign and are replaced.
pub(super) const FORMAT: u32 = 2;

/// `NFTNL_UDATA_RULE_COMMENT` in libnftnl's udata.h.
const COMMENT: u8 = 0;

/// The comment's text.
pub(super) fn text(rule: Rule) -> String {
    format!("weft {FORMAT} {rule}")
}

/// The comment as nft writes it: type, length, text with a NUL.
pub(super) fn write(rule: Rule) -> Vec<u8> {
    let text = text(rule);
    // nft takes at most 128 bytes; the longest of ours has 56.
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, length];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// The rule that a comment names; nothing for any but ours of this format.
pub(super) fn read(mut userdata: &[u8]) -> Option<Rule> {
    while let [kind, length, rest @ ..] = userdata {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()?;
            let rule: Rule =
                text.strip_prefix("weft ")?.strip_prefix(&FORMAT.to_string())?.strip_prefix(' ')?.parse().ok()?;
            // `+7` and `07` parse as 7 too, but were not written by us.
            return (rule.to_string() == text.splitn(3, ' ').nth(2)?).then_some(rule);
        }
        userdata = others;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, L4, Pick, Slot};

    #[test]
    fn a_comment_comes_back_as_its_rule() {
        let rule = Rule::BalancePort {
            family: Family::V6,
            protocol: L4::Udp,
            shard: 255,
            first: Slot(u32::MAX),
            slots: u16::MAX,
            pick: Pick::Turn,
        };
        assert_eq!(read(&write(rule)), Some(rule));
        assert!(write(rule).len() <= 128);
        assert_eq!(read(&[&[1, 2, 9, 9], write(rule).as_slice()].concat()), Some(rule), "other notes are passed over");
    }

    #[test]
    fn other_comments_are_not_ours() {
        let comment = |text: &str| [&[0, u8::try_from(text.len() + 1).unwrap()], text.as_bytes(), &[0]].concat();
        let ours = |rest: &str| format!("weft {FORMAT} {rest}");
        for text in [
            // As an older and a later agent would compile it.
            format!("weft {} refuse-tcp", FORMAT - 1),
            format!("weft {} refuse-tcp", FORMAT + 1),
            ours("refuse"),
            "refuse-tcp".to_owned(),
            String::new(),
            ours("clear-mark +7"),
            ours("foreign rule with handle 3"),
        ] {
            assert_eq!(read(&comment(&text)), None, "{text}");
        }
        assert_eq!(read(&[0, 200, b'w']), None, "cut short");
        assert_eq!(read(&comment(&ours("refuse-tcp"))), Some(Rule::RefuseTcp));
    }
}
