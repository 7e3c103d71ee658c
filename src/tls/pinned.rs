//! The first connection to a cluster, of which nothing is known but a digest of its authority's certificate.

use std::{fmt, io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::{
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_cert_signed_by_trust_anchor,
        },
        crypto::{CryptoProvider, ring, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::ParsedCertificate,
        version::TLS13,
    },
};

use super::TlsStream;

/// Why no such connection came about.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// What answers belongs to another authority.
    #[error("its certificates are not of the authority that was asked for")]
    OtherAuthority,
    /// It has a certificate of that authority which is no good.
    #[error("its certificate is no good: {0}")]
    Certificate(String),
    /// It speaks no TLS, or broke off.
    #[error("no TLS 1.3 there: {0}")]
    NotTls(String),
}

/// Says of an authority's certificate (DER) whether it is the one that is meant.
pub type Pin = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Shakes hands over `stream` with whoever has a certificate of the authority that `pin` means, by whichever name.
pub async fn connect_pinned(stream: TcpStream, pin: Pin) -> Result<TlsStream, PinError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { pin, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let config = config.map_err(|error| PinError::NotTls(error.to_string()))?;
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("node.weft").map_err(|error| PinError::NotTls(error.to_string()))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| explained(&error))
}

fn explained(error: &io::Error) -> PinError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => PinError::OtherAuthority,
        Some(Error::InvalidCertificate(reason)) => PinError::Certificate(reason.to_string()),
        Some(other) => PinError::NotTls(other.to_string()),
        None => PinError::NotTls(error.to_string()),
    }
}

struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| (self.pin)(certificate));
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let shown = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&shown, &roots, &[], now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::tls::{Authority, KeyPair, NodeNames};

    #[test]
    fn a_member_is_known_by_its_authority_and_by_a_good_certificate() {
        let day = Duration::from_hours(24);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let (meant, other) = (Authority::make("7").unwrap(), Authority::make("7").unwrap());
        let names = NodeNames { cluster: "7".into(), node: "a".into(), underlay: "192.0.2.1".parse().unwrap() };
        let key = KeyPair::make().unwrap();
        let signed = |by: &Authority| by.sign(&key.0, &names, SystemTime::now()).unwrap().der;
        let (good, strange) = (signed(&meant), signed(&other));
        let pinned = meant.certificate().clone();
        let verifier = Pinned {
            pin: Arc::new(move |certificate| certificate == &*pinned),
            provider: Arc::new(ring::default_provider()),
        };
        let (meant, other) = (meant.certificate(), other.certificate());
        for (what, end_entity, chain, at, expected) in [
            ("good", &good, vec![meant], now, None),
            ("good, with another before", &good, vec![other, meant], now, None),
            ("too late", &good, vec![meant], now + day * 91, Some("expired")),
            ("too early", &good, vec![meant], now.saturating_sub(day * 2), Some("not valid yet")),
            ("another's", &strange, vec![other], now, Some("UnknownIssuer")),
            ("another's beside ours", &strange, vec![meant], now, Some("BadSignature")),
            ("no authority", &good, vec![], now, Some("UnknownIssuer")),
            ("the authority itself", meant, vec![meant], now, Some("CaUsedAsEndEntity")),
        ] {
            let chain: Vec<_> = chain.into_iter().cloned().collect();
            let name = ServerName::try_from("node.weft").unwrap();
            let at = UnixTime::since_unix_epoch(at);
            let told = verifier.verify_server_cert(end_entity, &chain, &name, &[], at).err();
            let told = told.map(|error| error.to_string());
            match expected {
                None => assert_eq!(told, None, "{what}"),
                Some(words) => assert!(told.as_ref().is_some_and(|told| told.contains(words)), "{what}: {told:?}"),
            }
        }
    }
}
