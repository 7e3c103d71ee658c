//! Streams that keep the reason why they broke: HTTP/2's layers say that the connection was closed and not why.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::tls::{Outside, TlsStream};

/// How long a server's first word may take. It costs a connection to a server that waits for ours as much.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_millis(300);

/// The most of it that is kept: etcd's has some dozen bytes.
const FIRST_BYTES_MAX: usize = 1024;

/// Why the last connection to a server broke, as far as the layers above would not tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    /// What there is to tell, until a connection comes up.
    pub(super) fn told(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// TLS. With 1.3 a server looks at our certificate after the handshake is over for us; and one that is killed does not say goodbye
/// in TLS' way.
pub(super) struct Telling {
    stream: TlsStream,
    outside: Option<(Outside, String)>,
    fault: Fault,
    /// What was read and not yet handed on.
    first: Vec<u8>,
}

impl Telling {
    /// To another node.
    pub(super) fn to_member(stream: TlsStream) -> Self {
        Self { stream, outside: None, fault: Fault::default(), first: Vec::new() }
    }

    /// To the server `name`, when it has said its first word: etcd begins by itself, and one that refuses our certificate says so then.
    /// Were we to write first, the reset that follows a refusal could take it away unread.
    pub(super) async fn to_outside(
        stream: TlsStream,
        outside: Outside,
        name: String,
        fault: Fault,
    ) -> io::Result<Self> {
        let mut telling = Self { stream, outside: Some((outside, name)), fault, first: Vec::new() };
        let mut first = [0; FIRST_BYTES_MAX];
        match timeout(FIRST_WORD_TIMEOUT, telling.stream.read(&mut first)).await {
            Ok(Ok(0)) => Err(telling.judge(io::ErrorKind::UnexpectedEof.into())),
            Ok(Ok(count)) => {
                telling.fault.set(None);
                telling.first.extend_from_slice(&first[..count]);
                Ok(telling)
            }
            Ok(Err(error)) => Err(telling.judge(error)),
            // Another one may wait for ours.
            Err(_) => Ok(telling),
        }
    }

    fn judge(&self, error: io::Error) -> io::Error {
        match (error.kind(), &self.outside) {
            (io::ErrorKind::UnexpectedEof, _) => io::Error::new(error.kind(), "it closed the connection"),
            (_, None) => error,
            (_, Some((outside, name))) => {
                let error = outside.plain(name, error);
                self.fault.set(Some(format!("{name}: {error}")));
                error
            }
        }
    }
}

impl AsyncRead for Telling {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(into.remaining());
            into.put_slice(&self.first[..count]);
            self.first.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into).map_err(|error| self.judge(error))
    }
}

/// No TLS. A server that wants it hangs up at our first word.
pub(super) struct Plain {
    stream: TcpStream,
    /// Until something was read.
    fault: Option<Fault>,
}

impl Plain {
    pub(super) fn new(stream: TcpStream, fault: Fault) -> Self {
        Self { stream, fault: Some(fault) }
    }

    fn judge(&self, has_ended: bool) {
        if let (true, Some(fault)) = (has_ended, &self.fault) {
            fault.set(Some("it hung up without a word; if it speaks TLS, say tls=true or ca=PATH".to_owned()));
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        let has_ended = read.is_err() || into.filled().len() == before;
        self.judge(has_ended);
        if let (false, Some(fault)) = (has_ended, self.fault.take()) {
            fault.set(None);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Telling {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.judge(written.is_err());
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
