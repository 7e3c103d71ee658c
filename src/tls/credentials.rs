//! What a node shows to others, and whom it takes for a node.

use std::{
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
        client::{ResolvesClientCert, Resumption},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
        sign::{CertifiedKey, SigningKey},
        version::TLS13,
    },
};

use super::{
    TlsError, TlsStream,
    authority::{Authority, NodeNames, Signed, is_due, unusable},
};
use crate::model::Fingerprint;

/// What is spoken inside, for both sides to agree on (ALPN, RFC 7301): gRPC is HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// A node's key pair.
pub struct KeyPair(pub(super) rcgen::KeyPair);

impl KeyPair {
    /// A new one, P-256.
    pub fn make() -> Result<Self, TlsError> {
        rcgen::KeyPair::generate().map(Self).map_err(unusable)
    }

    /// Which one it is.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.0.subject_public_key_info()).into())
    }
}

/// Never the key.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.fingerprint())
    }
}

/// A node's key pair and certificate, and the authority that it trusts. One value for the life of a membership: connections
/// that begin after a renewal show the new certificate.
pub struct Credentials {
    showing: Arc<Showing>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    server_name: ServerName<'static>,
}

/// What is shown, for rustls to ask at each handshake.
struct Showing {
    authority: Authority,
    names: NodeNames,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    shown: RwLock<Shown>,
}

struct Shown {
    signed: Signed,
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    /// Those of a node with a new key pair.
    pub fn make(authority: Authority, names: NodeNames, now: SystemTime) -> Result<Self, TlsError> {
        Self::of(authority, names, KeyPair::make()?, now)
    }

    /// As [`Self::make`] with a key pair that was made before. There is always a fresh certificate: to make one costs less than
    /// to understand an old one.
    pub fn of(authority: Authority, names: NodeNames, key: KeyPair, now: SystemTime) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let private = PrivateKeyDer::try_from(key.0.serialize_der()).map_err(unusable)?;
        let signing = provider.key_provider.load_private_key(private).map_err(unusable)?;
        let server_name = ServerName::try_from(names.of_any_node()).map_err(unusable)?;
        let shown = RwLock::new(Shown::make(&authority, &names, &key, &signing, now)?);
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).map_err(unusable)?;
        let showing = Arc::new(Showing { authority, names, key, signing, shown });
        let client = client_config(&provider, roots.clone(), &showing)?;
        let server = server_config(provider, roots, &showing)?;
        Ok(Self { showing, client: Arc::new(client), server: Arc::new(server), server_name })
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.showing.authority
    }

    /// Which key pair this node has.
    pub fn fingerprint(&self) -> Fingerprint {
        self.showing.key.fingerprint()
    }

    /// Takes a new certificate if it is time, with the same key pair; says whether it has.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, TlsError> {
        self.showing.renew_if_due(now)
    }

    /// When the certificate ends.
    pub fn good_until(&self) -> SystemTime {
        self.showing.shown.read().unwrap_or_else(PoisonError::into_inner).signed.not_after
    }

    /// The certificate, PEM.
    pub(super) fn certificate_pem(&self) -> String {
        self.showing.shown.read().unwrap_or_else(PoisonError::into_inner).signed.pem.clone()
    }

    pub(super) fn key_pem(&self) -> String {
        self.showing.key.0.serialize_pem()
    }

    /// Shakes hands with a member of the cluster over `stream`.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream> {
        TlsConnector::from(Arc::clone(&self.client)).connect(self.server_name.clone(), stream).await
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.server))
    }
}

/// Never the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.fingerprint())
    }
}

/// Which key pair the holder of a certificate has.
pub(super) fn fingerprint_of(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(Fingerprint(Sha256::digest(parsed.subject_public_key_info().as_ref()).into()))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
    showing: &Arc<Showing>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::clone(showing) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_config(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    showing: &Arc<Showing>,
) -> Result<ServerConfig, TlsError> {
    // Who shows nothing may ask to join; what else he may not is for whoever answers him to say.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(showing) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A session that is resumed shows no certificate: every connection is to be a fresh look.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl Shown {
    fn make(
        authority: &Authority,
        names: &NodeNames,
        key: &KeyPair,
        signing: &Arc<dyn SigningKey>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let signed = authority.sign(&key.0, names, now)?;
        // With the authority's own: a joining node knows nothing of it but its digest.
        let chain = vec![signed.der.clone(), authority.certificate().clone()];
        Ok(Self { signed, certified: Arc::new(CertifiedKey::new(chain, Arc::clone(signing))) })
    }
}

impl Showing {
    fn renew_if_due(&self, now: SystemTime) -> Result<bool, TlsError> {
        {
            let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
            if !is_due(now, shown.signed.not_before, shown.signed.not_after) {
                return Ok(false);
            }
        }
        let renewed = Shown::make(&self.authority, &self.names, &self.key, &self.signing, now)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(true)
    }

    /// What is shown now. It is looked at here as well, and not by a timer alone: the wall clock may have just been set.
    fn current(&self) -> Arc<CertifiedKey> {
        // Where there is none to be made, the old one may still do.
        let _ = self.renew_if_due(SystemTime::now());
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner).certified)
    }
}

impl fmt::Debug for Showing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Showing")
    }
}

impl ResolvesServerCert for Showing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Showing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
