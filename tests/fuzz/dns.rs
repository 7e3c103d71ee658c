//! DNS: whatever a container sends, and whatever comes back from a resolver.

use weft::dns::{Reaction, Way, failure, is_reply, respond};

use super::{
    dns_reader::{question, read},
    names_world::{BLUE, zone},
};

/// Questions of every kind that is told apart.
pub(crate) fn question_seeds() -> Vec<Vec<u8>> {
    let names = [
        "web",
        "WEB.blue",
        "tasks.web",
        "cache",
        "front",
        "nobody.blue",
        "blue",
        "_8080._tcp.web",
        "1.0.42.10.in-addr.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa",
        "www.example.com",
        "",
    ];
    let kinds = [1, 6, 12, 16, 28, 33, 255];
    let sizes = [None, Some(1232)];
    names
        .iter()
        .flat_map(|name| kinds.iter().flat_map(move |kind| sizes.map(|size| question(0x1234, name, *kind, size))))
        .collect()
}

/// Nothing makes it panic; a reply is to the question, reads back, and fits.
pub(crate) fn question_runner() -> super::Runner {
    let zone = zone();
    Box::new(move |packet| {
        let mut word = String::new();
        for (asker, way) in [(BLUE, Way::Udp), (BLUE, Way::Tcp), ("192.0.2.1", Way::Udp)] {
            let mut reply = Vec::new();
            let reaction = respond(packet, asker.parse().unwrap(), &zone, way, 3, &mut reply);
            if matches!(reaction, Reaction::Drop) {
                // Too short for a header, or not a question.
                assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "a question was dropped");
            }
            if let Reaction::Reply(_) = reaction {
                let answer = read(&reply).unwrap_or_else(|error| panic!("{error}: {reply:02x?}"));
                assert_eq!(answer.id.to_be_bytes(), packet[..2]);
                assert!(answer.flags & 0x8000 != 0, "a reply that does not say so would go round");
                assert!(way == Way::Tcp || reply.len() <= 1232, "{} bytes in a datagram", reply.len());
                assert!(answer.questions.len() <= 1);
                assert!(!answer.is_truncated() || way == Way::Udp && answer.sections[0].is_empty());
                let [answers, authority, additional] = answer.sections.each_ref().map(Vec::len);
                word = [word, format!("{} {answers} {authority} {additional}", answer.code())].concat();
            }
            if let Reaction::Forward(room) = reaction {
                assert!(asker == BLUE && room >= 512);
                failure(packet, &mut reply);
                let answer = read(&reply).unwrap_or_else(|error| panic!("{error}: {reply:02x?}"));
                assert_eq!((answer.id.to_be_bytes().as_slice(), answer.code()), (&packet[..2], 2));
            }
            // How much room there is makes no other case.
            let outcome =
                if let Reaction::Forward(_) = reaction { "forward;".to_owned() } else { format!("{reaction:?};") };
            word = [word, outcome].concat();
        }
        word
    })
}

/// Questions and replies behind each other, parted by a length.
pub(crate) fn reply_seeds() -> Vec<Vec<u8>> {
    question_seeds()
        .into_iter()
        .map(|asked| {
            let mut reply = asked.clone();
            reply[2] |= 0x80;
            let mut input = vec![u8::try_from(asked.len()).unwrap()];
            input.extend(&asked);
            input.extend(reply);
            input
        })
        .collect()
}

/// Nothing makes it panic, and what is taken for a reply has the question's id.
pub(crate) fn reply_runner() -> super::Runner {
    Box::new(|input| {
        let Some((len, rest)) = input.split_first() else { return String::new() };
        let (asked, reply) = rest.split_at(usize::from(*len).min(rest.len()));
        let is_taken = is_reply(asked, reply);
        if is_taken {
            assert_eq!(asked[..2], reply[..2]);
            assert!(reply[2] & 0x80 != 0);
        }
        is_taken.to_string()
    })
}
