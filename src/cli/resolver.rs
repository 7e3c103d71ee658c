//! What a namespace's programs ask for names: the text of a resolv.conf(5).

use std::{fmt::Write, net::IpAddr};

/// The file by which programs find their resolver.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A resolv.conf that asks `resolvers`, and completes names as the host's own file does.
///
/// `ndots:0` has a name of one word asked as it stands before the host's domains are tried behind it (resolv.conf(5)): most
/// names of services have one word.
pub(super) fn resolv_conf(resolvers: &[IpAddr], of_host: &str) -> String {
    let mut text = String::new();
    for resolver in resolvers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {resolver}");
    }
    // Of several lines the last one counts.
    let is_search = |line: &&str| matches!(line.split_whitespace().next(), Some("search" | "domain"));
    if let Some(search) = of_host.lines().map(str::trim_end).filter(is_search).next_back() {
        let _ = writeln!(text, "{search}");
    }
    text.push_str("options ndots:0\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_last_search_line_is_kept() {
        let both = ["169.254.1.1".parse().unwrap(), "fd77:6566::1".parse().unwrap()];
        for (resolvers, of_host, text) in [
            (&both[..1], "", "nameserver 169.254.1.1\noptions ndots:0\n"),
            (&both[..], "", "nameserver 169.254.1.1\nnameserver fd77:6566::1\noptions ndots:0\n"),
            (
                &both[1..],
                "# search x\nnameserver 192.0.2.1\ndomain old.example\nsearch a.example b.example \noptions ndots:5\n",
                "nameserver fd77:6566::1\nsearch a.example b.example\noptions ndots:0\n",
            ),
            (&both[1..], "searchlight\n", "nameserver fd77:6566::1\noptions ndots:0\n"),
        ] {
            assert_eq!(resolv_conf(resolvers, of_host), text);
        }
    }
}
