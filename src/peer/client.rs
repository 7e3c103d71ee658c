use std::{net::Ipv6Addr, time::Duration};

use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    JoinError,
    messages::{HelloReply, HelloRequest, JoinReply, JoinRequest},
    token::{Role, Token},
};

/// How long a member may take to answer: a person waits, and a reachable host answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a joining node learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The cluster's key.
    pub cluster_key: Vec<u8>,
    /// The store's URL.
    pub store_url: String,
}

/// Asks the member at `address` (`HOST:PORT`) to be let in by `token`. Changes nothing on either side.
pub async fn join(address: &str, token: &Token) -> Result<Admitted, JoinError> {
    check_address(address)?;
    let unreachable = |reason: String| JoinError::Unreachable { address: address.to_owned(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unreachable(format!("not a HOST:PORT ({error})")))?
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| unreachable(root_cause(&error)))?;
    let mut member = Grpc::new(channel);
    let refused = |status: &Status| match status.code() {
        Code::PermissionDenied => JoinError::WrongSecret { address: address.to_owned() },
        Code::Unimplemented => {
            JoinError::Refused { address: address.to_owned(), reason: "it is not a weft agent".to_owned() }
        }
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
            unreachable(status.message().to_owned())
        }
        _ => JoinError::Refused { address: address.to_owned(), reason: status.message().to_owned() },
    };

    let mut joiner_nonce = vec![0; 32];
    getrandom::fill(&mut joiner_nonce).map_err(|error| unreachable(format!("no random numbers: {error}")))?;
    let hello = HelloRequest { joiner_nonce: joiner_nonce.clone() };
    let hello: HelloReply =
        call(&mut member, "/weft.v1.Membership/Hello", hello).await.map_err(|status| refused(&status))?;
    if !token.names(&hello.cluster_key) {
        return Err(JoinError::OtherCluster { address: address.to_owned() });
    }
    let said: [&[u8]; 3] = [&joiner_nonce, &hello.member_nonce, &hello.cluster_key];
    if !token.verify(Role::Member, &said, &hello.proof) {
        return Err(JoinError::WrongSecret { address: address.to_owned() });
    }
    let proof = token.prove(Role::Joiner, &said);
    let request = JoinRequest { joiner_nonce, member_nonce: hello.member_nonce, proof };
    let reply: JoinReply =
        call(&mut member, "/weft.v1.Membership/Join", request).await.map_err(|status| refused(&status))?;
    Ok(Admitted { cluster_key: hello.cluster_key, store_url: reply.store_url })
}

/// Whether a node could be asked at `address` at all.
pub fn check_address(address: &str) -> Result<(), JoinError> {
    if is_host_and_port(address) { Ok(()) } else { Err(JoinError::NoAddress { address: address.to_owned() }) }
}

/// A name or an address (RFC 3986, 3.2.2: of IPv6 in brackets), a colon and a port.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    is_host && is_number && port.parse::<u16>().is_ok_and(|port| port != 0)
}

async fn call<Req, Reply>(member: &mut Grpc<Channel>, path: &'static str, request: Req) -> Result<Reply, Status>
where
    Req: prost::Message + 'static,
    Reply: prost::Message + Default + 'static,
{
    member.ready().await.map_err(|error| Status::unavailable(root_cause(&error)))?;
    let path = PathAndQuery::from_static(path);
    Ok(member.unary(Request::new(request), path, ProstCodec::default()).await?.into_inner())
}

/// The innermost reason: `Connection refused` says more than `transport error`.
fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, accepted) in [
            ("192.0.2.1:7780", true),
            ("node-1.example:7780", true),
            ("[2001:db8::1]:7780", true),
            ("192.0.2.1", false),
            ("192.0.2.1:", false),
            (":7780", false),
            ("192.0.2.1:0", false),
            ("192.0.2.1:+1", false),
            ("192.0.2.1:65536", false),
            ("2001:db8::1", false),
            ("[node]:7780", false),
            ("http://192.0.2.1:7780", false),
            ("etcd://192.0.2.1:7780", false),
            ("192.0.2.1:7780/", false),
        ] {
            assert_eq!(is_host_and_port(text), accepted, "{text}");
        }
    }
}
