//! Streams that keep the reason why they broke: HTTP/2's layers say that the connection was closed and not why.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::tls::{Outside, TlsStream};

/// Why the last connection to a server broke, as far as the layers above would not tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    /// What there is to tell, once.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// TLS. With 1.3 a server looks at our certificate after the handshake is over for us; and one that is killed does not say goodbye
/// in TLS' way.
pub(super) struct Telling {
    stream: TlsStream,
    outside: Option<(Outside, String)>,
    fault: Fault,
}

impl Telling {
    /// To another node.
    pub(super) fn to_member(stream: TlsStream) -> Self {
        Self { stream, outside: None, fault: Fault::default() }
    }

    /// To the server `name`.
    pub(super) fn to_outside(stream: TlsStream, outside: Outside, name: String, fault: Fault) -> Self {
        Self { stream, outside: Some((outside, name)), fault }
    }
}

impl AsyncRead for Telling {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        polled.map_err(|error| match (error.kind(), &self.outside) {
            (io::ErrorKind::UnexpectedEof, _) => io::Error::new(error.kind(), "it closed the connection"),
            (_, None) => error,
            (_, Some((outside, name))) => {
                let error = outside.plain(name, error);
                self.fault.set(format!("{name}: {error}"));
                error
            }
        })
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
            fault.set("it hung up without a word; if it speaks TLS, say tls=true or ca=PATH".to_owned());
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        self.judge(read.is_err() || into.filled().len() == before);
        self.fault = None;
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
