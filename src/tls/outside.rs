//! Connections to servers that are not ours: an etcd or a Consul with certificates of its own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::{TlsError, TlsStream, explain::explain};

/// Where the certificates lie, PEM (RFC 7468).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutsideFiles {
    /// The authorities that may have signed the server's certificate; without it the host's own are taken.
    pub ca: Option<PathBuf>,
    /// What we show, and its key.
    pub shown: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, where it is not that of the host which was asked.
    pub server_name: Option<String>,
}

/// How to speak TLS 1.2 or 1.3 to one outside service.
#[derive(Clone)]
pub struct Outside {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
    /// Whether we have a certificate to show.
    shows: bool,
}

impl Outside {
    /// Reads the files. `protocol` is what is spoken inside (ALPN, RFC 7301), such as `h2`.
    ///
    /// Fails if a file cannot be read, holds no certificate or key, or if certificate and key do not belong together; the error
    /// names the file.
    pub fn new(files: &OutsideFiles, protocol: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &files.ca {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, &error.to_string()))?;
            }
        } else {
            // What of them cannot be used is no reason to refuse the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::Unusable(
                    "this host has no list of certificate authorities: name one with ca=PATH, or install ca-certificates"
                        .to_owned(),
                ));
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &files.shown {
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error.to_string()))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, private)
                    .map_err(|error| wrong(certificate, &format!("does not go with {}: {error}", key.display())))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self { config: Arc::new(config), server_name: files.server_name.clone(), shows: files.shown.is_some() })
    }

    /// Shakes hands over `stream`; `host` is what was asked for, a name or an address without brackets. A refusal's error says in plain
    /// words why.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let shaken = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await;
        shaken.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                io::Error::new(error.kind(), format!("it does not speak TLS, or hung up: {error}"))
            }
            _ => self.plain(host, error),
        })
    }

    /// An error of a stream in plain words. With TLS 1.3 a server looks at our certificate after the handshake is over for us, so that
    /// its refusal is what is read first.
    pub fn plain(&self, host: &str, error: io::Error) -> io::Error {
        match explain(&error, self.server_name.as_deref().unwrap_or(host), self.shows) {
            Some(text) => io::Error::new(error.kind(), text),
            None => error,
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, &error.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(path, &error.to_string()))?;
    if found.is_empty() { Err(wrong(path, "holds no certificate")) } else { Ok(found) }
}

fn wrong(path: &Path, reason: &str) -> TlsError {
    TlsError::File { path: path.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_are_wrong_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(place("cert.pem"), made.pem()).unwrap();
        fs::write(place("key.pem"), key.serialize_pem()).unwrap();
        fs::write(place("other.pem"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        fs::write(place("empty.pem"), "").unwrap();
        for (ca, shown, named) in [
            ("cert.pem", None, None),
            ("cert.pem", Some("key.pem"), None),
            ("missing.pem", None, Some("missing.pem")),
            ("empty.pem", None, Some("empty.pem")),
            ("key.pem", None, Some("key.pem")),
            ("cert.pem", Some("missing.pem"), Some("missing.pem")),
            ("cert.pem", Some("cert.pem"), Some("cert.pem")),
            ("cert.pem", Some("other.pem"), Some("other.pem")),
        ] {
            let shown = shown.map(|key| (place("cert.pem"), place(key)));
            let files = OutsideFiles { ca: Some(place(ca)), shown, server_name: None };
            let refused = Outside::new(&files, b"h2").err().map(|error| error.to_string());
            match named {
                Some(named) => assert!(refused.as_ref().is_some_and(|text| text.contains(named)), "{ca}: {refused:?}"),
                None => assert_eq!(refused, None, "{ca}"),
            }
        }
    }
}
