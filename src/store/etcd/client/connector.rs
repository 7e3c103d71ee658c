//! How a server is reached.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use crate::tls::{Credentials, TlsStream};

/// One server.
pub(super) enum Reach {
    /// As it is.
    Plain(Endpoint),
    /// The agent of another node, at `host` (`HOST:PORT`).
    Member { endpoint: Endpoint, host: String, credentials: Arc<Credentials> },
}

impl Reach {
    /// A connection to it, made at the first request.
    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Plain(endpoint) => endpoint.connect_lazy(),
            Self::Member { endpoint, host, credentials } => {
                let connector = ToMember { host: host.as_str().into(), credentials: Arc::clone(credentials) };
                endpoint.connect_with_connector_lazy(connector)
            }
        }
    }
}

/// Connects to another node's agent, and to nobody else.
struct ToMember {
    host: Arc<str>,
    credentials: Arc<Credentials>,
}

impl Service<Uri> for ToMember {
    type Response = TokioIo<Spoken>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (host, credentials) = (Arc::clone(&self.host), Arc::clone(&self.credentials));
        Box::pin(async move {
            let stream = TcpStream::connect(&*host).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(Spoken(credentials.connect(stream).await?)))
        })
    }
}

/// A connection whose end is told in words for people: an agent that is killed does not say goodbye in TLS' way.
struct Spoken(TlsStream);

impl AsyncRead for Spoken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it closed the connection"),
            _ => error,
        })
    }
}

impl AsyncWrite for Spoken {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
