//! The status code of an HTTP/1 answer (RFC 9112, 4), from as many of its bytes as have arrived.

/// These bytes begin no HTTP/1 answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotHttp;

/// The final status code, or nothing if it is not there yet. Interim answers (1xx) before it are passed over, as RFC 9110, 15.2
/// asks of a client.
pub(super) fn status(answer: &[u8]) -> Result<Option<u16>, NotHttp> {
    let mut rest = answer;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if could_begin_a_line(rest) { Ok(None) } else { Err(NotHttp) };
        };
        let (line, after) = rest.split_at(end);
        let code = code_of(line.strip_suffix(b"\r").unwrap_or(line))?;
        // 101 is final: what follows is another protocol.
        if !(100..200).contains(&code) || code == 101 {
            return Ok(Some(code));
        }
        match end_of_head(after) {
            Some(next) => rest = next,
            None => return Ok(None),
        }
    }
}

const VERSION: &[u8] = b"HTTP/1.";

/// Whether a status line could begin so.
fn could_begin_a_line(begun: &[u8]) -> bool {
    let common = begun.len().min(VERSION.len());
    begun[..common] == VERSION[..common]
}

/// The code of `HTTP/1.x CODE[ REASON]`.
fn code_of(line: &[u8]) -> Result<u16, NotHttp> {
    let [b'0'..=b'9', b' ', code @ ..] = line.strip_prefix(VERSION).ok_or(NotHttp)? else { return Err(NotHttp) };
    let ([hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9']
    | [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' ', ..]) = code
    else {
        return Err(NotHttp);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    Ok(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones))
}

/// What follows the empty line, from the line end before the first header on.
fn end_of_head(head: &[u8]) -> Option<&[u8]> {
    let ends = |end: &'static [u8]| Some(head.windows(end.len()).position(|window| window == end)? + end.len());
    let end = match (ends(b"\n\r\n"), ends(b"\n\n")) {
        (Some(one), Some(other)) => one.min(other),
        (one, other) => one.or(other)?,
    };
    head.get(end..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn status_lines() {
        for (answer, found) in [
            ("", Ok(None)),
            ("HTT", Ok(None)),
            ("HTTP/1.1 200", Ok(None)),
            ("HTTP/1.1 200\n", Ok(Some(200))),
            ("HTTP/1.1 200\r\n", Ok(Some(200))),
            ("HTTP/1.0 404 Not Found\r\nServer: x\r\n", Ok(Some(404))),
            ("HTTP/1.1 101 Switching\r\n", Ok(Some(101))),
            ("HTTP/1.1 100 Continue\r\n", Ok(None)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", Ok(None)),
            ("HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100\n\nHTTP/1.1 503 \r\n", Ok(Some(503))),
            ("HTTP/1.1 100 Continue\r\n\r\ngarbage", Err(NotHttp)),
            ("hello", Err(NotHttp)),
            ("HTTP/2 200\n", Err(NotHttp)),
            ("HTTP/1.1 20\n", Err(NotHttp)),
            ("HTTP/1.1 2000\n", Err(NotHttp)),
            ("HTTP/1.1 099\n", Err(NotHttp)),
            ("HTTP/1.1  200\n", Err(NotHttp)),
            ("HTTP/1.x 200\n", Err(NotHttp)),
        ] {
            assert_eq!(status(answer.as_bytes()), found, "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(answer in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = status(&answer);
        }

        /// However it is cut on its way, it is judged the same.
        #[test]
        fn cut_anywhere_it_says_the_same_or_nothing_yet(text in "(HTTP/1\\.1 1[0-9]{2} \\w*\r?\n(a: b\r\n)?\r\n){0,2}HTTP/1\\.[01] [2-5][0-9]{2}( \\w*)?\r\n", cut in 0_usize..200) {
            let whole = status(text.as_bytes());
            prop_assert!(matches!(whole, Ok(Some(_))));
            let part = status(&text.as_bytes()[..cut.min(text.len())]);
            prop_assert!(part == whole || part == Ok(None), "{:?}", part);
        }
    }
}
