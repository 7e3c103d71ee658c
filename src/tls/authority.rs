//! The cluster's own certificate authority.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use sha2::Sha256;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::TlsError;

/// How long a node's certificate is good for. Long beside any outage of a whole cluster, short enough that renewal, which a
/// cluster lives by, is seen to work.
const LIFETIME: Duration = Duration::from_hours(24 * 90);

/// How long before its making a certificate begins: so far may the hosts' clocks be apart.
const BACKDATED: Duration = Duration::from_hours(24);

/// What a node is called in its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    /// The cluster's id. Nodes ask each other for `node.ID.weft`, whatever the address that they have reached.
    pub cluster: String,
    /// The node's own name.
    pub node: String,
    /// The address at which the others reach it, for programs that check addresses, such as `etcdctl`.
    pub underlay: IpAddr,
}

impl NodeNames {
    /// What every node of the cluster answers to.
    pub(super) fn of_any_node(&self) -> String {
        format!("node.{}.weft", self.cluster)
    }
}

/// A certificate, and when it is good.
pub(super) struct Signed {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// A certificate authority with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// A new one, with a P-256 key.
    pub fn make(cluster: &str) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("weft cluster {cluster}"));
        // It ends when the cluster does. These are the bounds of the format (RFC 5280, 4.1.2.5): no clock is too slow for it.
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial_number()?);
        let certificate = params.self_signed(&key).map_err(unusable)?.der().clone();
        Ok(Self { certificate, key })
    }

    /// One that was made before. Fails if the two do not go together.
    pub fn from_der(certificate: Vec<u8>, key: &[u8]) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::try_from(key).map_err(unusable)?;
        let key = KeyPair::try_from(&key).map_err(unusable)?;
        Self::of(CertificateDer::from(certificate), key)
    }

    /// As [`Self::from_der`], from PEM (RFC 7468).
    pub(super) fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unusable)?;
        Self::of(certificate, KeyPair::from_pem(key).map_err(unusable)?)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, TlsError> {
        let parsed = tokio_rustls::rustls::server::ParsedCertificate::try_from(&certificate).map_err(unusable)?;
        if parsed.subject_public_key_info().as_ref() != key.subject_public_key_info() {
            return Err(TlsError::Unusable("the authority's key is not that of its certificate".to_owned()));
        }
        drop(parsed);
        Ok(Self { certificate, key })
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, PEM.
    pub(super) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Its key, PKCS #8 in DER: whoever has it can make certificates for this cluster.
    pub fn key(&self) -> &[u8] {
        self.key.serialized_der()
    }

    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// 32 bytes that only those know who have its key, another 32 for every purpose (HMAC-SHA256, RFC 2104).
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        // A key of any length is fine for HMAC, so this cannot fail.
        let mac = Hmac::<Sha256>::new_from_slice(self.key());
        let mut mac = mac.unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// A certificate for whoever has the key pair of `public`, good from now on.
    pub(super) fn sign(
        &self,
        public: &impl PublicKeyData,
        names: &NodeNames,
        now: SystemTime,
    ) -> Result<Signed, TlsError> {
        let (not_before, not_after) = validity(now);
        let dns = |name: String| name.try_into().map(SanType::DnsName).map_err(unusable);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, names.node.clone());
        params.subject_alt_names = vec![
            dns(names.of_any_node())?,
            dns(names.node.clone())?,
            SanType::IpAddress(names.underlay),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(not_before);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial_number()?);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(unusable)?;
        let signed = params.signed_by(public, &issuer).map_err(unusable)?;
        Ok(Signed { der: signed.der().clone(), pem: signed.pem(), not_before, not_after })
    }
}

/// Never the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// When a certificate made now begins and ends.
fn validity(now: SystemTime) -> (SystemTime, SystemTime) {
    (now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH), now + LIFETIME)
}

/// When a certificate is to be renewed: after two thirds of its life.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life / 3 * 2
}

/// Whether a certificate is to be renewed now. So it is before its beginning: the clock has been set back since, and for others
/// it may never become good.
pub(super) fn is_due(now: SystemTime, not_before: SystemTime, not_after: SystemTime) -> bool {
    now < not_before || now >= renew_at(not_before, not_after)
}

/// A clock before 1970 is as wrong as one at 1970.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Random, for an authority gives each number once (RFC 5280, 4.1.2.2): at most 20 octets, and positive.
fn serial_number() -> Result<SerialNumber, TlsError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(unusable)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    // Lines of 64 characters (RFC 7468, 2).
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(super) fn unusable(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn day(number: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * number
    }

    #[test]
    fn a_certificate_is_renewed_well_before_its_end() {
        let (from, to) = validity(day(1000));
        assert_eq!((from, to), (day(999), day(1090)));
        assert_eq!(renew_at(day(0), day(90)), day(60));
        for (now, due) in
            [(0, true), (998, true), (999, false), (1000, false), (1059, false), (1060, true), (2000, true)]
        {
            assert_eq!(is_due(day(now), from, to), due, "day {now}");
        }
    }

    proptest! {
        #[test]
        fn what_was_just_made_is_good_and_not_due(seconds in 0_u64..1 << 33) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let (from, to) = validity(now);
            prop_assert!(from <= now && !is_due(now, from, to));
            let at = renew_at(from, to);
            prop_assert!(now < at && at + DAY * 20 < to);
            prop_assert!(is_due(at, from, to) && is_due(to, from, to));
        }
    }

    #[test]
    fn an_authority_reads_back_and_another_key_does_not_go_with_it() {
        let [one, other] = [Authority::make("one").unwrap(), Authority::make("other").unwrap()];
        let again = Authority::from_der(one.certificate().to_vec(), one.key()).unwrap();
        assert_eq!(again.derive("a"), one.derive("a"));
        assert_ne!(one.derive("a"), one.derive("b"));
        assert_ne!(one.derive("a"), other.derive("a"));
        let again = Authority::from_pem(&one.certificate_pem(), &one.key_pem()).unwrap();
        assert_eq!((again.certificate(), again.key()), (one.certificate(), one.key()));
        for (certificate, key) in [
            (one.certificate().to_vec(), other.key()),
            (one.certificate().to_vec(), &[][..]),
            (vec![], one.key()),
            (vec![0x30; 40], one.key()),
        ] {
            assert!(Authority::from_der(certificate, key).is_err());
        }
        assert_eq!(format!("{one:?}"), "Authority");
    }
}
