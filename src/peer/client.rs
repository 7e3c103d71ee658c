use std::{
    io,
    net::Ipv6Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::{
        Service,
        http::{Uri, uri::PathAndQuery},
    },
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Admission, JoinError, Token,
    messages::{JoinReply, JoinRequest},
};
use crate::{
    model::{Fingerprint, Name},
    tls::{PinError, TlsStream, connect_pinned},
};

/// How long a member may take for each of connecting, shaking hands and answering: a person waits, and a reachable host answers
/// within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the member at `address` (`HOST:PORT`) to be let in by `token`, as `name` with the key pair of `fingerprint`. Changes
/// nothing on this side.
pub async fn join(address: &str, token: &Token, fingerprint: Fingerprint, name: &Name) -> Result<Admission, JoinError> {
    check_address(address)?;
    let stream = connect(address, token).await?;
    let unreachable = |reason: String| JoinError::Unreachable { address: address.to_owned(), reason };
    // The connection is there; the name is not asked for.
    let endpoint = Endpoint::from_static("http://node.weft").timeout(TIMEOUT);
    let channel = endpoint.connect_with_connector(Once(Some(stream))).await;
    let mut member = Grpc::new(channel.map_err(|error| unreachable(root_cause(&error)))?);
    let refused = |status: &Status| match status.code() {
        Code::PermissionDenied => JoinError::WrongSecret { address: address.to_owned() },
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
            unreachable(status.message().to_owned())
        }
        _ => JoinError::Refused { address: address.to_owned(), reason: status.message().to_owned() },
    };
    let request = JoinRequest {
        secret: token.secret().bytes().to_vec(),
        fingerprint: fingerprint.0.to_vec(),
        name: name.to_string(),
    };
    let reply: JoinReply =
        call(&mut member, "/weft.v1.Membership/Join", request).await.map_err(|status| refused(&status))?;
    let JoinReply { cluster, certificate, key, store_url, files } = reply;
    if !token.names(&certificate) {
        let reason = "it handed over another cluster's authority".to_owned();
        return Err(JoinError::Refused { address: address.to_owned(), reason });
    }
    let files = files.into_iter().map(|file| (file.option, file.contents)).collect();
    Ok(Admission { cluster, certificate, key, store_url, files })
}

/// A connection to a member of the token's cluster, and to nobody else.
async fn connect(address: &str, token: &Token) -> Result<TlsStream, JoinError> {
    let owned = || address.to_owned();
    let unreachable = |reason: String| JoinError::Unreachable { address: owned(), reason };
    let late = || format!("no answer within {} s", TIMEOUT.as_secs());
    let stream = timeout(TIMEOUT, TcpStream::connect(address)).await.map_err(|_| unreachable(late()))?;
    let stream = stream.map_err(|error| unreachable(error.to_string()))?;
    let pin = {
        let token = token.clone();
        Arc::new(move |certificate: &[u8]| token.names(certificate))
    };
    let shaken = timeout(TIMEOUT, connect_pinned(stream, pin)).await;
    shaken.map_err(|_| JoinError::NotWeft { address: owned(), reason: late() })?.map_err(|error| match error {
        PinError::OtherAuthority => JoinError::OtherCluster { address: owned() },
        PinError::Certificate(reason) => JoinError::BadCertificate { address: owned(), reason },
        PinError::NotTls(reason) => JoinError::NotWeft { address: owned(), reason },
    })
}

/// Gives out the one connection that there is.
struct Once(Option<TlsStream>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::ConnectionAborted.into());
        Box::pin(std::future::ready(stream))
    }
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
